"""ConvNeXt blocks over time (Liu et al. 2022, as in Vocos), with local attention between them where rates are slow.

Both spectral halves are built of these. Residual branches start near zero (model/layers.py).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from syllabary.model.config import AttentionConfig
from syllabary.model.conformer import SelfAttention
from syllabary.model.layers import branch_end, unit_gain, zero_invalid


class ChannelNorm(nn.LayerNorm):
    """LayerNorm over the channels of channels-first positions: each position by itself, so padding cannot leak."""

    def forward(self, input: Float[Tensor, "batch channels positions"]) -> Float[Tensor, "batch channels positions"]:
        """Shape is kept."""
        return super().forward(input.transpose(1, 2)).transpose(1, 2)


class ConvNeXtBlock(nn.Module):
    """x += scale * contract(GELU(expand(LN(depthwise(x)))))."""

    def __init__(self, channels: int, kernel: int, expansion: int) -> None:
        super().__init__()
        self.depthwise = unit_gain(nn.Conv1d(channels, channels, kernel, padding=kernel // 2, groups=channels))
        self.norm = nn.LayerNorm(channels)
        self.expand = unit_gain(nn.Linear(channels, expansion * channels))
        self.contract = branch_end(nn.Linear(expansion * channels, channels))
        self.scale = nn.Parameter(torch.ones(channels))

    def forward(
        self, x: Float[Tensor, "batch channels positions"], mask: Bool[Tensor, "batch positions"] | None
    ) -> Float[Tensor, "batch channels positions"]:
        """Shape is kept; invalid positions are read as zeros."""
        hidden = self.norm(self.depthwise(zero_invalid(x, mask)).transpose(1, 2))
        hidden = self.scale * self.contract(F.gelu(self.expand(hidden)))
        return x + hidden.transpose(1, 2)


class LocalAttention(nn.Module):
    """x += attention(LN(x)) over channels-first positions, by rotary positions within a reach."""

    def __init__(self, channels: int, config: AttentionConfig) -> None:
        super().__init__()
        self.attention = SelfAttention(channels, config.num_heads, is_rotary=True, reach=config.reach)

    def forward(
        self, x: Float[Tensor, "batch channels positions"], mask: Bool[Tensor, "batch positions"] | None
    ) -> Float[Tensor, "batch channels positions"]:
        """Shape is kept."""
        return x + self.attention(x.transpose(1, 2), mask).transpose(1, 2)


class ConvNeXtStage(nn.Module):
    """``num_blocks`` blocks of one width; the last ones are each followed by local attention, as many as it has."""

    def __init__(
        self, channels: int, kernel: int, expansion: int, num_blocks: int, *, attention: AttentionConfig
    ) -> None:
        super().__init__()
        self.blocks = nn.ModuleList()
        for i in range(num_blocks):
            self.blocks.append(ConvNeXtBlock(channels, kernel, expansion))
            if i >= num_blocks - attention.num_layers:
                self.blocks.append(LocalAttention(channels, attention))

    def forward(
        self, x: Float[Tensor, "batch channels positions"], mask: Bool[Tensor, "batch positions"] | None
    ) -> Float[Tensor, "batch channels positions"]:
        """Shape is kept."""
        for block in self.blocks:
            x = block(x, mask)
        return x
