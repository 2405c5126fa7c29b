"""The figures that filters judge by, on samples whose clipping and noise are known."""

from __future__ import annotations

import math

import numpy as np
import pytest

from syllabary.shards.audio import to_int16
from syllabary.shards.ingest.config import IngestConfig
from syllabary.shards.ingest.filters import clipping_percent, estimate_snr_db, reject

RATE = 16_000
FRAME = 320  # 20 ms


def test_only_the_outermost_16_bit_steps_are_clipped() -> None:
    steps = np.array([32767, -32767, -32768, 32766, -32766, 16384, 0, 100], np.float32)
    assert clipping_percent(steps / 32768) == 100 * 3 / 8
    assert clipping_percent(np.zeros(0, np.float32)) == 0


def test_what_is_stored_as_an_outermost_step_is_clipped() -> None:
    """Of a source of 24 bits too: what rounds to the step before is not at full scale."""
    samples = np.array([32766.25, 32766.5, 32766.75, -32766.5, -32766.75, -32767.5], np.float32) / np.float32(32768)
    clipped = np.abs(to_int16(samples).astype(int)) >= 32767
    assert [clipping_percent(sample) == 100 for sample in samples[:, None]] == clipped.tolist()
    assert clipped.tolist() == [False, False, True, False, True, True]


def frames(*levels: float) -> np.ndarray:
    """A frame of 20 ms for each level: a square wave of that amplitude, so of that RMS."""
    square = np.where(np.arange(FRAME) % 2, 1.0, -1.0)
    return np.concatenate([level * square for level in levels]).astype(np.float32)


def test_snr_is_loud_frames_over_quiet_ones_in_decibels() -> None:
    """15 frames of 100 are speech at 0.5 over noise at 0.05: the 90th percentile hears them, a median would not."""
    samples = frames(*[0.05] * 85, *[0.5] * 15)
    assert estimate_snr_db(samples, RATE) == pytest.approx(10 * math.log10((0.25 - 0.0025) / 0.0025), abs=1e-3)


def test_digital_silence_is_as_quiet_as_the_rounding_of_16_bits() -> None:
    expected = 10 * math.log10(0.25 / (1 / 32768**2 / 12))
    assert estimate_snr_db(frames(*[0.0] * 50, *[0.5] * 50), RATE) == pytest.approx(expected, abs=1e-3)
    assert estimate_snr_db(frames(*[0.5] * 50), RATE) == pytest.approx(-expected, abs=1e-3), "one level, no speech"
    assert estimate_snr_db(frames(0.5)[:-1], RATE) == 0


def test_limits_are_inclusive_and_a_known_snr_is_believed() -> None:
    half = frames(1.0, 0.5)  # 50 % at full scale
    assert reject(half, RATE, 20.0, IngestConfig(max_clipping_percent=50)) == ""
    assert reject(half, RATE, 20.0, IngestConfig(max_clipping_percent=49.9)) == "clipping"
    assert reject(half, RATE, 10.0, IngestConfig(min_snr_db=10)) == ""
    assert reject(half, RATE, 9.9, IngestConfig(min_snr_db=10)) == "snr"
