"""Means over utterances and their uncertainty, by a bootstrap over speakers: utterances of one speaker are alike.

mean = sum_i w_i v_i / sum_i w_i          over the utterances i; speakers are drawn with replacement, and an
                                          interval holds the middle 95 % of the means of the draws
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

NUM_DRAWS = 2_000
_PERCENTILES = (2.5, 97.5)


@dataclass(frozen=True)
class Estimate:
    """A mean and its 95 % interval; ``low`` and ``high`` are None with fewer than two speakers."""

    mean: float
    low: float | None
    high: float | None
    num_utterances: int
    num_speakers: int

    @property
    def excludes_zero(self) -> bool:
        """Whether the interval lies on one side of zero; False where there is none."""
        return self.low is not None and self.high is not None and (self.low > 0 or self.high < 0)


def estimate(values: Sequence[float], weights: Sequence[float], speakers: Sequence[str], seed: int = 0) -> Estimate:
    """Weighted mean and interval. Raises ValueError for no values."""
    if not values:
        raise ValueError("no values to average; expected at least one")
    names, of_speaker = np.unique(np.asarray(speakers), return_inverse=True)
    w = np.asarray(weights, np.float64)
    sums = np.bincount(of_speaker, w * np.asarray(values, np.float64), len(names)).astype(np.float64)
    totals = np.bincount(of_speaker, w, len(names)).astype(np.float64)
    mean = float(sums.sum() / totals.sum())
    if len(names) < 2:
        return Estimate(mean, None, None, len(values), len(names))
    low, high = np.percentile(_drawn_means(sums, totals, seed), _PERCENTILES)
    return Estimate(mean, float(low), float(high), len(values), len(names))


def _drawn_means(sums: NDArray[np.float64], totals: NDArray[np.float64], seed: int) -> NDArray[np.float64]:
    drawn = np.random.default_rng(seed).integers(0, len(sums), (NUM_DRAWS, len(sums)))
    means: NDArray[np.float64] = sums[drawn].sum(axis=1) / totals[drawn].sum(axis=1)
    return means
