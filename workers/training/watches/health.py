"""Figures watched besides the losses: the health of latents, gates, target and code. Pure functions of tensors."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from syllabary.model.daam import Daam
from syllabary.model.jepa import Jepa
from syllabary.model.measures.place import between_clips, entropy_given_place, rank_given_place, variance_between_clips
from syllabary.model.measures.usage import effective_rank, entropy_bits
from syllabary.workers.training.watches.frames import HeldOutFrames


def latent_health(latents: Tensor) -> dict[str, float]:
    """Spread of latents [frames, dim]: effective rank (1 .. dim), and the deviation of each dim over frames."""
    deviation = latents.float().std(dim=0, correction=0)
    return {
        "latent_effective_rank": effective_rank(latents.float()),
        "latent_std_mean": float(deviation.mean()),
        "latent_std_min": float(deviation.min()),
        "latent_std_max": float(deviation.max()),
    }


def per_dim(name: str, values: Tensor) -> dict[str, float]:
    """One figure for each of the dims [dim], named ``name[000]``, ``name[001]``, ...: metrics of the split "dims"."""
    return {f"{name}[{dim:03}]": value for dim, value in enumerate(values.double().tolist())}


def place_health(frames: HeldOutFrames, digits: Tensor, levels: int) -> dict[str, float]:
    """Measure what is left of latents and digits [rows, dim] once the place of a frame in its clip is known, and how
    far latents are from those in fp32.

    A figure that does not exist (too few clips at any place, latents that never move) is left out.
    """
    bits = entropy_given_place(digits, levels, frames.groups)
    figures = {
        "between_clips": between_clips(frames.latents, frames.groups),
        "level_entropy_given_place": None if bits is None else float(bits.mean()),
        "latent_rank_given_place": rank_given_place(frames.latents, frames.groups),
        "precision_gap": frames.precision_gap,
        "latent_dims": float(frames.latents.shape[1]),
    }
    dims = {} if bits is None else per_dim("level_entropy_given_place", bits)
    return {name: value for name, value in figures.items() if value is not None} | dims


def input_health(frames: HeldOutFrames) -> dict[str, float]:
    """Whether the held-out clips can show anything: how many, how loud, and how far apart at one place.

    ``clips_at_a_place`` is the mean over the places that count, 0 when none does; ``input_spread_db`` the deviation of
    the clips' band levels at one place, left out when none counts.
    """
    num_clips, spread = frames.groups.num_clips, variance_between_clips(frames.bands_db, frames.groups)
    figures = {
        "held_out_clips": float(frames.num_clips),
        "clips_at_a_place": float(num_clips.double().mean()) if len(num_clips) else 0.0,
        "input_peak_db": 20 * math.log10(max(frames.peak, 1e-6)),
    }
    return figures if spread is None else figures | {"input_spread_db": float(spread.mean()) ** 0.5}


@torch.no_grad()
def ema_distance(jepa: Jepa) -> float:
    """|context - target| / |context| over all weights."""
    pairs = list(zip(jepa.context_encoder.parameters(), jepa.target_encoder.parameters(), strict=True))
    apart = sum(float((c - t).double().square().sum()) for c, t in pairs)
    size = sum(float(c.double().square().sum()) for c, _ in pairs)
    return (apart / max(size, 1e-30)) ** 0.5


@torch.no_grad()
def daam_spread(module: nn.Module) -> dict[str, float]:
    """The distance between the components of the gates, averaged over gates; 0 means that K components act as one."""
    gates = [m for m in module.modules() if isinstance(m, Daam)]
    if not gates:
        return {}
    return {
        "daam_offset_spread": _mean([g.offset.float().std(correction=0) for g in gates]),
        "daam_scale_spread": _mean([g.raw_scale.float().std(correction=0) for g in gates]),
        "daam_alpha_mean": _mean([g.alpha.float() for g in gates]),
    }


def gate_health(gates: Tensor) -> dict[str, float]:
    """Mean and deviation of the last gate over frames [frames]."""
    return {"gate_mean": float(gates.float().mean()), "gate_std": float(gates.float().std(correction=0))}


def token_perplexity(tokens: Tensor) -> float:
    """2 ** entropy of the ids in use at each position [frames, positions], averaged over positions (geometric)."""
    counts = [torch.unique(column, return_counts=True)[1] for column in tokens.T]
    return 2 ** _mean([entropy_bits(count) for count in counts])


def _mean(values: list[Tensor]) -> float:
    return float(torch.stack([v.double() for v in values]).mean())
