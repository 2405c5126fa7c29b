"""Measure the use of the code: level histogram, entropy, perplexity, effective rank of the latents."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Integer, Num
from torch import Tensor


@dataclass(frozen=True)
class UsageOutput:
    """Use of the code over a set of frames.

    Attributes:
        level_share: share of each level over all dims [levels].
        entropy_bits: mean over dims of the entropy of a dim's levels, in bits; at most log2(levels).
        perplexity: 2 ** entropy_bits.
        dead_dims: dims that only ever take one level.
        dim_level_share: share of each level in each dim [dim, levels].
    """

    level_share: Float[Tensor, "levels"]
    entropy_bits: float
    perplexity: float
    dead_dims: int
    dim_level_share: Float[Tensor, "dim levels"]


def level_usage(level_indices: Integer[Tensor, "frames dim"], levels: int) -> UsageOutput:
    """Usage of the levels. Raises ValueError for no frames."""
    if not len(level_indices):
        raise ValueError("no frames to measure the usage of; expected at least one")
    one_hot = level_indices.long()[..., None] == torch.arange(levels, device=level_indices.device)
    counts = one_hot.sum(dim=0)
    share = counts.double() / len(level_indices)
    entropy = float(entropy_bits(counts).mean())
    dead = int((share.amax(dim=1) == 1).sum())
    return UsageOutput(share.mean(dim=0).float(), entropy, 2**entropy, dead, share.float())


def entropy_bits(counts: Num[Tensor, "*any symbols"], *, corrected: bool = False) -> Float[Tensor, "*any"]:
    """Entropy in bits of the distributions that counts give, 0 for no counts.

    H = - sum_i p_i log2 p_i with p_i = counts_i / n is too low by about (K - 1) / (2 n ln 2) for n draws of K symbols;
    ``corrected`` adds that for the K symbols that occur (Miller and Madow 1955): right on the average, so a single one
    may exceed log2(symbols).
    """
    total = counts.sum(dim=-1, keepdim=True).double()
    share = counts.double() / total.clamp(min=1)
    bits = -(share * share.clamp(min=1e-300).log2()).sum(dim=-1)
    if corrected:
        occurring = (counts > 0).sum(dim=-1).double()
        bits = bits + (occurring - 1).clamp(min=0) / (2 * math.log(2) * total[..., 0].clamp(min=1))
    return bits.clamp(min=0.0)


def effective_rank(latents: Float[Tensor, "frames dim"]) -> float:
    """exp of the entropy of the normalized singular values of the centred latents (Roy & Vetterli 2007)."""
    singular = torch.linalg.svdvals(latents.double() - latents.double().mean(dim=0))
    if not float(singular.sum()):
        return 0.0
    share = singular / singular.sum()
    return math.exp(float(-(share * share.clamp(min=1e-300).log()).sum()))
