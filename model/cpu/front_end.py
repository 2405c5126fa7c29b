"""The waveform front end for inference on the CPU, made of the parts in ``syllabary.model.cpu.fused``.

It takes the place of the module it is made from and keeps its interface; ``None`` is the only mask it accepts, since a
clip alone has nothing to mask.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from syllabary.model.cpu.fused import (
    FusedDaam,
    FusedDown,
    FusedSnake,
    channels_last,
    chunk_size,
    chunks,
    fused_residuals,
    fused_same,
    release,
)
from syllabary.model.encoder import DownBlock, WaveformFrontEnd
from syllabary.model.layers import DownConv1d


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
