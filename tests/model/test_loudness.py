"""The model's loudness, by values worked from sines and steps of 20 ms blocks."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from syllabary.model.encoder import active_rms, loudness_gain, rms_of_dbfs

RATE = 16_000
BLOCK = 320  # 20 ms
SINE_HZ = 250  # five whole periods a block


def sine(blocks: int, amplitude: float = 1.0, rate: int = RATE) -> Tensor:
    """A tone of whole blocks: its RMS is amplitude / sqrt(2) in each of them."""
    time = torch.arange(blocks * rate // 50, dtype=torch.float64) / rate
    return (amplitude * torch.sin(2 * math.pi * SINE_HZ * time)).float()


def silence(blocks: int) -> Tensor:
    return torch.zeros(blocks * BLOCK)


def test_decibels_below_full_scale() -> None:
    assert rms_of_dbfs(0) == 1 and rms_of_dbfs(-20) == pytest.approx(0.1) and rms_of_dbfs(-6.0206) == pytest.approx(0.5)


@pytest.mark.parametrize("rate", [16_000, 24_000, 8_000])
def test_a_tones_loudness_is_its_rms_at_any_rate(rate: int) -> None:
    assert active_rms(sine(50, 0.2, rate), rate) == pytest.approx(0.2 / math.sqrt(2), rel=1e-5)


@pytest.mark.parametrize("level", [-24.0, -30.0, -12.0])
def test_the_gain_brings_a_tone_to_the_level(level: float) -> None:
    tone = sine(50, 0.02)
    louder = tone * loudness_gain(tone, RATE, level)
    assert 20 * math.log10(float(louder.square().mean().sqrt())) == pytest.approx(level, abs=1e-3)


def test_silence_beside_speech_counts_for_nothing() -> None:
    tone = sine(30, 0.1)
    for around in (
        torch.cat([silence(100), tone]),
        torch.cat([tone, silence(1)]),
        torch.cat([tone, silence(777), tone]),
    ):
        assert active_rms(around, RATE) == pytest.approx(active_rms(tone, RATE), rel=1e-9)


@given(st.integers(0, 5000))
def test_zeros_behind_an_utterance_change_no_bit_of_its_gain(zeros: int) -> None:
    generator = torch.Generator().manual_seed(0)
    wave = 0.1 * torch.randn(10 * BLOCK + 77, generator=generator)  # the last block is not full
    padded = torch.cat([wave, torch.zeros(zeros)])
    assert loudness_gain(padded, RATE, -24.0) == loudness_gain(wave, RATE, -24.0)


def test_blocks_20_db_below_the_mean_of_what_is_heard_are_pauses() -> None:
    """Speech of power 1/2 in half of the blocks, and a floor 15 dB below the mean (kept) or 25 dB below (left out)."""
    for below_db, is_kept in ((15, True), (25, False)):
        floor = 10 ** (-below_db / 20) / math.sqrt(2)
        wave = torch.cat([sine(40), floor * sine(40)])
        power = (0.5 + floor**2 / 2) / 2 if is_kept else 0.5
        assert active_rms(wave, RATE) == pytest.approx(math.sqrt(power), rel=1e-4)


def test_what_lies_below_70_db_is_not_heard_at_all() -> None:
    """A hiss at -75 dBFS would lower the mean that pauses are measured from, and let in what lies 24 dB down."""
    assert active_rms(sine(40, math.sqrt(2) * rms_of_dbfs(-75)), RATE) == 0
    assert active_rms(sine(40, math.sqrt(2) * rms_of_dbfs(-65)), RATE) == pytest.approx(rms_of_dbfs(-65), rel=1e-4)
    loud, quiet, hiss = (sine(n, math.sqrt(2) * rms_of_dbfs(db)) for n, db in ((10, 0), (10, -24), (300, -75)))
    # Heard are 20 blocks of mean power 1/2: pauses lie below -23 dB. With the hiss they would lie below -35 dB.
    assert active_rms(torch.cat([loud, quiet, hiss]), RATE) == pytest.approx(1, rel=1e-4)


@pytest.mark.parametrize("samples", [torch.zeros(5000), torch.zeros(1), 1e-6 * torch.ones(5000)])
def test_silence_stays_as_it_is(samples: Tensor) -> None:
    assert loudness_gain(samples, RATE, -24.0) == 1.0


def test_a_peak_never_leaves_full_scale() -> None:
    """A click of 0.5 in a whisper: 15.8 would bring the whisper to the level, 2 is what the click allows."""
    wave = sine(200, 0.001)
    wave[100 * BLOCK + 5] = 0.5
    assert loudness_gain(wave, RATE, -24.0) <= 1 / 0.5
    loud = torch.cat([sine(1, 0.9), sine(200, 0.01)])
    assert float((loud * loudness_gain(loud, RATE, -6.0)).abs().max()) <= 1 + 1e-6


def test_a_click_does_not_pass_for_the_level_of_the_speech() -> None:
    """One block of 200 is loud, and the other 199 lie less than 20 dB below the mean: the click counts as one block."""
    wave = sine(200, 0.1)
    wave[100 * BLOCK : 101 * BLOCK] = sine(1, 0.4)
    expected = math.sqrt((199 * 0.1**2 + 0.4**2) / 200 / 2)
    assert active_rms(wave, RATE) == pytest.approx(expected, rel=1e-4)


@given(st.floats(0.1, 2.0))
def test_the_gain_undoes_any_gain(factor: float) -> None:
    wave = 0.1 * torch.randn(50 * BLOCK, generator=torch.Generator().manual_seed(1))
    before, after = (w * loudness_gain(w, RATE, -24.0) for w in (wave, factor * wave))
    np.testing.assert_allclose(after.numpy(), before.numpy(), rtol=1e-5, atol=1e-8)


def test_the_last_block_is_filled_up_with_zeros() -> None:
    """A tone of a block and a half: the powers 1/2 and 1/4, both active."""
    wave = sine(2)[: BLOCK + BLOCK // 2]
    half = float(wave[BLOCK:].square().sum()) / BLOCK
    assert active_rms(wave, RATE) == pytest.approx(math.sqrt((0.5 + half) / 2), rel=1e-5)


def test_a_rate_below_fifty_samples_a_second_still_has_blocks() -> None:
    assert active_rms(torch.full((10,), 0.5), 20) == pytest.approx(0.5)
