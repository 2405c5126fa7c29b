"""Stage-2 losses worked by hand: two clips of 3 samples and 1, and 88 where padding is."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from syllabary.model import losses
from syllabary.model.config import CodecLossConfig
from syllabary.model.discriminators import DiscriminatorOutput, FeatureMap

NUM_SAMPLES = torch.tensor([3, 1])  # a clip's weight is its samples: 3/4 and 1/4
PADDING = 88.0


def judged(folded: list, flat: list, hidden: list) -> DiscriminatorOutput:
    """A sub-discriminator with scores [2, 1, 2, 2] that are its only hidden map, and one with scores [2, 1, 3] that
    are its first hidden map, [2, 2, 3] the second."""
    period = FeatureMap(torch.tensor(folded)[:, None], torch.tensor([2, 1]))
    scale = FeatureMap(torch.tensor(flat)[:, None], NUM_SAMPLES)
    wide = FeatureMap(torch.tensor(hidden), NUM_SAMPLES)
    return DiscriminatorOutput([period, scale], [[period], [scale, wide]], NUM_SAMPLES)


REAL = judged(
    folded=[[[1.0, 2.0], [0.0, 1.0]], [[3.0, 1.0], [PADDING, PADDING]]],
    flat=[[1.0, 0.0, -1.0], [2.0, PADDING, PADDING]],
    hidden=[[[0.0] * 3] * 2] * 2,
)
GENERATED = judged(
    folded=[[[0.0, 1.0], [2.0, 0.0]], [[2.0, -1.0], [PADDING, -PADDING]]],
    flat=[[0.0, 3.0, 1.0], [0.0, -PADDING, PADDING]],
    hidden=[[[1.0, 1.0, 1.0], [-3.0, 0.0, 0.0]], [[4.0, PADDING, PADDING], [0.0, PADDING, PADDING]]],
)


def test_discriminator_loss_by_hand() -> None:
    # (r - 1)^2 + g^2 a clip: 0.5 + 1.25 and 2 + 2.5 of the first, 5/3 + 10/3 and 1 + 0 of the second.
    expected = 3 / 4 * (1.75 + 5) / 2 + 1 / 4 * (4.5 + 1) / 2
    assert float(losses.discriminator_loss(REAL, GENERATED)) == pytest.approx(expected)


def test_generator_adversarial_loss_by_hand() -> None:
    # (g - 1)^2: 3/4 and 5/2 of the first, 5/3 and 1 of the second.
    expected = 3 / 4 * (3 / 4 + 5 / 3) / 2 + 1 / 4 * (5 / 2 + 1) / 2
    assert float(losses.generator_adversarial_loss(GENERATED)) == pytest.approx(expected)


def test_feature_matching_by_hand_is_an_absolute_difference_over_all_maps() -> None:
    # |g - r| over three maps: 5/4, 2, 1 of the first clip, 3/2, 2, 2 of the second.
    expected = 3 / 4 * (5 / 4 + 2 + 1) / 3 + 1 / 4 * (3 / 2 + 2 + 2) / 3
    assert float(losses.feature_matching_loss(REAL, GENERATED)) == pytest.approx(expected)


def test_relative_feature_matching_by_hand_is_over_the_magnitude_of_the_real_map() -> None:
    # |r| is 1 and 2/3 of the first clip, 2 and 2 of the second; of the silent map, 0, no less than a thousandth.
    first = (5 / 4 / 1 + 2 / (2 / 3) + 1 / 1e-3) / 3
    second = (3 / 2 / 2 + 2 / 2 + 2 / 1e-3) / 3
    found = losses.feature_matching_loss(REAL, GENERATED, relative=True)
    assert float(found) == pytest.approx(3 / 4 * first + 1 / 4 * second)


def test_relative_feature_matching_is_blind_to_the_scale_of_the_judges() -> None:
    def scaled(judged: DiscriminatorOutput, by: float) -> DiscriminatorOutput:
        maps = [[FeatureMap(m.values * by, m.lengths) for m in features[:1]] for features in judged.features]
        return DiscriminatorOutput(judged.scores, maps, NUM_SAMPLES)

    found = [
        float(losses.feature_matching_loss(scaled(REAL, by), scaled(GENERATED, by), relative=True)) for by in (1, 64)
    ]
    assert found[0] == pytest.approx(found[1])
    assert found[0] > 0


def test_mean_score_by_hand_is_that_of_all_sub_discriminators() -> None:
    # 1 and 2 of the first, 0 and 2 of the second; for generated speech 3/4, 1/2, and 4/3, 0.
    assert float(losses.mean_score(REAL)) == pytest.approx(3 / 4 * (1 + 0) / 2 + 1 / 4 * (2 + 2) / 2)
    assert float(losses.mean_score(GENERATED)) == pytest.approx(3 / 4 * (3 / 4 + 4 / 3) / 2 + 1 / 4 * (1 / 2 + 0) / 2)


def test_waveform_loss_by_hand() -> None:
    generated = torch.tensor([[0.5, -0.5, 0.0], [1.0, PADDING, PADDING]])
    target = torch.tensor([[0.0, 0.5, 0.0], [-1.0, 0.0, 0.0]])
    assert float(losses.waveform_loss(generated, target, NUM_SAMPLES)) == pytest.approx((0.5 + 1 + 0 + 2) / 4)


def noise(samples: int = 400) -> Tensor:
    return torch.randn(2, samples, generator=torch.Generator().manual_seed(0))


def loss_of_gain(gain: float, term: str) -> float:
    config = CodecLossConfig(stft_ffts=(64, 32), magnitude_term=term)
    return float(losses.mrstft_loss(gain * noise(), noise(), torch.tensor([400, 400]), config))


@pytest.mark.parametrize("gain", [0.5, 1.1, 3.0])
def test_spectral_convergence_of_a_gain_is_how_far_it_is_from_one(gain: float) -> None:
    """sqrt(sum (g m - m)^2 / sum m^2) = |g - 1|, and the logs differ by |log g| everywhere."""
    expected = abs(gain - 1) + abs(math.log(gain))
    assert loss_of_gain(gain, "spectral_convergence") == pytest.approx(expected, rel=1e-4)


def test_the_l1_term_of_a_gain_grows_with_the_magnitudes() -> None:
    means = [
        torch.stft(noise(), n, n // 4, window=torch.hann_window(n), pad_mode="constant", return_complex=True)
        .abs()[..., : 400 // (n // 4)]  # frames whose centres are samples of the clip
        .mean()
        for n in (64, 32)
    ]
    expected = 0.5 * float(sum(means)) / 2 + math.log(1.5)
    assert loss_of_gain(1.5, "l1") == pytest.approx(expected, rel=1e-4)


def test_spectral_convergence_is_a_clips_own() -> None:
    """A clip's error over its own energy, then the mean over clips: not all errors over all energies."""
    config = CodecLossConfig(stft_ffts=(64,), magnitude_term="spectral_convergence")
    target = noise() * torch.tensor([[1.0], [10.0]])
    generated = target * torch.tensor([[1.5], [1.0]])
    found = losses.mrstft_loss(generated, target, torch.tensor([400, 400]), config)
    assert float(found) == pytest.approx((0.5 + math.log(1.5)) / 2, rel=1e-4)


