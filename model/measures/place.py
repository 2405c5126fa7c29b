"""Measure how much of latents and digits is speech, and how much only encodes the place of a frame in its clip.

A frame x_pi lies at place p of its clip (its index, from 0); i runs over the n_p clips that have a frame there. Places
that fewer than ``min_clips`` clips reach do not count; N frames of P places are left. For each dim

    variance between clips     W = sum_p sum_i (x_pi - mean_p)^2 / (N - P)        what the place does not explain
    total variance             T = sum_p sum_i (x_pi - mean)^2 / (N - 1)
    between_clips              mean over dims of W / T, at most 1; dims that never move have no share and are left out
    entropy given the place    mean over dims of sum_p (n_p / N) H_p, with H_p corrected for its n_p draws
    rank given the place       between_clips times the effective rank of the residuals x_pi - mean_p
    relative loss              squared error / mean over dims of W; 1 is the best guess that knows only the place

Compare clips of one length: an encoder that tells the distance to the end too is a clock as well, and in clips of
different lengths would pass for one that hears.

N - P and N - 1 make W and T unbiased: latents that know nothing of the place get 1 from any number of clips, not
1 - P / N. A clock (x a function of p alone) gets 0 between clips, 0 bits and rank 0, whatever its variance, its levels
and its rank; with a little of anything else it gets a little. An effective rank alone is blind to that: it asks in how
many directions residuals spread, not how far, so that the last bits beside a clock have the rank of all dims. Values
that do not exist (no place with enough clips, nothing that moves) are None, never NaN.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int, Integer, Num
from torch import Tensor

from syllabary.model.measures.usage import effective_rank, entropy_bits

MIN_CLIPS = 4
_CONSTANT = 1e-6  # of a dim's root mean square: what fp32 makes of a dim that never moves


def common_length(lengths: Sequence[int], min_clips: int = MIN_CLIPS) -> int:
    """The largest number of frames that half of the clips, and at least ``min_clips`` of them, reach.

    Where there are fewer clips than that, the length of the shortest: nothing will count, but nothing is cut to none.
    """
    needed = min(len(lengths), max(min_clips, -(-len(lengths) // 2)))
    return sorted(lengths, reverse=True)[needed - 1]


def place_of(valid: Bool[Tensor, "batch frames"]) -> Int[Tensor, "rows"]:
    """Place of each valid frame, in the order that ``x.transpose(1, 2)[valid]`` has them."""
    return torch.arange(valid.shape[1], device=valid.device).expand(valid.shape)[valid]


@dataclass(frozen=True)
class PlaceGroups:
    """The rows (frames) that lie at places with enough clips.

    Attributes:
        rows: which of all rows those are.
        group: for each of them its place, counted 0 .. places - 1 among those that count.
        num_clips: clips at each place.
    """

    rows: Int[Tensor, "kept"]
    group: Int[Tensor, "kept"]
    num_clips: Int[Tensor, "places"]


def group_by_place(places: Int[Tensor, "rows"], min_clips: int = MIN_CLIPS) -> PlaceGroups:
    """Rows by place; a clip has at most one row at a place. Without any place that counts, all are empty."""
    _, group, num_clips = places.unique(return_inverse=True, return_counts=True)
    enough = num_clips >= max(min_clips, 2)
    rows = enough[group].nonzero()[:, 0]
    renumbered = enough.cumsum(0) - 1
    return PlaceGroups(rows, renumbered[group[rows]], num_clips[enough])


def given_place(x: Num[Tensor, "rows dim"], groups: PlaceGroups) -> Float[Tensor, "kept dim"]:
    """The rows that count without the mean of their place."""
    kept = x[groups.rows].double()
    sums = kept.new_zeros(len(groups.num_clips), x.shape[1]).index_add_(0, groups.group, kept)
    return kept - (sums / groups.num_clips[:, None])[groups.group]


def variance_between_clips(x: Num[Tensor, "rows dim"], groups: PlaceGroups) -> Float[Tensor, "dim"] | None:
    """W of each dim; None when no place counts."""
    num_places = len(groups.num_clips)
    if not num_places:
        return None
    return given_place(x, groups).square().sum(dim=0) / (len(groups.rows) - num_places)


def between_clips(x: Num[Tensor, "rows dim"], groups: PlaceGroups) -> float | None:
    """Share of the variance that lies between clips at one place; None when no place counts or no dim moves."""
    within = variance_between_clips(x, groups)
    if within is None:
        return None
    kept = x[groups.rows].double()
    total = kept.var(dim=0)
    moves = total.sqrt() > _CONSTANT * kept.square().mean(dim=0).sqrt()
    return float((within[moves] / total[moves]).mean().clamp(max=1.0)) if bool(moves.any()) else None


def relative_loss(loss: float, targets: Float[Tensor, "rows dim"], groups: PlaceGroups) -> float | None:
    """The squared error over the variance of the targets between clips; None when that does not exist or is zero.

    The plain loss falls when targets collapse or become a clock, and differs between models whose latents have another
    scale; this does none of it.
    """
    within = variance_between_clips(targets, groups)
    if within is None:
        return None
    rounding = _CONSTANT**2 * float(targets[groups.rows].double().square().mean())
    return loss / float(within.mean()) if float(within.mean()) > rounding else None


def entropy_given_place(
    digits: Integer[Tensor, "rows dim"], levels: int, groups: PlaceGroups, *, corrected: bool = True
) -> Float[Tensor, "dim"] | None:
    """Bits of each dim's digit that the place does not tell; None when no place counts.

    ``corrected`` adds Miller's and Madow's term (see ``model.measures.usage``): without it 16 clips make uniform
    digits of four levels look like 1.86 bits, 4 clips like 1.32 (with it 1.99 and 1.63).
    """
    num_places, dims = len(groups.num_clips), digits.shape[1]
    if not num_places:
        return None
    cell = (groups.group[:, None] * dims + torch.arange(dims, device=digits.device)) * levels
    cell = cell + digits[groups.rows].long()
    counts = torch.bincount(cell.flatten(), minlength=num_places * dims * levels).view(num_places, dims, levels)
    weights = groups.num_clips.double() / groups.num_clips.sum()
    bits = (entropy_bits(counts, corrected=corrected) * weights[:, None]).sum(dim=0)
    return bits.clamp(max=math.log2(levels))


def rank_given_place(x: Float[Tensor, "rows dim"], groups: PlaceGroups) -> float | None:
    """Of how many dims the place does not explain the variance, 0 .. dim; None when no place counts."""
    if not len(groups.num_clips):
        return None
    share = between_clips(x, groups)
    return 0.0 if share is None else share * effective_rank(given_place(x, groups))
