"""Put the watches' figures into words: the lines of a run's log and of ``summary.md``.

A loss never stands alone: beside it is what is had without listening. Figures that do not exist are said to.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from syllabary.workers.training.watches.training_warnings import SWAPS

Values = Mapping[str, float]
_UNKNOWN = "not known (too few held-out clips, or nothing that moves)"


def latents(values: Values) -> str:
    """Say how much of the latents' variance is speech, in how many dims, and how much is the place in the clip."""
    share, rank, dims = (values.get(name) for name in ("between_clips", "latent_rank_given_place", "latent_dims"))
    if share is None:
        return f"share between clips {_UNKNOWN}"
    said = f"{_percent(share)} of their variance lies between clips, {_percent(1 - share)} tells the place in the clip"
    return said if rank is None or dims is None else f"{said}; {rank:.0f} of {dims:.0f} dims once the place is known"


def digits(values: Values, levels: int) -> str:
    """Say what a digit holds, and what is left of it once the place of its frame is known."""
    plain, given = values.get("level_entropy_bits"), values.get("level_entropy_given_place")
    whole = f"{plain:.2f} of {math.log2(levels):g} bits per dim, " if plain is not None else ""
    return f"{whole}{'given the place ' + _UNKNOWN if given is None else f'{given:.2f} once the place is known'}"


def prediction(first: Values, last: Values) -> str:
    """Say how well stage 1 predicts the speech in its targets."""
    before, after, other = first.get("relative_loss"), last.get("relative_loss"), last.get("relative_loss_other")
    if after is None:
        return f"relative loss {_UNKNOWN}"
    fell = f"{before:.3f} → {after:.3f}" if before is not None else f"{after:.3f}"
    context = f", {other:.3f} with another clip's context" if other is not None else ""
    return f"relative loss {fell} (1 is a guess that knows only the place){context}"


def reconstruction(first: Values, last: Values, loss: str) -> str:
    """The loss of stage 2, and the same with wrong tokens."""
    right, gain = last.get(f"{loss}_right", last[loss]), last.get("token_gain")
    wrong = [f"{last[name]:.3f} with {text}" for kind, text in SWAPS.items() if (name := f"{loss}_{kind}") in last]
    said = f"{loss} {first[loss]:.3f} → {last[loss]:.3f}"
    if gain is None:
        return f"{said}; wrong tokens could not be tried"
    return f"{said}; on the same clips {right:.3f} with the right tokens, {', '.join(wrong)}: {gained(gain)}"


def gained(gain: float) -> str:
    """What the right tokens gain over wrong ones."""
    return f"{_percent(gain)} gained" if gain > 0 else "nothing gained"


def in_short(values: Values) -> str:
    """What stands beside a validation's loss in the log; empty when nothing is known."""
    texts = {
        "relative_loss": lambda loss: f"relative loss {loss:.3f}",
        "token_gain": lambda gain: f"token gain {_percent(gain)}",
        "between_clips": lambda share: f"{_percent(share)} between clips",
        "level_entropy_given_place": lambda bits: f"{bits:.2f} bits given the place",
    }
    return "".join(f" · {text(values[name])}" for name, text in texts.items() if name in values)


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"
