"""Means and their intervals: over speakers, seeded, covering the truth about as often as they say."""

from __future__ import annotations

import numpy as np
import pytest

from syllabary.workers.evaluation.intervals import estimate


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
