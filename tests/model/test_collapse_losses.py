"""Terms against collapse, against numpy's covariance place by place and by hand; and what stage 1 makes of them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from syllabary.model.jepa import Jepa
from syllabary.model.losses import collapse_losses
from tests.helpers.small_models import CONFIGS, HOP


def found(latents: Tensor, counted: Tensor | None = None) -> tuple[float, float]:
    counted = torch.ones(latents.shape[0], latents.shape[2], dtype=torch.bool) if counted is None else counted
    terms = collapse_losses(latents, counted)
    return float(terms.variance), float(terms.covariance)


def by_numpy(latents: Tensor, counted: Tensor) -> tuple[float, float]:
    """From the covariances of the clips at each place, pooled by their degrees of freedom."""
    total, freedom = np.zeros((latents.shape[1], latents.shape[1])), 0
    for place in range(latents.shape[2]):
        clips = latents[counted[:, place], :, place].double().numpy()
        if len(clips) > 1:
            total += (len(clips) - 1) * np.cov(clips.T)
            freedom += len(clips) - 1
    pooled = total / freedom
    hinge = np.maximum(0, 1 - np.sqrt(np.diag(pooled))).mean()
    return float(hinge), float((pooled**2)[~np.eye(len(pooled), dtype=bool)].sum() / len(pooled))


@pytest.mark.parametrize("share", [1.0, 0.6])
def test_terms_are_those_of_the_covariances_between_clips_at_one_place(share: float) -> None:
    generator = torch.Generator().manual_seed(0)
    size = torch.tensor([0.2, 0.6, 1.0, 3.0])[:, None]
    latents = size * torch.randn(7, 4, 5, generator=generator) + 4 * torch.randn(1, 4, 5, generator=generator)
    latents[:, 1] += latents[:, 3]
    counted = torch.rand(7, 5, generator=generator) < share
    counted[1:, 4] = False  # a place of one clip tells nothing
    latents = torch.where(counted[:, None], latents, 88.0)
    assert found(latents, counted) == pytest.approx(by_numpy(latents, counted), rel=1e-4)


def test_two_clips_by_hand() -> None:
    """At the only place -1 and 1 in one dim, -.1 and .1 in the other: variances 2 and .02, covariance .2."""
    latents = torch.tensor([[[-1.0], [-0.1]], [[1.0], [0.1]]]) + 5
    assert found(latents) == pytest.approx((0.5 * (1 - 0.02**0.5), 2 * 0.2**2 / 2), rel=1e-4)


def test_a_clock_has_collapsed_whatever_it_shows() -> None:
    clock = torch.randn(1, 6, 9, generator=torch.Generator().manual_seed(1)).expand(8, 6, 9)
    assert found(clock) == pytest.approx((1.0, 0.0), abs=2e-4)


def test_dims_of_their_own_that_move_cost_next_to_nothing_and_more_is_no_merit() -> None:
    free = torch.randn(400, 6, 9, generator=torch.Generator().manual_seed(2))
    for size in (1.1, 5.0):
        variance, covariance = found(size * free)
        assert variance == 0 and covariance < 0.02 * size**4
    same = free[:, :1] / free[:, :1].std(dim=0).square().mean().sqrt()
    assert found(same.expand(-1, 6, -1))[1] == pytest.approx(5, rel=1e-3)  # each says what five others say


def test_one_clip_has_no_others_and_latents_at_rest_have_a_gradient() -> None:
    assert found(torch.randn(1, 3, 5)) == (0.0, 0.0)
    still = torch.zeros(4, 3, 5, requires_grad=True)
    terms = collapse_losses(still, torch.ones(4, 5, dtype=torch.bool))
    (terms.variance + terms.covariance).backward()
    assert still.grad is not None and bool(still.grad.isfinite().all())


@pytest.mark.parametrize(("variance", "covariance"), [(0.5, 0.0), (0.0, 0.25), (0.2, 0.01), (0.0, 0.0)])
def test_stage_1_learns_by_its_prediction_and_the_terms_of_what_the_context_shows(
    variance: float, covariance: float
) -> None:
    """Over the frames of each clip that are not masked; padding and what was masked say nothing of the context."""
    torch.manual_seed(0)
    config = CONFIGS["spectral"]
    weights = {"variance_weight": variance, "covariance_weight": covariance}
    jepa = Jepa(config.encoder, config.jepa.model_copy(update=weights)).eval()
    wave, lengths = 0.3 * torch.randn(5, 8 * HOP), torch.tensor([8, 8, 7, 8, 4]) * HOP
    masked = torch.arange(8) % 3 == torch.arange(5)[:, None] % 3
    masked &= torch.arange(8) < (lengths // HOP)[:, None]
    visible = ~masked & (torch.arange(8) < (lengths // HOP)[:, None])
    out = jepa(wave, lengths, masked)
    total, loss = float(out.total.detach()), float(out.loss.detach())
    context = jepa.forward_context(wave, lengths, masked).detach()
    hinge, shared = by_numpy(context, visible)
    assert total == pytest.approx(loss + variance * hinge + covariance * shared, rel=1e-4)
    assert total > loss or not variance + covariance
    (out.total - out.loss).backward()
    moved = [p.grad for p in jepa.context_encoder.parameters() if p.grad is not None and p.grad.any()]
    assert bool(moved) == bool(variance + covariance)
    assert not any(p.grad is not None and p.grad.any() for p in jepa.predictor.parameters())
