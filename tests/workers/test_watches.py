"""What is watched besides the losses, on latents whose answer is known."""

from __future__ import annotations

import pytest
import torch

from workers.watches import relative_loss


def test_predicting_the_mean_has_relative_loss_1_at_any_scale():
    targets = torch.randn(500, 4, generator=torch.Generator().manual_seed(0)) * torch.tensor([1.0, 2.0, 3.0, 4.0]) + 5
    for scale in (1e-3, 1.0, 10.0):
        scaled = targets * scale
        error = float((scaled - scaled.mean(dim=0)).square().mean())
        assert relative_loss(error, scaled) == pytest.approx(1, rel=1e-4)
        assert relative_loss(error / 2, scaled) == pytest.approx(0.5, rel=1e-4)
