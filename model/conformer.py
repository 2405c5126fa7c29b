"""Conformer layers (Gulati et al. 2020) over frames; the paper has 8 of them at 128 channels (PAPER section stage 1).

    x += FF(x) / 2;  x += MHSA(LN(x));  x += Conv(LN(x));  x += FF(x) / 2;  x = LN(x)

Deviation: the convolution module normalizes with LayerNorm over channels, not BatchNorm, whose statistics would see
padding and other clips. There is no positional encoding (the paper's parameter count leaves no room for a relative
one): position comes from the depthwise convolution. Rotary positions and a limited reach are options:

    q, k, v = split(W x);  out = softmax(q' k'^T / sqrt(d)) v
    rotary (Su et al. 2021): q'_t = R(t) q_t, pairs of channels turned by the angle t / 10000^(2 i / d)

A score depends on the distance of two positions only. With ``reach`` r a position sees the r positions before and after
it, so a long clip holds no distance that a short one does not.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from syllabary.model.config import ConformerConfig, PredictorConfig
from syllabary.model.layers import branch_end, unit_gain

_ROTARY_BASE = 10_000.0


class SelfAttention(nn.Module):
    """LN -> multi-head attention over the valid positions of the clip."""

    def __init__(
        self, dim: int, num_heads: int, dropout: float = 0.0, *, is_rotary: bool = False, reach: int | None = None
    ) -> None:
        super().__init__()
        self.num_heads, self.is_rotary, self.reach = num_heads, is_rotary, reach
        self.norm = nn.LayerNorm(dim)
        self.qkv = unit_gain(nn.Linear(dim, 3 * dim))
        self.out = branch_end(nn.Linear(dim, dim))
        self.dropout = nn.Dropout(dropout)

    def forward(
        self, x: Float[Tensor, "batch frames dim"], mask: Bool[Tensor, "batch frames"] | None
    ) -> Float[Tensor, "batch frames dim"]:
        """No position attends to an invalid one."""
        batch, frames, dim = x.shape
        heads = self.qkv(self.norm(x)).view(batch, frames, 3, self.num_heads, dim // self.num_heads)
        query, key, value = heads.permute(2, 0, 3, 1, 4)
        if self.is_rotary:
            query, key = rotated(query), rotated(key)
        p = self.dropout.p if self.training else 0.0
        allowed = self._allowed(frames, mask, x.device)
        attended = F.scaled_dot_product_attention(query, key, value, attn_mask=allowed, dropout_p=p)
        return self.dropout(self.out(attended.transpose(1, 2).reshape(batch, frames, dim)))

    def _allowed(
        self, frames: int, mask: Bool[Tensor, "batch frames"] | None, device: torch.device
    ) -> Bool[Tensor, "..."] | None:
        """Which positions may be seen, to be broadcast to [batch, heads, frames, frames]; None when all."""
        seen = None if mask is None else mask[:, None, None, :]
        if self.reach is None or self.reach >= frames - 1:
            return seen
        at = torch.arange(frames, device=device)
        near = (at[:, None] - at).abs() <= self.reach
        if seen is None:
            return near
        # An invalid position may see itself: a row that sees nothing would be NaN.
        return (near & seen) | torch.eye(frames, dtype=torch.bool, device=device)


def rotated(x: Float[Tensor, "batch heads frames dim"]) -> Float[Tensor, "batch heads frames dim"]:
    """Channel pairs (i, i + dim / 2) of position t turned by t / 10000^(2 i / dim); dim is even."""
    frames, dim = x.shape[-2:]
    rates = _ROTARY_BASE ** (-torch.arange(0, dim, 2, device=x.device, dtype=torch.float32) / dim)
    angle = torch.arange(frames, device=x.device, dtype=torch.float32)[:, None] * rates
    cos, sin = angle.cos().to(x.dtype), angle.sin().to(x.dtype)
    first, second = x.chunk(2, dim=-1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)


class FeedForward(nn.Module):
    """LN -> Linear -> SiLU -> Linear, with dropout."""

    def __init__(self, dim: int, mult: int, dropout: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.expand = unit_gain(nn.Linear(dim, mult * dim))
        self.contract = branch_end(nn.Linear(mult * dim, dim))
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Float[Tensor, "batch frames dim"]) -> Float[Tensor, "batch frames dim"]:
        """Frames are independent of one another."""
        hidden = self.dropout(F.silu(self.expand(self.norm(x))))
        return self.dropout(self.contract(hidden))


class ConvolutionModule(nn.Module):
    """LN -> pointwise + GLU -> depthwise -> LN -> SiLU -> pointwise."""

    def __init__(self, dim: int, kernel: int, dropout: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.pointwise_in = unit_gain(nn.Linear(dim, 2 * dim))
        self.depthwise = unit_gain(nn.Conv1d(dim, dim, kernel, groups=dim, padding="same"))
        self.depthwise_norm = nn.LayerNorm(dim)
        self.pointwise_out = branch_end(nn.Linear(dim, dim))
        self.dropout = nn.Dropout(dropout)

    def forward(
        self, x: Float[Tensor, "batch frames dim"], mask: Bool[Tensor, "batch frames"] | None
    ) -> Float[Tensor, "batch frames dim"]:
        """The depthwise convolution sees zeros beyond the clip."""
        gated = F.glu(self.pointwise_in(self.norm(x)), dim=-1)
        if mask is not None:
            gated = gated.masked_fill(~mask[..., None], 0.0)
        mixed = self.depthwise(gated.transpose(1, 2)).transpose(1, 2)
        return self.dropout(self.pointwise_out(F.silu(self.depthwise_norm(mixed))))


class ConformerLayer(nn.Module):
    """Half feed-forward, attention, convolution, half feed-forward, LayerNorm; each with a residual."""

    def __init__(self, dim: int, config: ConformerConfig | PredictorConfig) -> None:
        super().__init__()
        mult, dropout = config.feed_forward_mult, config.dropout
        self.feed_forward_in = FeedForward(dim, mult, dropout)
        is_rotary = config.positions == "rotary"
        self.attention = SelfAttention(dim, config.num_heads, dropout, is_rotary=is_rotary, reach=config.reach)
        self.convolution = ConvolutionModule(dim, config.conv_kernel, dropout)
        self.feed_forward_out = FeedForward(dim, mult, dropout)
        self.norm = nn.LayerNorm(dim)

    def forward(
        self, x: Float[Tensor, "batch frames dim"], mask: Bool[Tensor, "batch frames"] | None
    ) -> Float[Tensor, "batch frames dim"]:
        """Valid frames depend on valid frames only; what invalid frames hold is unspecified."""
        x = x + 0.5 * self.feed_forward_in(x)
        x = x + self.attention(x, mask)
        x = x + self.convolution(x, mask)
        x = x + 0.5 * self.feed_forward_out(x)
        return self.norm(x)


class ConformerStack(nn.Module):
    """``num_layers`` layers of one configuration over channels-first frames."""

    def __init__(self, num_layers: int, dim: int, config: ConformerConfig | PredictorConfig) -> None:
        super().__init__()
        self.layers = nn.ModuleList(ConformerLayer(dim, config) for _ in range(num_layers))

    def forward(
        self, x: Float[Tensor, "batch dim frames"], mask: Bool[Tensor, "batch frames"] | None
    ) -> Float[Tensor, "batch dim frames"]:
        """Apply all layers; ``mask`` True at valid frames, None when all are."""
        hidden = x.transpose(1, 2)
        for layer in self.layers:
            hidden = layer(hidden, mask)
        return hidden.transpose(1, 2)
