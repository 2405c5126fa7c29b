"""Borders of regions and cuts by hand: what is just close enough, and which of equally quiet points is taken."""

from __future__ import annotations

import numpy as np
import pytest

from syllabary.shards.ingest.config import IngestConfig
from syllabary.shards.ingest.segments import cut_long, limits, quietest_point, speech_regions, tiles

RATE = 1_000


@pytest.mark.parametrize(
    ("gap_s", "regions"),
    [(0.299, [(0, 2_000)]), (0.3, [(0, 2_000)]), (0.301, [(0, 1_000), (1_301, 2_000)])],
)
def test_a_gap_of_just_the_limit_is_joined(gap_s: float, regions: list[tuple[int, int]]) -> None:
    assert speech_regions([(0, 1), (1 + gap_s, 2)], 5_000, RATE, 0.3) == regions


def test_activity_is_sorted_clipped_and_empty_spans_dropped() -> None:
    activity = [(4.0, 9.0), (-1.0, 0.5), (2.0, 2.0), (6.0, 7.0)]
    assert speech_regions(activity, 5_000, RATE, 0.0) == [(0, 500), (4_000, 5_000)]


def test_the_last_of_several_quietest_points_is_taken() -> None:
    """Two silences of 200 ms around 1.0 and 1.6 s: the longer first piece wins."""
    samples = np.ones(2_000, np.float32)
    samples[900:1_100] = samples[1_500:1_700] = 0
    assert quietest_point(samples, 500, 1_900, RATE) == 1_650, "the last centre of 100 ms that are silent"
    assert quietest_point(samples, 500, 1_400, RATE) == 1_050
    assert quietest_point(samples, 1_900, 1_905, RATE) == 1_900
    assert quietest_point(samples[:60], 10, 40, RATE) == 40, "shorter than 100 ms: the latest"


class Held:
    """A recording in memory."""

    def __init__(self, samples: np.ndarray) -> None:
        self.samples = samples

    def read(self, start: int, stop: int) -> np.ndarray:
        return self.samples[start:stop]


def test_long_speech_is_cut_at_its_silence_and_leaves_the_least_length() -> None:
    samples = np.ones(2_500, np.float32)
    samples[1_400:1_600] = 0
    pieces = [(start, len(piece)) for start, piece in cut_long((0, 2_500), Held(samples), RATE, 500, 2_000)]
    assert pieces == [(0, 1_550), (1_550, 950)]
    samples[:] = 1
    samples[1_880:] = 0  # the quietest point would leave too little
    ((_, first), (start, rest)) = [
        (start, len(piece)) for start, piece in cut_long((0, 2_200), Held(samples), RATE, 500, 2_000)
    ]
    assert start == first <= 1_700 and rest >= 500


def test_limits_are_rounded_at_the_least_and_never_exceeded_at_the_most() -> None:
    config = IngestConfig(min_utterance_s=0.0999, max_utterance_s=1.9999)
    assert limits(config, RATE) == (100, 1_999)


@pytest.mark.parametrize(
    ("num_samples", "expected"),
    [
        (0, []),
        (1, [(0, 1)]),
        (10, [(0, 10)]),
        (11, [(0, 5), (5, 11)]),
        (20, [(0, 10), (10, 20)]),
        (25, [(0, 8), (8, 16), (16, 25)]),
    ],
)
def test_a_recording_is_tiled_by_as_few_pieces_as_it_takes(num_samples: int, expected: list[tuple[int, int]]) -> None:
    assert tiles(num_samples, 10) == expected
