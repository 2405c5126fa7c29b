"""Building blocks of all networks: layers of exact length and unit gain, and masks that make padding invisible.

**Lengths.** Strided layers have kernel 2s and stride s. ``s`` zeros of padding, ``s // 2`` of them in front, make a
strided convolution divide its length by s exactly, and the same crop makes a transposed one multiply it exactly.
Deviation: the paper pads ``s // 2`` on both sides, which for odd s loses a frame down and gains a sample up.

**Start.** An untrained network passes the signal on and adds nothing of its own:

    weight ~ N(0, gain^2 / fan_in), bias = 0;  the last layer of a residual branch at a tenth of that

torch's default draws weights of gain 1 / sqrt(3) and biases of 1 / sqrt(fan_in): over a deep stack the signal fades and
the biases stay, so that latents tell where zero padding begins, which is the place of a frame in its clip, and hardly
anything of the speech. Deviation from the paper, whose code leaves torch's default.

**Masks.** A clip is zero-padded to a whole number of frames, so at every depth its valid length is ``num_frames`` times
the remaining stride, and one mask over frames gives the mask at every rate. A layer that looks at neighbours gets its
input with the invalid positions set to zero, exactly as if the clip ended there.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import TypeVar, cast

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Inexact, Int
from torch import Tensor, nn

from syllabary.model.autograd import dilated_conv, masked_leaky_relu, prefers_products

Layer = TypeVar("Layer", bound=nn.Conv1d | nn.Linear)
LEAKY_GAIN = math.sqrt(2 / (1 + 0.1**2))  # He et al. 2015, for leaky ReLU of slope 0.1
SNAKE_GAIN = 0.88  # 1 / sqrt(E[snake(x)^2]) for a standard normal x and alpha 1
BRANCH_GAIN = 0.1
LEAKY_SLOPE = 0.1
_ALPHA_FLOOR = 0.01
_MAX_INVERSE_ALPHA = 10.0


def unit_gain(layer: Layer, gain: float = 1.0) -> Layer:
    """Let the layer keep the variance of its input, times ``gain`` squared; returns the layer."""
    fan_in = layer.weight[0].numel()
    nn.init.normal_(layer.weight, std=gain / math.sqrt(fan_in))
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer


def branch_end(layer: Layer) -> Layer:
    """The last layer of a residual branch: it starts small, so that the block starts near the identity."""
    return unit_gain(layer, BRANCH_GAIN)


def valid_mask(lengths: Int[Tensor, "batch"], max_length: int, device: torch.device) -> Bool[Tensor, "batch length"]:
    """True at the first ``lengths[b]`` of ``max_length`` positions."""
    return torch.arange(max_length, device=device) < on_device(lengths, device)[:, None]


def on_device(lengths: Int[Tensor, "batch"], device: torch.device) -> Int[Tensor, "batch"]:
    """Lengths on the device that computes with them.

    Equal ones are made there: a copy from the CPU makes a GPU's queue wait, and no CUDA graph can hold one.
    """
    if lengths.device.type == "cpu" != device.type and len(lengths) and bool((lengths == lengths[0]).all()):
        return torch.full_like(lengths, int(lengths[0]), device=device)
    return lengths.to(device)


def frame_mask(
    num_frames: Int[Tensor, "batch"], max_frames: int, device: torch.device
) -> Bool[Tensor, "batch frames"] | None:
    """True at valid frames, or None when every clip is ``max_frames`` long and nothing needs masking.

    Keep ``num_frames`` on the CPU: the question is asked of its values.
    """
    if bool((num_frames == max_frames).all()):
        return None
    return valid_mask(num_frames, max_frames, device)


def stretch(mask: Bool[Tensor, "batch frames"] | None, factor: int) -> Bool[Tensor, "batch positions"] | None:
    """The mask of a rate ``factor`` times the frame rate."""
    return mask if mask is None or factor == 1 else mask.repeat_interleave(factor, dim=-1)


def zero_invalid(
    x: Inexact[Tensor, "batch dim positions"], mask: Bool[Tensor, "batch positions"] | None
) -> Inexact[Tensor, "batch dim positions"]:
    """``x`` with zeros at invalid positions (``x`` itself when mask is None)."""
    return x if mask is None else x.masked_fill(~mask[:, None, :], 0.0)


def masked_mean(x: Float[Tensor, "*any"], mask: Bool[Tensor, "*any"] | None) -> Float[Tensor, ""]:
    """Mean over the True positions; 0 when there is none."""
    if mask is None:
        return x.mean()
    return x.masked_fill(~mask, 0.0).sum() / mask.sum().clamp(min=1)


def over_clips(terms: Float[Tensor, "batch"], num_samples: Int[Tensor, "batch"]) -> Float[Tensor, ""]:
    """Mean over clips, weighted by their samples."""
    weights = on_device(num_samples, terms.device).to(terms.dtype)
    return (terms * weights).sum() / weights.sum().clamp(min=1)


def full_precision(device: torch.device) -> AbstractContextManager[object]:
    """Keep fp32 within the block whatever the training precision, as DAAM, FSQ and spectra need it.

    Autocast is off there; devices without it, such as meta, have nothing to turn off.
    """
    if torch.amp.is_autocast_available(device.type):
        return torch.autocast(device.type, enabled=False)
    return contextlib.nullcontext()


class SnakeBeta(nn.Module):
    """x + sin^2(alpha x) / alpha with alpha = softplus(raw) + 0.01 a channel, 1/alpha at most 10 (PAPER stage 1)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        starts_at_one = math.log(math.expm1(1 - _ALPHA_FLOOR))
        self.raw_alpha = nn.Parameter(torch.full((channels,), starts_at_one))

    def forward(self, x: Float[Tensor, "batch channels positions"]) -> Float[Tensor, "batch channels positions"]:
        """Elementwise; maps 0 to 0."""
        alpha, inverse = (c[:, None].to(x.dtype) for c in self.coefficients())
        return x + torch.sin(alpha * x).square() * inverse

    def coefficients(self) -> tuple[Float[Tensor, "channels"], Float[Tensor, "channels"]]:
        """alpha and the capped 1 / alpha."""
        alpha = F.softplus(self.raw_alpha) + _ALPHA_FLOOR
        return alpha, (1 / alpha).clamp(max=_MAX_INVERSE_ALPHA)


