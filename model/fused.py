"""Inference on the CPU with fused convolutions: the same sums as the modules, about 1.5 times as fast.

    channels-last activations, weights packed once for oneDNN, activation and residual fused into the convolutions

For one clip of whole frames at a time, without gradient. Weights are packed for the length of one window, whatever is
convolved later, so results do not depend on what came before. A fused part takes the place of the module it is made
from and keeps its interface; ``None`` is the only mask it accepts, since a clip alone has nothing to mask.
"""

from __future__ import annotations

import math
from typing import Any, cast

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from model import hifigan
from model.convolution import LEAKY_SLOPE, DownConv1d, ResidualBlock, SameConv1d, SnakeBeta, UpConv1d
from model.daam import Daam
from model.encoder import DownBlock, WaveformFrontEnd
from model.winograd import WinogradResiduals

_ops = torch.ops.mkldnn
_pack_weight: Any = torch._C._nn.mkldnn_reorder_conv2d_weight
_FAR = 32
_WIDE, _LONG = 96, 2


class FusedConv:
    """A convolution over [1, channels, 1, positions] in channels-last memory, with its weight packed for oneDNN.

    ``activation`` is applied to the result ("none", "leaky_relu" or "tanh").
    """

    def __init__(
        self,
        weight: Float[Tensor, "outc inc kernel"],
        bias: Float[Tensor, "outc"],
        positions: int,
        *,
        padding: int,
        stride: int = 1,
        dilation: int = 1,
        activation: str = "none",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.geometry = ([0, padding], [1, stride], [1, dilation], 1)
        self.activation, self.scalars = activation, [LEAKY_SLOPE] if activation == "leaky_relu" else []
        dense = weight.detach()[:, :, None].to(dtype).contiguous(memory_format=torch.channels_last)
        shape = [1, weight.shape[1], 1, positions]
        self.weight = _pack_weight(dense.to_mkldnn(), *self.geometry, shape)
        self.bias = bias.detach().to(dtype)

    def __call__(self, x: Float[Tensor, "1 inc 1 positions"]) -> Float[Tensor, "1 outc 1 out"]:
        """activation(conv(x))."""
        return _ops._convolution_pointwise(x, self.weight, self.bias, *self.geometry, self.activation, self.scalars, "")

    def add_to(self, total: Float[Tensor, "1 outc 1 positions"], x: Float[Tensor, "1 inc 1 positions"]) -> Tensor:
        """total + conv(x), written into ``total`` where oneDNN can."""
        return _ops._convolution_pointwise_.binary(
            total, x, self.weight, self.bias, *self.geometry, "add", 1.0, None, [], None
        )

    def plus(self, other: Float[Tensor, "1 outc 1 positions"], x: Float[Tensor, "1 inc 1 positions"]) -> Tensor:
        """other + conv(x), in new memory."""
        return _ops._convolution_pointwise.binary(
            x, other, self.weight, self.bias, *self.geometry, "add", None, None, [], None
        )


class FarConv:
    """Kernel 3 with a far dilation and leaky ReLU, as three matrix products over shifted positions.

    oneDNN's convolutions slow down several times when the dilation nears the length (1/32 of it on); products of the
    rows that overlap do not, and taps that reach beyond the clip cost nothing.
    """

    def __init__(self, conv: SameConv1d, dtype: torch.dtype) -> None:
        assert conv.kernel_size == (3,) and conv.bias is not None
        taps = conv.weight.detach().to(dtype).permute(2, 1, 0).contiguous()
        self.before, self.centre, self.after = taps.unbind(0)
        self.bias, self.dilation = conv.bias.detach().to(dtype), conv.dilation[0]

    def __call__(self, x: Float[Tensor, "1 inc 1 positions"]) -> Float[Tensor, "1 outc 1 positions"]:
        """leaky_relu(conv(x))."""
        rows, shift = x[0, :, 0].T, self.dilation
        out = torch.addmm(self.bias, rows, self.centre)
        if shift < len(rows):
            out[shift:].addmm_(rows[:-shift], self.before)
            out[:-shift].addmm_(rows[shift:], self.after)
        return F.leaky_relu_(out, LEAKY_SLOPE).T[None, :, None]


class FusedSnake:
    """SnakeBeta in place."""

    def __init__(self, snake: SnakeBeta, dtype: torch.dtype) -> None:
        alpha, inverse = snake.coefficients()
        self.alpha = alpha.detach().to(dtype).view(1, -1, 1, 1)
        self.inverse = inverse.detach().to(dtype).view(1, -1, 1, 1)

    def __call__(self, x: Float[Tensor, "1 channels 1 positions"]) -> Float[Tensor, "1 channels 1 positions"]:
        """Overwrites ``x``."""
        return x.add_((x * self.alpha).sin_().square_().mul_(self.inverse))


class FusedResidualBlock:
    """ResidualBlock with one fused pass a convolution; dead taps are left out as in the module."""

    def __init__(self, block: ResidualBlock, window_positions: int, dtype: torch.dtype) -> None:
        self.window_positions = window_positions
        self.pairs = [
            (_dilated(dilated, window_positions, dtype), _same(plain, window_positions, "none", dtype))
            for dilated, plain in zip(block.dilated, block.plain, strict=True)
        ]

    def __call__(self, x: Float[Tensor, "1 channels 1 positions"], *, keep: bool) -> Tensor:
        """The block's output; ``x`` is overwritten unless ``keep``."""
        assert x.shape[-1] <= self.window_positions, "longer than the window the weights are packed for"
        for dilated, plain in self.pairs:
            hidden = dilated(F.leaky_relu(x, LEAKY_SLOPE))
            x = plain.plus(x, hidden) if keep else plain.add_to(x, hidden)
            keep = False
        return x


class FusedDaam:
    """A DAAM gate over channels-last positions, in place; statistics and gate in fp32."""

    def __init__(self, daam: Daam) -> None:
        self.daam = daam

    def __call__(self, x: Float[Tensor, "1 channels 1 positions"]) -> Float[Tensor, "1 positions"]:
        """Overwrites ``x`` with the gated values and returns the density."""
        rows = x[0, :, 0].T
        weight, bias = self.daam.projection.weight, self.daam.projection.bias
        assert bias is not None
        attention = rows.float() @ weight[0, :, 0].float() + bias.float()
        density = self.daam.log_density(attention[None], None).exp()
        rows.mul_((1 + self.daam.alpha.float() * density[0])[:, None].to(x.dtype))
        return density


class FusedFrontEnd(nn.Module):
    """WaveformFrontEnd for one clip."""

    def __init__(self, front_end: WaveformFrontEnd, window_samples: int, dtype: torch.dtype) -> None:
        super().__init__()
        self.dtype = dtype
        self.input = _same(front_end.input, window_samples, "none", dtype)
        self.blocks = []
        for stride, block in zip(front_end.strides, front_end.blocks, strict=True):
            assert isinstance(block, DownBlock)
            self.blocks.append(_FusedDownBlock(block, window_samples, dtype))
            window_samples //= stride

    def forward(
        self, waveform: Float[Tensor, "1 samples"], mask: Bool[Tensor, "1 frames"] | None, hop_length: int
    ) -> tuple[Float[Tensor, "1 channels frames"], Float[Tensor, "1 frames"] | None]:
        """As ``WaveformFrontEnd.forward``; features are fp32."""
        assert mask is None and waveform.shape[0] == 1, "one whole clip at a time"
        x, density = self.input(_channels_last(waveform[:, None], self.dtype)), None
        for block in self.blocks:
            x, density = block(x)
        return x[:, :, 0].float().contiguous(), density


class _FusedDownBlock:
    def __init__(self, block: DownBlock, positions: int, dtype: torch.dtype) -> None:
        stride = block.down.stride[0]
        self.down = _Down(block.down, positions, dtype)
        self.snake = FusedSnake(block.snake, dtype)
        self.residual = _residuals(list(block.residual), positions // stride, dtype)
        self.daam = None if block.daam is None else FusedDaam(block.daam)

    def __call__(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        x = self.residual(self.snake(self.down(x)))
        return x, None if self.daam is None else self.daam(x)


class _Down:
    """DownConv1d; for an odd stride its uneven padding is made by hand."""

    def __init__(self, down: DownConv1d, positions: int, dtype: torch.dtype) -> None:
        stride, bias = down.stride[0], down.bias
        assert bias is not None
        self.front, self.back = (0, 0) if stride % 2 == 0 else (stride // 2, stride - stride // 2)
        padding = stride // 2 if stride % 2 == 0 else 0
        self.conv = FusedConv(
            down.weight, bias, positions + self.front + self.back, padding=padding, stride=stride, dtype=dtype
        )

    def __call__(self, x: Tensor) -> Tensor:
        if self.back:
            x = F.pad(x, (self.front, self.back)).contiguous(memory_format=torch.channels_last)
        return self.conv(x)


class _Up:
    """UpConv1d: in channels-last memory its phases already lie in the order of time."""

    def __init__(self, up: UpConv1d, positions: int, dtype: torch.dtype) -> None:
        self.stride = up.stride
        self.conv = FusedConv(up.phase_weight(), up.bias.repeat(up.stride), positions, padding=1, dtype=dtype)

    def __call__(self, x: Tensor) -> Tensor:
        phases = self.conv(x).permute(0, 2, 3, 1)
        channels = phases.shape[-1] // self.stride
        rows = phases.reshape(1, 1, -1, channels)
        return rows.narrow(2, self.stride // 2, x.shape[-1] * self.stride).permute(0, 3, 1, 2)


class FusedGenerator(nn.Module):
    """``hifigan.Generator`` for one clip at a time; the same attributes and call."""

    def __init__(self, generator: hifigan.Generator, window_frames: int) -> None:
        super().__init__()
        self.hop_length, self.is_local = generator.hop_length, generator.is_local
        self.context_frames = generator.context_frames
        positions = window_frames + 2 * generator.context_frames
        bias = generator.input.bias
        assert bias is not None
        self.input = FusedConv(generator.input.weight, bias, positions, padding=0)
        self.blocks = []
        for stride, block in zip(generator.strides, generator.blocks, strict=True):
            assert isinstance(block, hifigan.UpBlock)
            self.blocks.append(_FusedUpBlock(block, positions))
            positions *= stride
        self.output = _same(generator.output, positions, "tanh", torch.float32)

    def forward(
        self, values: Float[Tensor, "1 dim frames"], num_samples: Int[Tensor, "1"]
    ) -> Float[Tensor, "1 samples"]:
        """As ``hifigan.Generator.forward``; every frame is valid."""
        length = values.shape[-1] * self.hop_length
        assert values.shape[0] == 1 and math.ceil(int(num_samples) / self.hop_length) == values.shape[-1]
        x = self.input(_channels_last(values, torch.float32))
        for block in self.blocks:
            x = block(x)
        waveform = self.output(x).reshape(1, length)
        waveform[:, int(num_samples) :] = 0
        return waveform


class _FusedUpBlock:
    def __init__(self, block: hifigan.UpBlock, positions: int) -> None:
        dtype = torch.float32
        self.snake = FusedSnake(block.snake, dtype)
        self.up = _Up(block.up, positions, dtype)
        self.mrf = [_fused_block(m, positions * block.up.stride, dtype) for m in block.mrf.blocks]
        self.daam = None if block.daam is None else FusedDaam(block.daam)

    def __call__(self, x: Tensor) -> Tensor:
        x = self.up(self.snake(x))
        total = self.mrf[0](x, keep=True)
        for block in self.mrf[1:]:
            total.add_(block(x, keep=True))
        total.div_(len(self.mrf))
        if self.daam is not None:
            self.daam(total)
        return total


class _DirectResiduals:
    """Residual blocks one after another, ``x`` overwritten."""

    def __init__(self, blocks: list[nn.Module], positions: int, dtype: torch.dtype) -> None:
        self.blocks = [_fused_block(m, positions, dtype) for m in blocks]

    def __call__(self, x: Float[Tensor, "1 channels 1 positions"]) -> Float[Tensor, "1 channels 1 positions"]:
        for block in self.blocks:
            x = block(x, keep=False)
        return x


def _residuals(blocks: list[nn.Module], positions: int, dtype: torch.dtype) -> _DirectResiduals | WinogradResiduals:
    """Winograd's form where it wins: at fp32, wide enough for the products to outweigh its sums, long enough for the
    activations to outweigh the weights, of which it holds a third more."""
    convs = [m for block in blocks for m in block.modules() if isinstance(m, SameConv1d)]
    channels, is_kernel_3 = convs[0].in_channels, all(m.kernel_size == (3,) for m in convs)
    if dtype == torch.float32 and is_kernel_3 and channels >= _WIDE and positions >= _LONG * channels:
        return WinogradResiduals(cast(list[ResidualBlock], blocks))
    return _DirectResiduals(blocks, positions, dtype)


def _fused_block(block: nn.Module, positions: int, dtype: torch.dtype) -> FusedResidualBlock:
    assert isinstance(block, ResidualBlock)
    return FusedResidualBlock(block, positions, dtype)


def _dilated(conv: nn.Module, positions: int, dtype: torch.dtype) -> FusedConv | FarConv:
    """The dilated convolution of a residual block, with the activation after it."""
    assert isinstance(conv, SameConv1d)
    is_far = conv.kernel_size == (3,) and conv.dilation[0] * _FAR >= positions and conv.dilation[0] > 1
    return FarConv(conv, dtype) if is_far else _same(conv, positions, "leaky_relu", dtype)


def _same(conv: SameConv1d | nn.Module, positions: int, activation: str, dtype: torch.dtype) -> FusedConv:
    """A fused SameConv1d without the taps that no clip of at most ``positions`` can reach."""
    assert isinstance(conv, SameConv1d) and conv.bias is not None
    weight, dilation = conv.live_weight(positions), conv.dilation[0]
    padding = weight.shape[-1] // 2 * dilation
    dilation = dilation if weight.shape[-1] > 1 else 1
    return FusedConv(
        weight, conv.bias, positions, padding=padding, dilation=dilation, activation=activation, dtype=dtype
    )


def _channels_last(x: Float[Tensor, "1 channels positions"], dtype: torch.dtype) -> Tensor:
    return x[:, :, None].to(dtype).contiguous(memory_format=torch.channels_last)
