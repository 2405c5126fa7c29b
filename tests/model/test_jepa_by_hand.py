"""JEPA's loss and monitors on numbers worked by hand, and where its gradient goes."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from syllabary.model.jepa import Jepa
from tests.helpers.small_models import CONFIGS, HOP

# Two clips of 4 and 2 frames, two channels; three frames are masked. 88 stands where nothing may look.
NUM_FRAMES = torch.tensor([4, 2])
MASK = torch.tensor([[True, False, True], [False, True, False]])  # shorter than the batch, as sampled masks can be
TARGETS = torch.tensor([[[1.0, 88, 3, 88], [88, 5, 88, 88]], [[0.0, -88, 0, 88], [88, 3, 88, 88]]]).transpose(0, 1)
PREDICTIONS = torch.tensor([[[1.0, 7, 1, 7], [-7, 1, 88, 88]], [[1.0, 7, 0, 7], [7, 2, 88, 88]]]).transpose(0, 1)


class Known(nn.Module):
    """A predictor of known answers that keeps what it was asked."""

    def forward(self, latents: Tensor, mask: Tensor) -> Tensor:
        self.latents, self.mask = latents, mask
        return PREDICTIONS


def known(monkeypatch: pytest.MonkeyPatch) -> Jepa:
    jepa = Jepa(CONFIGS["waveform"].encoder, CONFIGS["waveform"].jepa)
    jepa.predictor = Known()
    monkeypatch.setattr(jepa, "forward_target", lambda *_: (TARGETS, NUM_FRAMES))
    monkeypatch.setattr(jepa, "forward_context", lambda *_: torch.full((2, 2, 4), 9.0))
    return jepa


def test_loss_and_monitors_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    out = known(monkeypatch)(torch.zeros(2, 4 * HOP), NUM_FRAMES * HOP, MASK)
    # Targets 1, 3, 5 and 0, 0, 3 at the masked frames; predictions 1, 1, 1 and 1, 0, 2.
    assert float(out.loss) == pytest.approx((0 + 4 + 16 + 1 + 0 + 1) / 6)
    assert float(out.target_std) == pytest.approx((math.sqrt(8 / 3) + math.sqrt(2)) / 2)
    assert float(out.prediction_std) == pytest.approx((0 + math.sqrt(2 / 3)) / 2)
    assert float(out.masked_fraction) == pytest.approx(3 / 6)


def test_the_predictor_is_asked_about_valid_frames_only(monkeypatch: pytest.MonkeyPatch) -> None:
    jepa = known(monkeypatch)
    jepa(torch.zeros(2, 4 * HOP), NUM_FRAMES * HOP, MASK)
    assert jepa.predictor.mask.tolist() == [[True] * 4, [True, True, False, False]]
    assert jepa.predictor.latents[:, 0].tolist() == [[9.0] * 4, [9.0, 9.0, 0.0, 0.0]]


def apart(**update: object) -> Jepa:
    """A Jepa whose target encoder is not its context encoder's copy any more."""
    torch.manual_seed(0)
    jepa = Jepa(CONFIGS["spectral"].encoder, CONFIGS["spectral"].jepa.model_copy(update=update))
    with torch.no_grad():
        for parameter in jepa.target_encoder.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return jepa


@pytest.mark.parametrize("mask_at", ["latent", "features"])
def test_the_targets_are_the_target_encoders_and_the_input_the_contexts(mask_at: str) -> None:
    jepa = apart(mask_at=mask_at).eval()
    wave = torch.randn(2, 8 * HOP)
    length, mask = torch.tensor([8 * HOP] * 2), torch.rand(2, 8) < 0.5
    with torch.no_grad():
        targets = jepa.target_encoder(wave, length).latents
        found = jepa(wave, length, mask)
        hidden = torch.where(mask[:, None], jepa.mask_token[:, None], jepa.context_encoder(wave, length).latents)
        if mask_at == "features":
            features = jepa.context_encoder.features(wave, length).features
            shown = torch.where(mask[:, None], jepa.mask_token[:, None], features)
            hidden = jepa.context_encoder.conformers(shown, None)
        predictions = jepa.predictor(hidden, None)
    error = (predictions - targets).transpose(1, 2)[mask]
    torch.testing.assert_close(found.loss, error.square().mean())
    expected = targets.transpose(1, 2)[mask].std(dim=0, unbiased=False).mean()
    torch.testing.assert_close(found.target_std, expected)


def test_no_gradient_reaches_the_targets_and_some_reaches_all_else() -> None:
    jepa = apart()
    jepa.target_encoder.requires_grad_(True)  # not even when it would take one
    mask = torch.arange(8) % 2 == torch.zeros(2, 1)
    out = jepa(torch.randn(2, 8 * HOP), torch.tensor([8 * HOP] * 2), mask)
    out.loss.backward()
    assert [name for name, p in jepa.target_encoder.named_parameters() if p.grad is not None] == []
    for part in (jepa.context_encoder, jepa.predictor):
        assert [name for name, p in part.named_parameters() if p.grad is None] == []
    assert jepa.mask_token.grad.any()
    assert not any(t.requires_grad for t in (out.target_std, out.prediction_std, out.masked_fraction))


def test_two_steps_of_the_moving_average_by_hand() -> None:
    jepa = apart(ema_decay=0.9)
    with torch.no_grad():
        for target, context in zip(jepa.target_encoder.parameters(), jepa.context_encoder.parameters(), strict=True):
            target.fill_(0.0)
            context.fill_(1.0)
    for expected in (0.1, 0.19):
        jepa.update_target()
        for parameter in jepa.target_encoder.parameters():
            torch.testing.assert_close(parameter, torch.full_like(parameter, expected))
    assert all(float(p.detach().min()) == float(p.detach().max()) == 1 for p in jepa.context_encoder.parameters())


def test_the_predictor_is_two_conformer_stacks_between_three_maps() -> None:
    jepa = apart().eval()
    predictor, x = jepa.predictor, torch.randn(2, 16, 7)
    with torch.no_grad():
        found = predictor(x, None)
        hidden = torch.nn.functional.conv1d(x, predictor.enter.weight, predictor.enter.bias)
        hidden = predictor.first(hidden * 0.5 * (1 + torch.erf(hidden / math.sqrt(2))), None)
        hidden = torch.nn.functional.conv1d(hidden, predictor.middle.weight, predictor.middle.bias)
        hidden = predictor.second(hidden * 0.5 * (1 + torch.erf(hidden / math.sqrt(2))), None)
        expected = torch.nn.functional.conv1d(hidden, predictor.leave.weight, predictor.leave.bias)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)
