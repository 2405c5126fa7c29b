"""Stage-2 losses against plain formulas, and the codec's gradients."""

import pytest
import torch

from syllabary.model import losses
from syllabary.model.codec import Codec
from syllabary.model.config import CodecLossConfig
from syllabary.model.discriminators import DiscriminatorOutput, Discriminators, FeatureMap
from tests.helpers.small_models import CONFIGS, HOP

CONFIG = CodecLossConfig(stft_ffts=(64, 32))


def pair(samples: int = 400) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    wave = torch.randn(2, 2, samples, generator=generator) * 0.3
    return wave[0], wave[1], torch.full((2,), samples)


def test_equal_speech_costs_nothing() -> None:
    _, target, num_samples = pair()
    found = losses.generator_losses(target, target, num_samples, CONFIG)
    assert float(found.total) == 0


def test_waveform_loss_is_l1_over_valid_samples() -> None:
    generated, target, _ = pair()
    found = losses.waveform_loss(generated, target, torch.tensor([400, 100]))
    expected = torch.cat([(generated - target)[0], (generated - target)[1, :100]]).abs().mean()
    torch.testing.assert_close(found, expected)


def test_mrstft_is_its_formula() -> None:
    generated, target, num_samples = pair()
    expected = []
    for n_fft in CONFIG.stft_ffts:
        spectra = [
            torch.stft(x, n_fft, n_fft // 4, window=torch.hann_window(n_fft), pad_mode="constant", return_complex=True)
            .abs()
            .clamp(min=1e-5)[..., : -(-400 // (n_fft // 4))]
            for x in (generated, target)
        ]
        expected.append((spectra[0] - spectra[1]).abs().mean() + (spectra[0].log() - spectra[1].log()).abs().mean())
    found = losses.mrstft_loss(generated, target, num_samples, CONFIG)
    torch.testing.assert_close(found, torch.stack(expected).mean())


def test_spectral_convergence_is_scale_free() -> None:
    generated, target, num_samples = pair()
    config = CONFIG.model_copy(update={"magnitude_term": "spectral_convergence"})
    found = losses.mrstft_loss(generated, target, num_samples, config)
    scaled = losses.mrstft_loss(4 * generated, 4 * target, num_samples, config)
    torch.testing.assert_close(found, scaled, rtol=1e-3, atol=1e-3)


def test_adversarial_losses_are_least_squares() -> None:
    generated, target, num_samples = pair()
    torch.manual_seed(0)
    judge = Discriminators(CONFIGS["waveform"].discriminator)
    real, fake = judge(target, num_samples), judge(generated, num_samples)
    assert len(real.scores) == 4
    expected = (
        sum(((r.values - 1) ** 2).mean() + (f.values**2).mean() for r, f in zip(real.scores, fake.scores, strict=True))
        / 4
    )
    torch.testing.assert_close(losses.discriminator_loss(real, fake), expected)
    expected = sum(((f.values - 1) ** 2).mean() for f in fake.scores) / 4
    torch.testing.assert_close(losses.generator_adversarial_loss(fake), expected)
    assert float(losses.feature_matching_loss(real, real).detach()) == 0


@pytest.mark.parametrize("magnitude_term", ["l1", "spectral_convergence"])
def test_a_batch_is_its_clips_weighted_by_their_samples(magnitude_term: str) -> None:
    generated, target, _ = pair()
    num_samples = torch.tensor([400, 230])
    config = CONFIG.model_copy(update={"magnitude_term": magnitude_term})
    torch.manual_seed(0)
    judge = Discriminators(CONFIGS["waveform"].discriminator)

    def terms(rows: slice) -> torch.Tensor:
        wave, truth, lengths = generated[rows], target[rows], num_samples[rows]
        judged = (judge(truth, lengths), judge(wave, lengths))
        found = losses.generator_losses(wave, truth, lengths, config, judged=judged)
        judged_loss = losses.discriminator_loss(*judged)
        return torch.stack([found.waveform, found.mrstft, found.adversarial, found.feature_matching, judged_loss])

    apart = [terms(slice(i, i + 1)) for i in range(2)]
    torch.testing.assert_close(terms(slice(None)), (400 * apart[0] + 230 * apart[1]) / 630)


def test_feature_matching_sends_no_gradient_to_the_real_side() -> None:
    generated, target, num_samples = pair()
    judge = Discriminators(CONFIGS["waveform"].discriminator)
    target.requires_grad_(True)
    generated.requires_grad_(True)
    losses.feature_matching_loss(judge(target, num_samples), judge(generated, num_samples)).backward()
    assert target.grad is None or not target.grad.any()
    assert generated.grad is not None
    assert generated.grad.abs().sum() > 0


@pytest.mark.parametrize("kind", sorted(CONFIGS))
def test_gradient_reaches_every_weight_through_the_quantizer(kind: str) -> None:
    torch.manual_seed(0)
    codec = Codec(CONFIGS[kind])
    wave = torch.randn(2, 9 * HOP) * 0.3
    out = codec(wave, torch.tensor([9 * HOP, 4 * HOP - 7]))
    losses.generator_losses(out.waveform, wave, torch.tensor([9 * HOP, 4 * HOP - 7]), CONFIG).total.backward()
    assert [name for name, p in codec.named_parameters() if p.grad is None] == []


def test_a_frozen_encoder_gets_no_gradient_and_no_dropout() -> None:
    codec = Codec(CONFIGS["waveform"])
    codec.freeze_encoder()
    codec.train()
    assert not codec.encoder.training
    assert codec.generator.training
    codec(torch.randn(1, HOP), torch.tensor([HOP])).waveform.sum().backward()
    assert all(p.grad is None for p in codec.encoder.parameters())
    assert all(p.grad is not None for p in codec.generator.parameters())


def test_means_over_maps_of_half_precision_do_not_leave_its_range() -> None:
    def judged(scale: float, dtype: torch.dtype) -> DiscriminatorOutput:
        values = scale * torch.ones(1, 512, 400, dtype=dtype)  # 204,800 values: their sum is beyond fp16's 65,504
        map_ = FeatureMap(values, torch.tensor([400]))
        return DiscriminatorOutput([FeatureMap(values[:, :1], torch.tensor([400]))], [[map_]], torch.tensor([400]))

    real, generated = judged(1.5, torch.float16), judged(0.5, torch.float16)
    assert losses.feature_matching_loss(real, generated).dtype == torch.float32
    assert float(losses.feature_matching_loss(real, generated)) == 1.0
    assert float(losses.discriminator_loss(real, generated)) == 0.5
