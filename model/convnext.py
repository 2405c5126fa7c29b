"""ConvNeXt blocks over time (Liu et al. 2022, as in Vocos): what both spectral halves of ``fast16k`` are built of."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from model.padding import zero_invalid


class ChannelNorm(nn.LayerNorm):
    """LayerNorm over the channels of channels-first positions: each position by itself, so padding cannot leak."""

    def forward(self, input: Float[Tensor, "batch channels positions"]) -> Float[Tensor, "batch channels positions"]:
        """Shape is kept."""
        return super().forward(input.transpose(1, 2)).transpose(1, 2)


class ConvNeXtBlock(nn.Module):
    """x += scale * contract(GELU(expand(LN(depthwise(x)))))."""

    def __init__(self, channels: int, kernel: int, expansion: int, num_blocks: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv1d(channels, channels, kernel, padding=kernel // 2, groups=channels)
        self.norm = nn.LayerNorm(channels)
        self.expand = nn.Linear(channels, expansion * channels)
        self.contract = nn.Linear(expansion * channels, channels)
        self.scale = nn.Parameter(torch.full((channels,), 1.0 / num_blocks))

    def forward(
        self, x: Float[Tensor, "batch channels positions"], mask: Bool[Tensor, "batch positions"] | None
    ) -> Float[Tensor, "batch channels positions"]:
        """Shape is kept; invalid positions are read as zeros."""
        hidden = self.norm(self.depthwise(zero_invalid(x, mask)).transpose(1, 2))
        hidden = self.scale * self.contract(F.gelu(self.expand(hidden)))
        return x + hidden.transpose(1, 2)


class ConvNeXtStage(nn.Module):
    """``num_blocks`` blocks of one width."""

    def __init__(self, channels: int, kernel: int, expansion: int, num_blocks: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(ConvNeXtBlock(channels, kernel, expansion, num_blocks) for _ in range(num_blocks))

    def forward(
        self, x: Float[Tensor, "batch channels positions"], mask: Bool[Tensor, "batch positions"] | None
    ) -> Float[Tensor, "batch channels positions"]:
        """Shape is kept."""
        for block in self.blocks:
            x = block(x, mask)
        return x
