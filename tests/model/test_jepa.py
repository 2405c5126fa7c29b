"""JEPA: what is masked is hidden, the target follows by EMA, and training lowers the loss."""

import pytest
import torch

from syllabary.model.config import JepaConfig, ModelConfig
from syllabary.model.jepa import Jepa
from syllabary.model.masking import sample_mask
from tests.helpers.small_models import CONFIGS, HOP


def build(kind: str, **update: object) -> tuple[Jepa, ModelConfig]:
    torch.manual_seed(0)
    config = CONFIGS[kind]
    return Jepa(config.encoder, config.jepa.model_copy(update=update)), config


def batch(num_clips: int = 3, frames: int = 8) -> tuple[torch.Tensor, torch.Tensor]:
    wave = torch.randn(num_clips, frames * HOP, generator=torch.Generator().manual_seed(1)) * 0.3
    return wave, torch.full((num_clips,), frames * HOP)


@pytest.mark.parametrize("kind", ["waveform", "spectral"])
@pytest.mark.parametrize("mask_at", ["latent", "features", "input"])
def test_loss_is_the_error_at_masked_frames(kind: str, mask_at: str) -> None:
    jepa, config = build(kind, mask_at=mask_at)
    jepa.eval()
    wave, num_samples = batch()
    mask = sample_mask([8] * 3, config.jepa, torch.Generator().manual_seed(0))
    with torch.no_grad():
        out = jepa(wave, num_samples, mask)
        predicted = jepa.predictor(jepa.forward_context(wave, num_samples, mask), None)
        target = jepa.target_encoder(wave, num_samples).latents
    error = (predicted - target).square().transpose(1, 2)[mask]
    torch.testing.assert_close(out.loss, error.mean())
    assert float(out.masked_fraction) == 0.5
    torch.testing.assert_close(out.prediction_std, predicted.transpose(1, 2)[mask].std(0, unbiased=False).mean())


def test_context_at_features_never_sees_masked_features() -> None:
    jepa, _ = build("waveform", mask_at="features")
    jepa.eval()
    wave, num_samples = batch(1)
    mask = torch.zeros(1, 8, dtype=torch.bool)
    mask[0, 3:6] = True
    seen: list[torch.Tensor] = []
    jepa.context_encoder.conformers.register_forward_hook(lambda _m, inputs, _o: seen.append(inputs[0].detach()))
    jepa.forward_context(wave, num_samples, mask)
    assert torch.equal(seen[0][0, :, 3:6], jepa.mask_token.detach()[:, None].expand(-1, 3))


def test_context_at_latent_hides_only_the_masked_latents() -> None:
    jepa, _ = build("waveform", mask_at="latent")
    jepa.eval()
    wave, num_samples = batch(1)
    mask = torch.arange(8)[None] < 4
    context = jepa.forward_context(wave, num_samples, mask)
    latents = jepa.context_encoder(wave, num_samples).latents
    assert torch.equal(context[..., 4:], latents[..., 4:])
    assert torch.equal(context[..., :4], jepa.mask_token[:, None].expand(1, -1, 4))


@pytest.mark.parametrize("kind", ["waveform", "spectral"])
@pytest.mark.parametrize(("mask_at", "hears"), [("input", False), ("features", True)])
def test_context_at_input_has_not_heard_the_masked_frames(kind: str, mask_at: str, hears: bool) -> None:
    """Other samples in the masked frames change no bit of the context; masked later, neighbours hear them."""
    jepa, _ = build(kind, mask_at=mask_at)
    jepa.eval()
    wave, num_samples = batch(1)
    num_samples -= 30  # the last frame is not full
    masked = torch.tensor([[False, True, True, False, False, False, True, True]])
    other = wave.clone()
    other[0, HOP : 3 * HOP], other[0, 6 * HOP :] = -0.4, 0.2
    with torch.no_grad():
        contexts = [jepa.forward_context(w, num_samples, masked) for w in (wave, other)]
        targets = [jepa.forward_target(w, num_samples)[0] for w in (wave, other)]
    assert contexts[0].equal(contexts[1]) is not hears
    assert not targets[0].equal(targets[1])  # what is to be predicted is heard whole
    assert not contexts[0].equal(jepa.forward_context(wave, num_samples, masked.roll(1, 1)))


def test_target_follows_by_ema_without_gradient_or_dropout() -> None:
    jepa, _ = build("waveform", ema_decay=0.75)
    jepa.train()
    assert not jepa.target_encoder.training
    before = [p.clone() for p in jepa.target_encoder.parameters()]
    with torch.no_grad():
        for p in jepa.context_encoder.parameters():
            p.add_(1.0)
    jepa.update_target()
    after = list(jepa.target_encoder.parameters())
    for old, new, context in zip(before, after, jepa.context_encoder.parameters(), strict=True):
        torch.testing.assert_close(new, 0.75 * old + 0.25 * context.detach())
    wave, num_samples = batch()
    jepa(wave, num_samples, torch.ones(3, 8, dtype=torch.bool)).loss.backward()
    assert all(p.grad is None for p in jepa.target_encoder.parameters())
    silent = [name for name, p in jepa.context_encoder.named_parameters() if p.grad is None]
    assert silent == []


def test_nothing_masked_gives_zero_loss_not_nan() -> None:
    jepa, _ = build("waveform")
    wave, num_samples = batch()
    assert float(jepa(wave, num_samples, torch.zeros(3, 8, dtype=torch.bool)).loss.detach()) == 0


@pytest.mark.parametrize("mask_at", ["latent", "features", "input"])
def test_a_few_steps_lower_the_loss(mask_at: str) -> None:
    jepa, config = build("spectral", mask_at=mask_at)
    wave, num_samples = batch(4)
    optimizer = torch.optim.AdamW(jepa.parameters(), lr=3e-3)
    losses = []
    for step in range(25):
        mask = sample_mask([8] * 4, config.jepa, torch.Generator().manual_seed(step))
        loss = jepa(wave, num_samples, mask).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        jepa.update_target()
        losses.append(loss.item())
    assert sum(losses[-5:]) < 0.7 * sum(losses[:5])


def test_predictor_is_the_papers_default() -> None:
    assert (JepaConfig().ema_decay, JepaConfig().mask_ratio, JepaConfig().min_span) == (0.996, 0.5, 2)
