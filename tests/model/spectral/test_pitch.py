"""The pitch tracker against signals of known pitch and against Praat; the layer's loss and choice by hand."""

from __future__ import annotations

import math

import numpy as np
import parselmouth
import pytest
import torch

from syllabary.model.spectral.pitch import (
    NUM_PITCHES,
    UNVOICED,
    likeliest_hz,
    pitch_errors,
    pitch_index,
    pitch_loss,
    pitches_hz,
    track_pitch,
)

RATE, HOP = 16_000, 320


def buzz(hertz: np.ndarray, rate: int = RATE) -> np.ndarray:
    """Eight falling harmonics of a pitch given for each sample."""
    phase = 2 * np.pi * np.cumsum(hertz) / rate
    return sum(np.sin(h * phase) / h for h in range(1, 9)) * 0.1


def tracked(signal: np.ndarray, rate: int = RATE, hop: int = HOP) -> np.ndarray:
    waveform = torch.from_numpy(signal).float()[None]
    return track_pitch(waveform, torch.tensor([len(signal)]), rate, hop)[0].numpy()


@pytest.mark.parametrize("hertz", [65.0, 100.0, 123.4, 219.0, 333.0, 450.0])
def test_a_steady_pitch_is_found_to_half_a_percent(hertz: float) -> None:
    found = tracked(buzz(np.full(RATE, hertz)))
    assert found.shape == (50,)
    np.testing.assert_allclose(found[2:-2], hertz, rtol=5e-3)


def test_a_pitch_at_another_sample_rate() -> None:
    found = tracked(buzz(np.full(8_000, 150.0), 8_000), 8_000, 80)
    assert found.shape == (100,)
    np.testing.assert_allclose(found[4:-4], 150.0, rtol=5e-3)


