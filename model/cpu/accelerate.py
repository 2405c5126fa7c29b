"""The one door to the CPU's faster forms, and those of the encoder's front end and of the HiFi-GAN for inference.

Same values up to rounding, same state, same call. The modules of ``syllabary.model`` are the plain forms and know
nothing of these. Whoever trains or encodes asks for the faster ones here; on a GPU, in bf16 training and where they
would lose, the plain forms stay. Training takes Winograd's form of the residual stages (``winograd_training.py``).

Inference is about 1.5 times as fast as with the plain modules:

    channels-last activations, weights packed once for oneDNN, activation and residual fused into the convolutions

For one clip at a time, without gradient. Weights are packed for one length, whatever is convolved later, and a long
stage is worked through in chunks from the start of the clip: results do not depend on what came before. A fused network
takes the place of the module it is made from and keeps its interface; ``None`` is the only mask it accepts, since a
clip alone has nothing to mask.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from syllabary.model import hifigan
from syllabary.model.config import Framing
from syllabary.model.cpu.winograd import WinogradResiduals, wins
from syllabary.model.cpu.winograd_training import run_residual_blocks
from syllabary.model.daam import Daam
from syllabary.model.encoder import DownBlock, Encoder, WaveformFrontEnd
from syllabary.model.layers import (
    LEAKY_SLOPE,
    DownConv1d,
    ResidualBlock,
    ResidualStage,
    SameConv1d,
    SnakeBeta,
    UpConv1d,
    is_wrong_in_bf16,
)

_ops = torch.ops.mkldnn
_pack_weight: Any = torch._C._nn.mkldnn_reorder_conv2d_weight
_FAR = 32
_CHUNK_VALUES = 1 << 20
# For a convolution from 384 to 384 channels oneDNN wants another layout of the weight below about 90 positions, and
# would reorder it at every call (22 to 90 ms): zeros after the clip cost less. Other widths keep one layout.
_FEWEST_POSITIONS = {384: 96}


def accelerate(module: M) -> M:
    """The same module, whose residual stages learn and compute by Winograd's form where that is faster."""
    for part in module.modules():
        if isinstance(part, ResidualStage):
            part.form = run_residual_blocks
    return module


def accelerate_inference(module: nn.Module, framing: Framing, dtype: torch.dtype) -> nn.Module:
    """An encoder with a fused front end or a fused HiFi-GAN, for one clip at a time of at most a window, on the CPU.

    Its weights are given up as they are packed. What has no fused form (a spectral front end, whose cost is in matrix
    products, or an inverse-STFT decoder) comes back as :func:`accelerate` leaves it.
    """
    module = accelerate(module)
    if not _can_fuse(module):
        return module
    if isinstance(module, Encoder) and isinstance(module.front_end, WaveformFrontEnd):
        module.front_end = FusedFrontEnd(module.front_end, framing.window_samples, dtype, keep_weights=False)
    if isinstance(module, hifigan.Generator):
        return FusedGenerator(module, framing.window_frames, keep_weights=False)
    return module


def _can_fuse(module: nn.Module) -> bool:
    return next(module.parameters()).device.type == "cpu" and torch.backends.mkldnn.is_available()


@dataclass(frozen=True)
class Chunk:
    """Positions ``start`` .. ``stop`` of a clip, worked out from ``low`` .. ``high``."""

    low: int
    high: int
    start: int
    stop: int


def chunks(length: int, size: int, margin: int) -> Iterator[Chunk]:
    """A clip of ``length`` positions, ``size`` at a time with ``margin`` more on either side where there are any."""
    for start in range(0, length, size):
        stop = min(start + size, length)
        yield Chunk(max(0, start - margin), min(length, stop + margin), start, stop)


