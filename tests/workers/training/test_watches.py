"""What is watched besides the losses, on latents whose answer is known."""

from __future__ import annotations

import pytest
import torch

from syllabary.model.config import DaamConfig
from syllabary.model.daam import Daam
from syllabary.model.jepa import Jepa
from syllabary.workers.training.watches.health import (
    daam_spread,
    ema_distance,
    gate_health,
    latent_health,
    per_dim,
    token_perplexity,
)
from tests.helpers.small_models import CONFIGS


def test_latents_of_known_spread():
    flat = torch.randn(4000, 3, generator=torch.Generator().manual_seed(0)) * torch.tensor([2.0, 2.0, 0.0])
    found = latent_health(flat)
    assert found["latent_effective_rank"] == pytest.approx(2, abs=0.01)
    assert found["latent_std_min"] == 0
    assert found["latent_std_max"] == pytest.approx(2, rel=0.05)
    assert found["latent_std_mean"] == pytest.approx(float(flat.std(dim=0).mean()), rel=1e-3)


def test_figures_of_single_dims_are_named_by_dim():
    assert per_dim("latent_std", torch.tensor([0.5, 0.25])) == {"latent_std[000]": 0.5, "latent_std[001]": 0.25}


def test_distance_of_the_target_from_the_context_encoder():
    torch.manual_seed(0)
    jepa = Jepa(CONFIGS["waveform"].encoder, CONFIGS["waveform"].jepa)
    assert ema_distance(jepa) == 0
    with torch.no_grad():
        for parameter in jepa.context_encoder.parameters():
            parameter.mul_(2)
    assert ema_distance(jepa) == pytest.approx(0.5)


def test_components_that_act_as_one_have_no_spread():
    same = Daam(4, DaamConfig(init="paper", alpha_init=0.2))
    assert daam_spread(same) == {
        "daam_offset_spread": 0, "daam_scale_spread": 0, "daam_alpha_mean": pytest.approx(0.2)
    }  # fmt: skip
    apart = Daam(4, DaamConfig(init="spread"))
    with torch.no_grad():
        apart.offset.copy_(torch.tensor([-1.0, 1.0, -1.0, 1.0]))
    assert daam_spread(apart)["daam_offset_spread"] == pytest.approx(1)
    assert daam_spread(apart)["daam_scale_spread"] > 0.5
    assert daam_spread(torch.nn.Linear(2, 2)) == {}


def test_gates_and_token_perplexity():
    assert gate_health(torch.tensor([1.0, 3.0])) == {"gate_mean": 2, "gate_std": 1}
    tokens = torch.stack([torch.arange(8) % 4, torch.zeros(8, dtype=torch.long)], dim=1)
    assert token_perplexity(tokens) == pytest.approx(2)  # four ids at one position, one at the other
    assert token_perplexity(tokens[:, :1]) == pytest.approx(4)
