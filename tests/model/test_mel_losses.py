"""The losses beyond the paper: mels of several windows, and how far latents are from a spread of one between clips."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from syllabary.model import losses
from syllabary.model.config import CodecLossConfig
from syllabary.model.spectral.mel import LogMel, mel_windows

CONFIG = CodecLossConfig(mel_ffts=(128, 64), mel_bands=(12, 8), waveform_weight=0, mrstft_weight=0, mel_weight=6.0)
WINDOWS = mel_windows(CONFIG, 2000)


def noise(clips: int = 2, samples: int = 640) -> Tensor:
    return torch.randn(clips, samples, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("gain", [0.5, 1.3])
def test_a_gain_is_its_logarithm_in_every_band(gain: float) -> None:
    found = losses.mel_loss(gain * noise(), noise(), torch.tensor([640, 640]), WINDOWS)
    assert float(found) == pytest.approx(abs(math.log(gain)), rel=1e-4)


def test_windows_and_clips_weigh_as_they_say() -> None:
    """Each clip's mean over bands and over the frames centred on it, then over windows, then over clips by samples."""
    generated, target, lengths = noise(), noise().flip(1), [640, 300]
    expected = []
    for row, n in enumerate(lengths):
        terms = [
            float((mel(generated[row : row + 1, :n]) - mel(target[row : row + 1, :n])).abs().mean())
            for mel in (LogMel(2000, 128, 12), LogMel(2000, 64, 8))
        ]
        expected.append(sum(terms) / 2)
    found = losses.mel_loss(generated, target, torch.tensor(lengths), WINDOWS)
    assert float(found) == pytest.approx(float(np.average(expected, weights=lengths)), rel=1e-5)


def test_padding_is_not_heard() -> None:
    generated, target = noise(), noise().flip(1)
    lengths = torch.tensor([640, 300])
    clean = losses.mel_loss(generated, target, lengths, WINDOWS)
    generated[1, 300:], target[1, 300:] = 88.0, -3.0
    assert losses.mel_loss(generated, target, lengths, WINDOWS).equal(clean)


def test_the_total_without_waveform_terms_is_the_weighted_mel() -> None:
    found = losses.generator_losses(1.5 * noise(), noise(), torch.tensor([640, 640]), CONFIG, mels=list(WINDOWS))
    assert float(found.mel) == pytest.approx(math.log(1.5), rel=1e-4)
    assert float(found.total) == pytest.approx(6 * math.log(1.5), rel=1e-4)
    assert (float(found.waveform), float(found.mrstft)) == (0, 0)
    papers = losses.generator_losses(1.5 * noise(), noise(), torch.tensor([640, 640]), CodecLossConfig())
    assert float(papers.mel) == 0 and float(papers.waveform) > 0


def spread(latents: Tensor, lengths: list[int]) -> float:
    return float(losses.spread_loss(latents, torch.tensor(lengths)))


def test_spread_of_two_clips_and_two_places_by_hand() -> None:
    """Place means 2 and 5: squares 1 + 1 + 9 + 9 over 2 freedoms, a deviation of sqrt(10); the mean of all is 3.5."""
    latents = torch.tensor([[[1.0, 2.0]], [[3.0, 8.0]]])
    assert spread(latents, [2, 2]) == pytest.approx((math.sqrt(10) - 1) ** 2 + 3.5**2, rel=1e-5)


def test_a_place_that_one_clip_reaches_counts_for_the_mean_only() -> None:
    """Second clip of one frame: freedom 1, squares 1 + 1; mean of 1, 2 and 3 is 2. What padding holds is not seen."""
    latents = torch.tensor([[[1.0, 2.0]], [[3.0, 88.0]]])
    assert spread(latents, [2, 1]) == pytest.approx((math.sqrt(2) - 1) ** 2 + 2.0**2, rel=1e-5)


def test_a_clock_has_no_spread_whatever_it_shows() -> None:
    """The same in all clips at each place: deviation 0 between clips, though over all frames it is 1 with mean 0."""
    clock = torch.tensor([-1.0, 1.0]).repeat(6).expand(8, 5, 12)
    assert float(clock.std(dim=(0, 2), correction=0).mean()) == 1
    assert spread(clock, [12] * 8) == pytest.approx(1, abs=1e-3)
    speech = torch.randn(64, 5, 12, generator=torch.Generator().manual_seed(0))
    assert spread(speech, [12] * 64) < 0.02
    assert spread(0.5 * speech, [12] * 64) == pytest.approx(0.25, abs=0.02)


def test_dims_are_averaged() -> None:
    latents = torch.tensor([[[1.0, 2.0], [0.0, 0.0]], [[3.0, 8.0], [0.0, 0.0]]])
    first = (math.sqrt(10) - 1) ** 2 + 3.5**2
    assert spread(latents, [2, 2]) == pytest.approx((first + (1e-4 - 1) ** 2) / 2, rel=1e-4)


def test_one_clip_alone_has_nothing_to_be_spread_from_and_latents_at_rest_a_gradient() -> None:
    assert spread(torch.randn(1, 3, 5), [5]) == 0
    still = torch.zeros(4, 3, 5, requires_grad=True)
    losses.spread_loss(still, torch.tensor([5] * 4)).backward()
    assert bool(still.grad.isfinite().all())
