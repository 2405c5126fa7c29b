"""Pulses against sums of cosines, their phases at frames and clips' ends, and the noise against its formula."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from syllabary.model.spectral.source import Source, source_channels

RATE, PER_FRAME, K = 16_000, 20, 320


def sounded(hertz: torch.Tensor, mask: torch.Tensor | None = None) -> tuple[torch.Tensor, torch.Tensor]:
    return Source(PER_FRAME, K)(source_channels(hertz, mask, PER_FRAME, K, RATE))


@pytest.mark.parametrize(
    ("hertz", "cycles", "harmonics"), [(200.0, 80, 38), (61.3, 25, 121), (118.7, 47, 64), (471.9, 189, 16)]
)
def test_a_steady_pitch_is_a_sum_of_cosines_of_equal_size(hertz: float, cycles: int, harmonics: int) -> None:
    """To 1e-4 of peaks of 6 to 16: phases in single precision, or just below 1 beside a pulse, are farther off."""
    pulses, _ = sounded(torch.full((1, 2 * PER_FRAME), hertz))
    assert cycles == round(hertz * 0.4) and harmonics == np.floor(0.95 / 2 * PER_FRAME * K / cycles)
    phase = np.arange(2 * PER_FRAME * K) * cycles / (PER_FRAME * K)
    expected = sum(np.cos(2 * np.pi * h * phase) for h in range(1, harmonics + 1)) * np.sqrt(2 / harmonics)
    np.testing.assert_allclose(pulses[0], expected, atol=1e-4, rtol=0)
    assert float(pulses.square().mean()) == pytest.approx(1.0, rel=0.02)


@pytest.mark.parametrize("hertz", [61.3, 118.7, 203.3, 471.9])
def test_every_frame_begins_with_a_pulse_and_no_pulse_is_missing(hertz: float) -> None:
    pulses, _ = sounded(torch.full((1, 3 * PER_FRAME), hertz))
    frames = pulses[0].unflatten(0, (3, PER_FRAME * K))
    torch.testing.assert_close(frames[0], frames[2], atol=1e-4, rtol=0)
    assert int(frames[1].argmax()) == 0 or float(frames[1, 0]) == pytest.approx(float(frames[1].max()), rel=1e-3)
    whole = round(hertz * 0.4)  # at most half a cycle a frame more or less
    high = frames[1] > 0.5 * frames[1, 0]
    risen = int((high[1:] & ~high[:-1]).sum()) + int(high[0])
    assert risen == whole


def test_a_pitch_that_glides_has_no_jump_between_positions() -> None:
    hertz = torch.linspace(100, 220, PER_FRAME)[None]
    begins, left, right, place = source_channels(hertz, None, PER_FRAME, K, RATE)[0]
    torch.testing.assert_close(left[1:], right[:-1])
    torch.testing.assert_close(place, torch.arange(1.0, PER_FRAME + 1))
    ends = begins + K * (left + right) / 2
    torch.testing.assert_close(ends[:-1] % 1, begins[1:], atol=1e-4, rtol=0)
    assert float(begins[0]) == 0
    cycles = K * float((left + right).sum()) / 2
    assert cycles == pytest.approx(round(cycles), abs=1e-4)
    assert cycles == pytest.approx(float(hertz.sum()) * K / RATE, abs=0.51)


def test_what_is_padding_is_silent_and_does_not_reach_the_clip() -> None:
    hertz = torch.full((2, 2 * PER_FRAME), 150.0)
    hertz[1, PER_FRAME:] = 333.0
    mask = torch.arange(2 * PER_FRAME)[None] < torch.tensor([[2 * PER_FRAME], [PER_FRAME]])
    pulses, noise = sounded(hertz, mask)
    alone, noise_alone = sounded(hertz[1:, :PER_FRAME])
    end = PER_FRAME * K
    torch.testing.assert_close(pulses[1:, :end], alone)
    torch.testing.assert_close(noise[1:, :end], noise_alone)
    assert not pulses[1, end:].any() and not noise[1, end:].any()


def test_a_crop_sounds_like_its_part_of_the_clip() -> None:
    hertz = 120 + 60 * torch.rand(1, 2 * PER_FRAME, generator=torch.Generator().manual_seed(0))
    channels = source_channels(hertz, None, PER_FRAME, K, RATE)
    source = Source(PER_FRAME, K)
    for whole, part in zip(source(channels), source(channels[..., 7:29]), strict=True):
        torch.testing.assert_close(part, whole[:, 7 * K : 29 * K])


def test_noise_is_one_frame_of_white_noise_by_a_formula_that_does_not_change() -> None:
    _, noise = sounded(torch.full((1, 2 * PER_FRAME), 100.0))
    first, second = noise[0].double().numpy().reshape(2, -1)
    np.testing.assert_array_equal(first, second)
    state, expected = 1, []
    for _ in range(3):
        state = (1664525 * state + 1013904223) & 0xFFFFFFFF
        expected.append((state // 256 / 16777216 - 0.5) * 12**0.5)
    np.testing.assert_allclose(first[:3], expected, rtol=1e-6)
    assert abs(first.mean()) < 0.05 and first.var() == pytest.approx(1.0, rel=0.05)
    spectrum = np.abs(np.fft.rfft(first)[1:]).reshape(-1, 320)
    assert (spectrum**2).mean(axis=1) / len(first) == pytest.approx(np.ones(10), rel=0.25)
    correlation = np.correlate(first, first, "full")[len(first) :][:2000] / (first @ first)
    assert np.abs(correlation).max() < 0.08
