"""What is watched besides the losses: the health of latents, gates, target and code. Pure functions of tensors."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from syllabary.model.daam import Daam
from syllabary.model.jepa import Jepa
from syllabary.model.usage import effective_rank


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


def relative_loss(loss: float, targets: Tensor) -> float:
    """The squared error over the variance of the targets [frames, dim]: 1 is what their mean as prediction would get.

    The plain loss falls when targets collapse, and differs between models whose latents have another scale; this does
    neither.
    """
    return loss / max(float(targets.double().var(dim=0, correction=0).mean()), 1e-12)


@torch.no_grad()
def ema_distance(jepa: Jepa) -> float:
    """|context - target| / |context| over all weights."""
    pairs = list(zip(jepa.context_encoder.parameters(), jepa.target_encoder.parameters(), strict=True))
    apart = sum(float((c - t).double().square().sum()) for c, t in pairs)
    size = sum(float(c.double().square().sum()) for c, _ in pairs)
    return (apart / max(size, 1e-30)) ** 0.5


@torch.no_grad()
def daam_spread(module: nn.Module) -> dict[str, float]:
    """How far the components of the gates are apart, averaged over gates; 0 means that K components act as one."""
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
    entropies = []
    for column in tokens.T:
        share = torch.unique(column, return_counts=True)[1].double() / len(column)
        entropies.append(-(share * share.log2()).sum())
    return 2 ** _mean(entropies)


def _mean(values: list[Tensor]) -> float:
    return float(torch.stack([v.double() for v in values]).mean())