def test_what_lies_below_the_floor_costs_nothing() -> None:
    """Magnitudes are at least 1e-5: silence against a whisper below it is no difference of logs."""
    config = CodecLossConfig(stft_ffts=(64,))
    silence, length = torch.zeros(1, 256), torch.tensor([256])
    assert float(losses.mrstft_loss(1e-8 * noise(256)[:1], silence, length, config)) == 0
    click = torch.zeros(1, 256)
    click[0, 128] = 1.0  # frames centred on 112, 128 and 144 see it, at sin^2 of 1/4, 1/2 and 3/4 of the window
    found = float(losses.mrstft_loss(click, silence, length, config))
    heights = [0.5, 1.0, 0.5]
    expected = sum(h - 1e-5 + math.log(h / 1e-5) for h in heights) / 16
    assert found == pytest.approx(expected, rel=1e-3)


def test_the_total_is_the_papers_weighted_sum() -> None:
    target = noise()
    generated = 1.5 * target
    length = torch.tensor([400, 400])
    found = losses.generator_losses(generated, target, length, CodecLossConfig(), judged=(REAL, GENERATED))
    adversarial = 3 / 4 * (3 / 4 + 5 / 3) / 2 + 1 / 4 * (5 / 2 + 1) / 2
    matching = 3 / 4 * (5 / 4 + 2 + 1) / 3 + 1 / 4 * (3 / 2 + 2 + 2) / 3
    waveform = 0.5 * float(target.abs().mean())
    assert float(found.waveform) == pytest.approx(waveform)
    expected = waveform + 2 * float(found.mrstft) + 0.1 * (adversarial + matching)
    assert float(found.total) == pytest.approx(expected)
    relative = losses.generator_losses(
        generated, target, length, CodecLossConfig(relative_matching=True), judged=(REAL, GENERATED)
    )
    assert float(relative.feature_matching) == float(losses.feature_matching_loss(REAL, GENERATED, relative=True))
    alone = losses.generator_losses(generated, target, length, CodecLossConfig())
    assert (float(alone.adversarial), float(alone.feature_matching)) == (0, 0)
    assert float(alone.total) == pytest.approx(waveform + 2 * float(found.mrstft))