class SameConv1d(nn.Conv1d):
    """Odd kernel, stride 1, zero padding that keeps the length.

    A tap whose dilation is at least the length sees padding only; it is left out, so that it costs nothing. It gets
    no gradient in training either, which is why nothing longer than the trained window may ever be convolved whole.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel: int, dilation: int = 1) -> None:
        assert kernel % 2 == 1, f"kernel {kernel} is even"
        super().__init__(in_channels, out_channels, kernel, dilation=dilation)
        unit_gain(self)

    def forward(self, input: Float[Tensor, "batch inc positions"]) -> Float[Tensor, "batch outc positions"]:
        """Convolve the whole length; invalid positions must already be zero."""
        weight = self.live_weight(input.shape[-1])
        if prefers_products(input, self.dilation[0]) and self.bias is not None:
            return dilated_conv(input, weight, self.bias, self.dilation[0])
        padding = weight.shape[-1] // 2 * self.dilation[0]
        return F.conv1d(input, weight, self.bias, padding=padding, dilation=self.dilation)

    def live_weight(self, positions: int) -> Float[Tensor, "outc inc taps"]:
        """The taps that see something of an input of so many positions: an odd number around the centre."""
        centre = self.kernel_size[0] // 2
        reach = min(centre, (positions - 1) // self.dilation[0])
        return self.weight[..., centre - reach : centre + reach + 1]


def is_wrong_in_bf16(weight: Float[Tensor, "outc inc kernel"]) -> bool:
    """Whether oneDNN's convolution with such a weight is noise in bf16 on a CPU with AMX, as in torch 2.13.

    Of fewer than 16 channels it makes one row of channels and taps; where that is some whole rows of a tile (32 values)
    and more than one, it takes wrong values. Gradients are right. ``small`` and ``tiny_paper`` begin with such a one.
    """
    row = weight.shape[1] * weight.shape[2]
    return weight.shape[1] < 16 and row > 32 and row % 32 == 0


class DownConv1d(nn.Conv1d):
    """Kernel 2s, stride s: length T (a multiple of s) becomes exactly T / s.

    In fp32 on every CPU where bf16 would be wrong on some (:func:`is_wrong_in_bf16`).
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__(in_channels, out_channels, 2 * stride, stride=stride)
        unit_gain(self)

    def forward(self, input: Float[Tensor, "batch inc positions"]) -> Float[Tensor, "batch outc shorter"]:
        """Invalid positions must already be zero."""
        if input.device.type == "cpu" and is_wrong_in_bf16(self.weight):
            with full_precision(input.device):
                return self._shorter(input.float())
        return self._shorter(input)

    def _shorter(self, input: Float[Tensor, "batch inc positions"]) -> Float[Tensor, "batch outc shorter"]:
        stride = self.stride[0]
        front, back = stride // 2, stride - stride // 2
        if front == back:
            return F.conv1d(input, self.weight, self.bias, stride=stride, padding=front)
        return F.conv1d(F.pad(input, (front, back)), self.weight, self.bias, stride=stride)


