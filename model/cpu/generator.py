"""The HiFi-GAN generator for inference on the CPU, made of the parts in ``syllabary.model.cpu.fused``."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from syllabary.model import hifigan
from syllabary.model.cpu.fused import (
    FusedConv,
    FusedDaam,
    FusedSnake,
    FusedUp,
    channels_last,
    chunk_size,
    chunks,
    fused_block,
    fused_same,
    release,
)
from syllabary.model.layers import SameConv1d


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
