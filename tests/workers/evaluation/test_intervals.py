"""Means and their intervals: over speakers, seeded, covering the truth about as often as they say."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.stats

from syllabary.workers.evaluation.intervals import Estimate, estimate


def draw(rng: np.random.Generator, num_speakers: int, num_each: int) -> tuple[list[float], list[str]]:
    """Values of true mean 0 whose speakers differ more than their utterances do."""
    voices = rng.standard_normal(num_speakers)
    values = voices[:, None] + 0.3 * rng.standard_normal((num_speakers, num_each))
    return values.reshape(-1).tolist(), [str(s) for s in range(num_speakers) for _ in range(num_each)]


def test_the_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    rng, hits = np.random.default_rng(0), 0
    for _ in range(100):
        values, speakers = draw(rng, 30, 5)
        found = estimate(values, [1.0] * len(values), speakers)
        assert found.low is not None and found.high is not None
        hits += found.low <= 0 <= found.high
    assert 86 <= hits <= 100


def test_speakers_are_drawn_not_utterances() -> None:
    values, speakers = draw(np.random.default_rng(1), 12, 20)
    by_speaker = estimate(values, [1.0] * 240, speakers)
    by_file = estimate(values, [1.0] * 240, [str(n) for n in range(240)])
    width = by_speaker.high - by_speaker.low  # type: ignore[operator]
    assert width > 2 * (by_file.high - by_file.low)  # type: ignore[operator]


def test_a_mean_is_weighted_and_an_interval_repeatable() -> None:
    found = estimate([0.0, 1.0], [3.0, 1.0], ["a", "b"], seed=7)
    assert found.mean == 0.25 and (found.low, found.high) == (0.0, 1.0)
    assert found == estimate([0.0, 1.0], [3.0, 1.0], ["a", "b"], seed=7)
    assert not found.excludes_zero and estimate([1.0, 2.0], [1, 1], ["a", "b"]).excludes_zero


def test_one_speaker_has_no_interval_and_nothing_has_no_mean() -> None:
    found = estimate([1.0, 2.0], [1.0, 1.0], ["a", "a"])
    assert (found.mean, found.low, found.high, found.num_speakers) == (1.5, None, None, 1)
    assert not found.excludes_zero
    with pytest.raises(ValueError, match="no values"):
        estimate([], [], [])


def test_the_interval_holds_95_percent_of_what_the_bootstrap_draws() -> None:
    """400 speakers, half at 0 and half at 1: the mean of a draw is binomial, all but normal of deviation 0.025."""
    values, speakers = [0.0, 1.0] * 200, [str(n) for n in range(400)]
    found = [estimate(values, [1.0] * 400, speakers, seed=seed) for seed in range(10)]
    low, high = (float(np.mean([getattr(f, end) for f in found])) for end in ("low", "high"))
    assert (low, high) == pytest.approx(scipy.stats.norm.interval(0.95, 0.5, 0.025), abs=0.0015)


def test_a_speaker_counts_by_its_weight_in_every_draw() -> None:
    """Draws of two speakers are aa, ab, ba, bb: means 0, 3/4, 3/4 and 1 where b weighs three times as much."""
    found = estimate([0.0, 1.0, 1.0], [1.0, 1.0, 2.0], ["a", "b", "b"])
    assert (found.mean, found.low, found.high) == (0.75, 0.0, 1.0)
    assert (found.num_utterances, found.num_speakers) == (3, 2)


@pytest.mark.parametrize(
    ("low", "high", "excludes"), [(0.0, 1.0, False), (-1.0, 0.0, False), (0.1, 1, True), (-1, -0.1, True)]
)
def test_an_interval_that_touches_zero_holds_it(low: float, high: float, excludes: bool) -> None:
    assert Estimate(0.0, low, high, 9, 9).excludes_zero is excludes
