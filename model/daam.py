"""DAAM: density adaptive attention, a gate from the density of each frame in its clip (PAPER section DAAM).

    a_t = w . x_t + b                                    one channel
    mu = mean_t a_t,  sigma^2 = max(var_t a_t, 1e-6)     over the valid frames of the clip
    z_kt = (a_t - (mu + delta_k)) / (sigma s_k + eps),   s_k = softplus(nu_k) + 1e-3
    log g_t = logsumexp_k(-z_kt^2 / 2 - log s_k - log(2 pi) / 2) - log K
    y_t = x_t (1 + alpha exp(log g_t))

All in fp32 whatever the training precision. Deviation: the paper starts all components alike (``init="paper"``), which
gives them equal gradients for ever; ``init="spread"`` spaces the scales s_k geometrically from 0.25 to 2.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from syllabary.model.config import DaamConfig
from syllabary.model.layers import full_precision

_EPS = 1e-6
_MIN_VARIANCE = 1e-6
_MIN_SCALE = 1e-3
_PAPER_RAW_SCALE = math.log(0.5)
_SPREAD_SCALES = (0.25, 2.0)


@dataclass(frozen=True)
class DaamOutput:
    """``values`` gated input [batch, channels, positions]; ``density`` exp(log g) [batch, positions], 0 or more."""

    values: Float[Tensor, "batch channels positions"]
    density: Float[Tensor, "batch positions"]


class Daam(nn.Module):
    """The gate for ``channels`` channels."""

    def __init__(self, channels: int, config: DaamConfig) -> None:
        super().__init__()
        k = config.num_gaussians
        self.projection = nn.Conv1d(channels, 1, 1)
        self.offset = nn.Parameter(torch.zeros(k))
        self.raw_scale = nn.Parameter(_initial_raw_scale(config))
        # One element, not a scalar: DeepSpeed cannot broadcast parameters without a dimension.
        self.alpha = nn.Parameter(torch.tensor([config.alpha_init]))

    def forward(
        self, x: Float[Tensor, "batch channels positions"], mask: Bool[Tensor, "batch positions"] | None
    ) -> DaamOutput:
        """Gate every position; statistics see those where ``mask`` is True (all when None)."""
        with full_precision(x.device):
            wide = x.float()
            attention = F.conv1d(wide, self.projection.weight.float(), cast(Tensor, self.projection.bias).float())[:, 0]
            density = self.log_density(attention, mask).exp()
            values = wide * (1 + self.alpha.float() * density)[:, None]
        return DaamOutput(values.to(x.dtype), density)

    def log_density(
        self, attention: Float[Tensor, "batch positions"], mask: Bool[Tensor, "batch positions"] | None
    ) -> Float[Tensor, "batch positions"]:
        """log g of the projected channel a, fp32."""
        mean, variance = _clip_statistics(attention, mask)
        sigma = variance.clamp(min=_MIN_VARIANCE).sqrt()
        scale = F.softplus(self.raw_scale.float()) + _MIN_SCALE
        centred = (attention - mean)[:, None, :]
        # The paper adds delta_k to the mean as it is, not in units of sigma.
        z = (centred - self.offset.float()[:, None]) / (sigma[:, None, :] * scale[:, None] + _EPS)
        log_p = -0.5 * z.square() - scale.log()[:, None] - 0.5 * math.log(2 * math.pi)
        return torch.logsumexp(log_p, dim=1) - math.log(len(scale))


def _initial_raw_scale(config: DaamConfig) -> Float[Tensor, "num_gaussians"]:
    """nu_k at the start; the inverse softplus of the spread scales, or the paper's log 0.5."""
    k = config.num_gaussians
    if config.init == "paper" or k == 1:
        return torch.full((k,), _PAPER_RAW_SCALE)
    low, high = _SPREAD_SCALES
    scales = low * (high / low) ** torch.linspace(0, 1, k)
    return torch.expm1(scales - _MIN_SCALE).log()


def _clip_statistics(
    attention: Float[Tensor, "batch positions"], mask: Bool[Tensor, "batch positions"] | None
) -> tuple[Float[Tensor, "batch 1"], Float[Tensor, "batch 1"]]:
    """Mean and variance of each clip over its valid positions."""
    if mask is None:
        mean = attention.mean(dim=1, keepdim=True)
        return mean, (attention - mean).square().mean(dim=1, keepdim=True)
    count = mask.sum(dim=1, keepdim=True).clamp(min=1)
    mean = attention.masked_fill(~mask, 0.0).sum(dim=1, keepdim=True) / count
    deviation = (attention - mean).masked_fill(~mask, 0.0)
    return mean, deviation.square().sum(dim=1, keepdim=True) / count