class UpConv1d(nn.Module):
    """Transposed convolution, kernel 2s, stride s: length T becomes exactly s T.

    Computed as a plain convolution with two taps and s phases, out[ts + j] = W_j x[t] + W_(s+j) x[t-1]: the same sum
    as ``conv_transpose1d``, whose oneDNN kernel gives wrong first samples at the paper's shape with two threads.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        # An output sample is the sum of two taps over all input channels.
        weight = torch.randn(in_channels, out_channels, 2 * stride) / math.sqrt(2 * in_channels)
        self.weight, self.bias = nn.Parameter(weight), nn.Parameter(torch.zeros(out_channels))

    def phase_weight(self) -> Float[Tensor, "phased inc 2"]:
        """The weight [in, out, 2s] as that of a two-tap convolution [s * out, in, 2], phase outermost."""
        inc, outc, _ = self.weight.shape
        later, earlier = self.weight.unflatten(2, (2, self.stride)).unbind(2)
        taps = torch.stack([earlier, later], dim=-1)
        return taps.permute(2, 1, 0, 3).reshape(self.stride * outc, inc, 2)

    def forward(self, x: Float[Tensor, "batch inc positions"]) -> Float[Tensor, "batch outc longer"]:
        """Invalid positions must already be zero."""
        phases = F.conv1d(x, self.phase_weight(), padding=1)
        batch, _, positions = phases.shape
        full = phases.view(batch, self.stride, -1, positions).permute(0, 2, 3, 1).flatten(2)
        front = self.stride // 2
        return full[..., front : front + x.shape[-1] * self.stride] + self.bias[:, None]


class ResidualBlock(nn.Module):
    """For each dilation d: x += conv_1(lrelu(conv_d(lrelu(x)))), with zeros at invalid positions before each conv.

    HiFi-GAN's first kind of residual block (Kong et al. 2020), which the paper's encoder uses too.
    """

    def __init__(self, channels: int, kernel: int, dilations: tuple[int, ...]) -> None:
        super().__init__()
        self.dilated = nn.ModuleList(
            unit_gain(SameConv1d(channels, channels, kernel, d), LEAKY_GAIN) for d in dilations
        )
        self.plain = nn.ModuleList(branch_end(SameConv1d(channels, channels, kernel)) for _ in dilations)

    def forward(
        self, x: Float[Tensor, "batch channels positions"], mask: Bool[Tensor, "batch positions"] | None
    ) -> Float[Tensor, "batch channels positions"]:
        """Shape is kept."""
        for dilated, plain in self.pairs():
            hidden = dilated(_activated(x, mask))
            x = x + plain(_activated(hidden, mask))
        return x

    def pairs(self) -> list[tuple[SameConv1d, SameConv1d]]:
        """Each dilated convolution and the one that follows it."""
        dilated, plain = cast("list[SameConv1d]", list(self.dilated)), cast("list[SameConv1d]", list(self.plain))
        return list(zip(dilated, plain, strict=True))


class ResidualStage(nn.ModuleList):
    """Residual blocks one after another.

    Attributes:
        form: computes the same faster (``syllabary.model.cpu.accelerate``); None for block by block.
    """

    form: Callable[[Sequence[ResidualBlock], Tensor, Tensor | None], Tensor] | None = None

    def forward(
        self, x: Float[Tensor, "batch channels positions"], mask: Bool[Tensor, "batch positions"] | None
    ) -> Float[Tensor, "batch channels positions"]:
        """Shape is kept."""
        blocks = cast("list[ResidualBlock]", list(self))
        if self.form is not None:
            return self.form(blocks, x, mask)
        for block in blocks:
            x = block(x, mask)
        return x


def _activated(
    x: Float[Tensor, "batch channels positions"], mask: Bool[Tensor, "batch positions"] | None
) -> Float[Tensor, "batch channels positions"]:
    if x.requires_grad:
        return masked_leaky_relu(x, mask, LEAKY_SLOPE)
    return zero_invalid(F.leaky_relu(x, LEAKY_SLOPE), mask)