def chunk_size(positions: int, channels: int, reach: int) -> int:
    """How many of ``positions`` to work through at a time: all of them, or what a few buffers hold in the cache."""
    size = max(_CHUNK_VALUES // channels, 8 * reach)
    return positions if positions <= 2 * size else size


def release(parts: Iterable[nn.Module]) -> None:
    """Give up the weights of convolutions that are packed, so that they are not held twice."""
    for part in parts:
        for module in part.modules():
            if isinstance(module, SameConv1d | DownConv1d | UpConv1d):
                module.to("meta")


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
        keeps_length = stride == 1 and weight.shape[2] % 2 == 1 and weight.shape[0] == weight.shape[1]
        self.fewest = _FEWEST_POSITIONS.get(weight.shape[0], 0) if keeps_length else 0

    def __call__(self, x: Float[Tensor, "1 inc 1 positions"]) -> Float[Tensor, "1 outc 1 out"]:
        """activation(conv(x))."""
        positions = x.shape[-1]
        if positions < self.fewest:
            longer = F.pad(x, (0, self.fewest - positions)).contiguous(memory_format=torch.channels_last)
            return self(longer)[..., :positions]
        return _ops._convolution_pointwise(x, self.weight, self.bias, *self.geometry, self.activation, self.scalars, "")

    def add_to(self, total: Float[Tensor, "1 outc 1 positions"], x: Float[Tensor, "1 inc 1 positions"]) -> Tensor:
        """total + conv(x), written into ``total`` where oneDNN can."""
        if x.shape[-1] < self.fewest:
            return total.add_(self(x))
        return _ops._convolution_pointwise_.binary(
            total, x, self.weight, self.bias, *self.geometry, "add", 1.0, None, [], None
        )

    def plus(self, other: Float[Tensor, "1 outc 1 positions"], x: Float[Tensor, "1 inc 1 positions"]) -> Tensor:
        """other + conv(x), in new memory."""
        if x.shape[-1] < self.fewest:
            return other + self(x)
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
            (_dilated(dilated, window_positions, dtype), fused_same(plain, window_positions, "none", dtype))
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


class FusedDown:
    """DownConv1d, in fp32 where that is; for an odd stride its uneven padding is made by hand."""

    def __init__(self, down: DownConv1d, positions: int, dtype: torch.dtype) -> None:
        stride, bias = down.stride[0], down.bias
        assert bias is not None
        self.front, self.back = (0, 0) if stride % 2 == 0 else (stride // 2, stride - stride // 2)
        padding = stride // 2 if stride % 2 == 0 else 0
        self.dtype = torch.float32 if is_wrong_in_bf16(down.weight) else dtype
        self.conv = FusedConv(
            down.weight, bias, positions + self.front + self.back, padding=padding, stride=stride, dtype=self.dtype
        )

    def __call__(self, x: Float[Tensor, "1 inc 1 positions"]) -> Float[Tensor, "1 outc 1 shorter"]:
        """``positions`` are a multiple of the stride."""
        if self.back:
            x = F.pad(x, (self.front, self.back)).contiguous(memory_format=torch.channels_last)
        return self.conv(x.to(self.dtype)).to(x.dtype)


class FusedUp:
    """UpConv1d: in channels-last memory its phases already lie in the order of time."""

    def __init__(self, up: UpConv1d, positions: int, dtype: torch.dtype) -> None:
        self.stride = up.stride
        self.conv = FusedConv(up.phase_weight(), up.bias.repeat(up.stride), positions, padding=1, dtype=dtype)

    def __call__(self, x: Float[Tensor, "1 inc 1 positions"]) -> Float[Tensor, "1 outc 1 longer"]:
        """Exactly ``stride`` times as long."""
        phases = self.conv(x).permute(0, 2, 3, 1)
        channels = phases.shape[-1] // self.stride
        rows = phases.reshape(1, 1, -1, channels)
        return rows.narrow(2, self.stride // 2, x.shape[-1] * self.stride).permute(0, 3, 1, 2)


class DirectResiduals:
    """Residual blocks one after another."""

    def __init__(self, blocks: list[nn.Module], positions: int, dtype: torch.dtype) -> None:
        self.blocks = [fused_block(m, positions, dtype) for m in blocks]

    def __call__(self, x: Float[Tensor, "1 channels 1 positions"]) -> Float[Tensor, "1 channels 1 positions"]:
        """Overwrites ``x``."""
        for block in self.blocks:
            x = block(x, keep=False)
        return x


def fused_residuals(blocks: list[nn.Module], positions: int, dtype: torch.dtype) -> DirectResiduals | WinogradResiduals:
    """Winograd's form where it wins, at fp32."""
    convs = [m for block in blocks for m in block.modules() if isinstance(m, SameConv1d)]
    if dtype == torch.float32 and wins(convs, positions):
        return WinogradResiduals(cast(list[ResidualBlock], blocks))
    return DirectResiduals(blocks, positions, dtype)


def fused_block(block: nn.Module, positions: int, dtype: torch.dtype) -> FusedResidualBlock:
    """The fused form of a residual block that is convolved at ``positions`` at most."""
    assert isinstance(block, ResidualBlock)
    return FusedResidualBlock(block, positions, dtype)


def _dilated(conv: nn.Module, positions: int, dtype: torch.dtype) -> FusedConv | FarConv:
    """The dilated convolution of a residual block, with the activation after it."""
    assert isinstance(conv, SameConv1d)
    is_far = conv.kernel_size == (3,) and conv.dilation[0] * _FAR >= positions and conv.dilation[0] > 1
    return FarConv(conv, dtype) if is_far else fused_same(conv, positions, "leaky_relu", dtype)


def fused_same(conv: SameConv1d | nn.Module, positions: int, activation: str, dtype: torch.dtype) -> FusedConv:
    """A fused SameConv1d without the taps that no clip of at most ``positions`` can reach."""
    assert isinstance(conv, SameConv1d) and conv.bias is not None
    weight, dilation = conv.live_weight(positions), conv.dilation[0]
    padding = weight.shape[-1] // 2 * dilation
    dilation = dilation if weight.shape[-1] > 1 else 1
    return FusedConv(
        weight, conv.bias, positions, padding=padding, dilation=dilation, activation=activation, dtype=dtype
    )


def channels_last(x: Float[Tensor, "1 channels positions"], dtype: torch.dtype) -> Tensor:
    """[1, channels, 1, positions] in channels-last memory."""
    return x[:, :, None].to(dtype).contiguous(memory_format=torch.channels_last)


class FusedFrontEnd(nn.Module):
    """WaveformFrontEnd for one clip of at most ``window_samples``.

    ``keep_weights=False`` gives up the weights of ``front_end`` stage by stage as they are packed.
    """

    def __init__(
        self, front_end: WaveformFrontEnd, window_samples: int, dtype: torch.dtype, *, keep_weights: bool = True
    ) -> None:
        super().__init__()
        self.dtype = dtype
        self.blocks: list[_FusedDownBlock] = []
        positions = window_samples
        for stride, block in zip(front_end.strides, front_end.blocks, strict=True):
            assert isinstance(block, DownBlock)
            down = FusedDown(block.down, positions, dtype) if self.blocks else _Stem(front_end, positions, dtype)
            positions //= stride
            self.blocks.append(_FusedDownBlock(down, block, positions, dtype))
            if not keep_weights:
                release([block])

    def forward(
        self, waveform: Float[Tensor, "1 samples"], mask: Bool[Tensor, "1 frames"] | None, hop_length: int
    ) -> tuple[Float[Tensor, "1 channels frames"], Float[Tensor, "1 frames"] | None]:
        """As ``WaveformFrontEnd.forward``; features are fp32."""
        assert mask is None and waveform.shape[0] == 1, "one whole clip at a time"
        x, density = channels_last(waveform[:, None], self.dtype), None
        for block in self.blocks:
            x, density = block(x)
        return x[:, :, 0].float().contiguous(), density


class _Stem:
    """The input convolution and the first strided one, chunk by chunk: between them lies the widest activation."""

    def __init__(self, front_end: WaveformFrontEnd, positions: int, dtype: torch.dtype) -> None:
        down = front_end.blocks[0].down
        assert isinstance(down, DownConv1d)
        self.stride, self.channels = down.stride[0], down.out_channels
        reach = front_end.input.kernel_size[0] // 2
        self.size = -(-chunk_size(positions, down.in_channels, reach) // self.stride)
        self.margin = 1 + math.ceil(reach / self.stride)
        longest = min(positions, (self.size + 2 * self.margin) * self.stride)
        self.input = fused_same(front_end.input, longest, "none", dtype)
        self.down = FusedDown(down, longest, dtype)

    def __call__(self, waveform: Float[Tensor, "1 1 1 samples"]) -> Float[Tensor, "1 channels 1 positions"]:
        stride, positions = self.stride, waveform.shape[-1] // self.stride
        out = waveform.new_empty(1, 1, positions, self.channels).permute(0, 3, 1, 2)
        for chunk in chunks(positions, self.size, self.margin):
            part = self.down(self.input(waveform[..., chunk.low * stride : chunk.high * stride]))
            out[..., chunk.start : chunk.stop] = part[..., chunk.start - chunk.low : chunk.stop - chunk.low]
        return out


class _FusedDownBlock:
    """DownBlock over channels-last positions, from the strided convolution ``down`` on."""

    def __init__(self, down: _Stem | FusedDown, block: DownBlock, positions: int, dtype: torch.dtype) -> None:
        self.down, self.snake = down, FusedSnake(block.snake, dtype)
        self.residual = fused_residuals(list(block.residual), positions, dtype)
        self.daam = None if block.daam is None else FusedDaam(block.daam)

    def __call__(
        self, x: Float[Tensor, "1 inc 1 positions"]
    ) -> tuple[Float[Tensor, "1 outc 1 shorter"], Float[Tensor, "1 shorter"] | None]:
        x = self.residual(self.snake(self.down(x)))
        return x, None if self.daam is None else self.daam(x)


class FusedGenerator(nn.Module):
    """``hifigan.Generator`` for one clip at a time; the same attributes and call.

    ``keep_weights=False`` gives up the weights of ``generator`` stage by stage as they are packed.
    """

    def __init__(self, generator: hifigan.Generator, window_frames: int, *, keep_weights: bool = True) -> None:
        super().__init__()
        self.hop_length, self.is_local = generator.hop_length, generator.is_local
        self.context_frames = generator.context_frames
        positions = window_frames + 2 * generator.context_frames
        bias = generator.input.bias
        assert bias is not None
        self.input = FusedConv(generator.input.weight, bias, positions, padding=0)
        self.blocks: list[_FusedUpBlock] = []
        for stride, block in zip(generator.strides, generator.blocks, strict=True):
            assert isinstance(block, hifigan.UpBlock)
            is_last = len(self.blocks) == len(generator.strides) - 1
            self.blocks.append(_FusedUpBlock(block, positions, generator.output if is_last else None))
            positions *= stride
            if not keep_weights:
                release([block])

    def forward(
        self, values: Float[Tensor, "1 dim frames"], num_samples: Int[Tensor, "1"]
    ) -> Float[Tensor, "1 samples"]:
        """As ``hifigan.Generator.forward``; every frame is valid."""
        length = values.shape[-1] * self.hop_length
        assert values.shape[0] == 1 and math.ceil(int(num_samples) / self.hop_length) == values.shape[-1]
        x = self.input(channels_last(values, torch.float32))
        for block in self.blocks:
            x = block(x)
        waveform = x.reshape(1, length)
        waveform[:, int(num_samples) :] = 0
        return waveform


class _FusedUpBlock:
    """UpBlock over channels-last positions, chunk by chunk; the last one with the ``output`` convolution and tanh."""

    def __init__(self, block: hifigan.UpBlock, positions: int, output: SameConv1d | None) -> None:
        dtype, self.stride = torch.float32, block.up.stride
        channels, reach = block.up.weight.shape[1], _reach(block.mrf)
        reach += 0 if output is None else output.kernel_size[0] // 2
        self.size = -(-chunk_size(positions * self.stride, channels, reach) // self.stride)
        self.margin = 1 + math.ceil(reach / self.stride)
        longest = min(positions, self.size + 2 * self.margin)
        self.snake, self.up = FusedSnake(block.snake, dtype), FusedUp(block.up, longest, dtype)
        self.mrf = [fused_block(m, longest * self.stride, dtype) for m in block.mrf.blocks]
        self.daam = None if block.daam is None else FusedDaam(block.daam)
        self.output = None if output is None else fused_same(output, longest * self.stride, "tanh", dtype)
        self.channels = channels

    def __call__(self, x: Float[Tensor, "1 inc 1 positions"]) -> Float[Tensor, "1 outc 1 longer"]:
        """Overwrites ``x``."""
        x = self.snake(x)
        if self.daam is None:
            return self._chunked(x, self.output)
        x = self._chunked(x, None)
        self.daam(x)
        return x if self.output is None else self.output(x)

    def _chunked(
        self, x: Float[Tensor, "1 inc 1 positions"], output: FusedConv | None
    ) -> Float[Tensor, "1 outc 1 longer"]:
        stride, positions = self.stride, x.shape[-1]
        channels = self.channels if output is None else 1
        out = x.new_empty(1, 1, positions * stride, channels).permute(0, 3, 1, 2)
        for chunk in chunks(positions, self.size, self.margin):
            part = self._fused(self.up(x[..., chunk.low : chunk.high]))
            part = part if output is None else output(part)
            kept = part[..., (chunk.start - chunk.low) * stride : (chunk.stop - chunk.low) * stride]
            out[..., chunk.start * stride : chunk.stop * stride] = kept
        return out

    def _fused(self, x: Float[Tensor, "1 outc 1 longer"]) -> Float[Tensor, "1 outc 1 longer"]:
        """The mean of the residual blocks; overwrites ``x``."""
        *others, last = self.mrf
        parts = [block(x, keep=True) for block in others[:1]]
        for block in others[1:]:
            parts[0].add_(block(x, keep=True))
        return last(x, keep=False).add_(*parts).div_(len(self.mrf)) if parts else last(x, keep=False)


def _reach(mrf: nn.Module) -> int:
    """Positions on either side that a position depends on."""
    assert isinstance(mrf, hifigan.Mrf)
    return max(
        sum((conv.kernel_size[0] // 2) * conv.dilation[0] for conv in block.modules() if isinstance(conv, SameConv1d))
        for block in mrf.blocks
    )


M = TypeVar("M", bound=nn.Module)
