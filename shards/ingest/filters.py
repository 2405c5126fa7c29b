"""Filters of utterances, each off unless the recipe sets it. Figures are of the samples as stored."""

from __future__ import annotations

import numpy as np

from syllabary.shards.audio import FULL_SCALE, Samples
from syllabary.shards.ingest.config import IngestConfig

_FRAME_S = 0.02
_CLIPPED = 1 - 1.5 / FULL_SCALE


def language_reason(language: str | None, config: IngestConfig) -> str:
    """Reason why a language tag is not wanted; empty when it is."""
    wanted = {name.casefold() for name in config.languages}
    if not wanted or (language or "").casefold() in wanted:
        return ""
    return f"language: {language or 'unknown'}"


def reject(samples: Samples, rate: int, snr_db: float | None, config: IngestConfig) -> str:
    """Reason why an utterance [num_samples] is filtered; empty when it is kept. ``snr_db`` None is estimated."""
    if config.over_full_scale == "filter" and len(samples) and float(np.abs(samples).max()) > config.max_peak:
        return "over full scale"
    if config.max_clipping_percent is not None and clipping_percent(samples) > config.max_clipping_percent:
        return "clipping"
    if config.min_snr_db is not None:
        known = estimate_snr_db(samples, rate) if snr_db is None else snr_db
        if known < config.min_snr_db:
            return "snr"
    return ""


def within_full_scale(samples: Samples, config: IngestConfig) -> tuple[Samples, str]:
    """Samples [num_samples] as they may be stored, and a note about it: what exceeds full scale by far is scaled.

    "filter" leaves them as they are: :func:`reject` refuses them.
    """
    peak = float(np.abs(samples).max()) if len(samples) else 0.0
    if peak <= config.max_peak or config.over_full_scale == "filter":
        return samples, ""
    if config.over_full_scale == "clip":
        return samples, f"over full scale: clipped at 1 of {peak:.3g}"
    return samples / np.float32(peak), f"over full scale: scaled by {1 / peak:.3g}"


def clipping_percent(samples: Samples) -> float:
    """Share of the samples at full scale, in percent."""
    return 100 * float(np.count_nonzero(np.abs(samples) > _CLIPPED)) / max(1, len(samples))


def estimate_snr_db(samples: Samples, rate: int) -> float:
    """Level of the loud 20 ms frames (90th percentile of power) over that of the quiet ones (10th), in dB.

    A quick figure in the manner of percentile SNR estimators: right within a few dB when the utterance has pauses,
    too low when it has none.
    """
    size = max(1, round(_FRAME_S * rate))
    count = len(samples) // size
    if count < 2:
        return 0.0
    power = np.square(samples[: count * size], dtype=np.float64).reshape(count, size).mean(axis=1)
    loud, quiet = np.percentile(power, 90), np.percentile(power, 10)
    floor = 1 / FULL_SCALE**2 / 12  # the noise of 16-bit rounding
    return float(10 * np.log10(max(loud - quiet, floor) / max(quiet, floor)))