def test_a_glide_is_followed() -> None:
    hertz = np.linspace(110, 220, 2 * RATE)
    found = tracked(buzz(hertz))
    middles = hertz[HOP // 2 :: HOP]
    np.testing.assert_allclose(found[2:-2], middles[2:-2], rtol=0.02)


def test_noise_silence_and_padding_have_no_pitch() -> None:
    noise = np.random.default_rng(0).standard_normal(RATE) * 0.1
    assert (tracked(noise) > 0).mean() < 0.1
    assert not tracked(np.zeros(RATE)).any()
    waveform = torch.from_numpy(buzz(np.full(RATE, 120.0))).float()[None]
    found = track_pitch(waveform, torch.tensor([8_000]), RATE, HOP)[0]
    assert (found[2:25] > 0).all() and not found[25:].any()


def test_a_weak_fundamental_is_still_the_pitch() -> None:
    t = np.arange(RATE) / RATE
    signal = sum(a * np.sin(2 * np.pi * 150 * h * t) for h, a in ((1, 0.02), (2, 0.1), (3, 0.1), (4, 0.05)))
    np.testing.assert_allclose(tracked(signal)[2:-2], 150.0, rtol=5e-3)


def test_it_agrees_with_praat_on_voices_and_pauses() -> None:
    generator = np.random.default_rng(1)
    pieces = []
    for low, high in ((90, 140), (200, 160), (120, 240)):
        pieces += [buzz(np.linspace(low, high, 9_600)), 0.01 * generator.standard_normal(4_800)]
    signal = np.concatenate(pieces)
    found = tracked(signal)
    pitch = parselmouth.Sound(signal, RATE).to_pitch_ac(time_step=0.01, pitch_floor=60, pitch_ceiling=480)
    theirs = np.nan_to_num([pitch.get_value_at_time((i + 0.5) * HOP / RATE) for i in range(len(found))])
    assert ((found > 0) != (theirs > 0)).mean() < 0.08
    both = (found > 0) & (theirs > 0)
    assert both.sum() > 70
    assert np.abs(np.log2(found[both] / theirs[both])).max() < 1 / 24


def test_pitches_are_24_an_octave_from_60_hz_and_indices_are_the_nearest() -> None:
    hertz = pitches_hz()
    assert len(hertz) == NUM_PITCHES
    assert hertz[[0, 24, 48]].tolist() == [60.0, 120.0, 240.0]
    found = pitch_index(torch.tensor([[0.0, 60.0, 61.0, 120.0, 123.0, 479.0, 2000.0]]))
    assert found.tolist() == [[UNVOICED, 0, 1, 24, 25, 71, 71]]


def test_the_loss_is_a_cross_entropy_with_a_bell() -> None:
    generator = torch.Generator().manual_seed(0)
    scores = torch.randn(2, NUM_PITCHES + 1, 4, generator=generator)
    hertz = torch.tensor([[120.0, 0.0, 60.0, 240.0], [0.0, 90.0, 0.0, 0.0]])
    num_samples = torch.tensor([4 * HOP, 2 * HOP])
    clips = []
    for clip, count in ((0, 4), (1, 2)):
        terms = []
        for at in range(count):
            log = scores[clip, :, at].double().log_softmax(0).numpy()
            if hertz[clip, at] == 0:
                terms.append(-log[UNVOICED])
                continue
            index = round(24 * math.log2(float(hertz[clip, at]) / 60))
            bell = np.exp(-0.5 * (np.arange(NUM_PITCHES) - index) ** 2)
            terms.append(-(bell / bell.sum() * log[:NUM_PITCHES]).sum())
        clips.append(np.mean(terms))
    expected = (clips[0] * 4 + clips[1] * 2) / 6  # clips weigh by their samples
    assert float(pitch_loss(scores, hertz, num_samples, HOP)) == pytest.approx(expected, rel=1e-5)


def test_errors_are_counted_over_valid_positions() -> None:
    wanted = [24, 24, 24, UNVOICED, UNVOICED, 30, 30]
    found = [24, 26, 27, UNVOICED, 10, UNVOICED, 5]
    scores = torch.nn.functional.one_hot(torch.tensor([found]), NUM_PITCHES + 1).float().transpose(1, 2)
    hertz = torch.tensor([[0.0 if w == UNVOICED else float(pitches_hz()[w]) for w in wanted]])
    counts = pitch_errors(scores, hertz, torch.tensor([6 * HOP]), HOP)
    # voicing: positions 4 and 5; a semitone is two pitches: 27 for 24 is off, 26 is not; the last is no position.
    assert [int(c) for c in counts] == [2, 6, 1, 3]


def test_the_likeliest_pitch_lies_between_the_two_that_share_it() -> None:
    scores = torch.full((1, NUM_PITCHES + 1, 9), -30.0)
    scores[0, 24], scores[0, 25], scores[0, UNVOICED] = 5.0, 5.0, 50.0
    found = likeliest_hz(scores, None)
    expected = 60 * 2 ** ((24.5) / 24)
    torch.testing.assert_close(found, torch.full((1, 9), expected), rtol=1e-4, atol=0)


def test_the_likeliest_pitch_is_smoothed_over_time_and_masked() -> None:
    scores = torch.full((2, NUM_PITCHES + 1, 9), -30.0)
    scores[:, 40] = 5.0
    scores[:, 40, 4], scores[:, 10, 4] = -30.0, 5.0  # a jump for one position
    scores[1, 10, 5:] = 50.0  # beyond the mask
    mask = torch.arange(9)[None] < torch.tensor([[9], [5]])
    found = likeliest_hz(scores, mask)
    expected = torch.full((9,), 60 * 2 ** (40 / 24))
    torch.testing.assert_close(found[0], expected, rtol=1e-4, atol=0)
    torch.testing.assert_close(found[1, :4], expected[:4], rtol=1e-4, atol=0)


def test_last_bits_of_scores_hardly_move_the_pitch() -> None:
    """By 1e-7 of it; only where two pitches are level may the window about the likeliest move."""
    generator = torch.Generator().manual_seed(3)
    scores = torch.randn(1, NUM_PITCHES + 1, 400, generator=generator)
    moved = scores + 1e-6 * torch.randn(scores.shape, generator=generator)
    before, after = likeliest_hz(scores, None), likeliest_hz(moved, None)
    near = (after - before).abs() <= 2e-7 * before
    assert near.float().mean() > 0.98
