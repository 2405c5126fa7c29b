"""The mel spectra that scores are made of, against transformers' own and by hand."""

from __future__ import annotations

import numpy as np
import pytest
from transformers.audio_utils import mel_filter_bank, spectrogram

from syllabary.workers.evaluation import scoring
from syllabary.workers.evaluation.scoring import RATE, Original, Unscored


def noise(seconds: float = 1.0) -> np.ndarray:
    return (0.1 * np.random.default_rng(0).standard_normal(int(seconds * RATE))).astype(np.float32)


def their_filters(num_bands: int, window: int) -> np.ndarray:
    """[bands, bins], Slaney's scale and area."""
    return mel_filter_bank(window // 2 + 1, num_bands, 0, RATE / 2, RATE, norm="slaney", mel_scale="slaney").T


@pytest.mark.parametrize(("num_bands", "window"), [(80, 400), (40, 400), (40, 512)])
def test_filters_are_transformers(num_bands: int, window: int) -> None:
    np.testing.assert_allclose(scoring.mel_filters(num_bands, window), their_filters(num_bands, window), atol=1e-7)


def test_the_mel_power_spectrum_is_transformers() -> None:
    samples = noise()
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(400) / 400)
    expected = spectrogram(
        samples, window, 400, 160, power=2.0, pad_mode="constant", mel_filters=their_filters(80, 400).T, mel_floor=0.0
    )
    np.testing.assert_allclose(scoring.mel_power(samples, 80, 400, 160), expected, rtol=1e-4, atol=1e-7)


def test_a_full_scale_sine_is_minus_six_decibels_in_filters_of_height_one() -> None:
    """On bin 25 (1 kHz) of 400: a quarter of full power there, a sixteenth of that on either side."""
    tone = np.sin(2 * np.pi * 25 * np.arange(RATE) / 400).astype(np.float32)
    filters = their_filters(80, 400)
    heights = filters / filters.max(axis=1, keepdims=True)
    power = heights @ (0.25 * np.eye(201)[25] + 0.0625 * (np.eye(201)[24] + np.eye(201)[26]))
    found = scoring.log_mel(tone)
    assert found.shape == (80, 1 + RATE // 160)
    np.testing.assert_allclose(found[:, 50], 10 * np.log10(np.maximum(power, 1e-10)), atol=1e-2)


def test_silence_is_at_the_floor_of_minus_100_decibels() -> None:
    assert (scoring.log_mel(np.zeros(RATE, np.float32)) == -100).all()


@pytest.mark.parametrize("gain", [0.5, 2.0, 0.1])
def test_the_distance_of_a_gain_is_the_gain_in_decibels(gain: float) -> None:
    found = scoring.mel_distance(Original(noise()), (gain * noise()).astype(np.float32))
    assert found["mel_distance"].value == pytest.approx(abs(20 * np.log10(gain)), rel=1e-4)


def test_silence_in_half_a_clip_counts_down_to_the_floor() -> None:
    """Half of the frames are as they were, the other half falls from its level to -100 dB."""
    half = noise()
    half[RATE // 2 :] = 0
    levels = scoring.log_mel(noise())[:, RATE // 320 + 2 :]
    expected = (levels + 100).sum() / (80 * (1 + RATE // 160))
    found = scoring.mel_distance(Original(noise()), half)["mel_distance"].value
    assert expected < found < 1.03 * expected  # the three frames across the border lose a little, too


def test_an_output_is_cut_or_padded_to_its_original() -> None:
    original = Original(noise(0.5))
    longer, shorter = noise(1.0), noise(0.25)
    assert np.array_equal(scoring.checked(original, longer), longer[: RATE // 2])
    padded = scoring.checked(original, shorter)
    assert len(padded) == RATE // 2 and np.array_equal(padded[: RATE // 4], shorter) and not padded[RATE // 4 :].any()
    with pytest.raises(Unscored, match="the original is silent"):
        scoring.checked(Original(np.zeros(0, np.float32)), longer)
