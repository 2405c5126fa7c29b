"""Convolutions whose lengths are exact, and the residual block that encoder and decoder share.

Strided layers have kernel 2s and stride s. ``s`` zeros of padding, ``s // 2`` of them in front, make a strided
convolution divide its length by s exactly, and the same crop makes a transposed one multiply it exactly. Deviation:
the paper pads ``s // 2`` on both sides, which for odd s loses a frame down and gains a sample up.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import cast

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from syllabary.model.autograd import dilated_conv, masked_leaky_relu, prefers_products
from syllabary.model.initialize import LEAKY_GAIN, branch_end, unit_gain
from syllabary.model.padding import zero_invalid

LEAKY_SLOPE = 0.1
_ALPHA_FLOOR = 0.01
_MAX_INVERSE_ALPHA = 10.0


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


class DownConv1d(nn.Conv1d):
    """Kernel 2s, stride s: length T (a multiple of s) becomes exactly T / s."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__(in_channels, out_channels, 2 * stride, stride=stride)
        unit_gain(self)

    def forward(self, input: Float[Tensor, "batch inc positions"]) -> Float[Tensor, "batch outc shorter"]:
        """Invalid positions must already be zero."""
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
