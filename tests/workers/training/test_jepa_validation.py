"""Validation of stage 1 judges without dropout, whatever mode the model was in."""

from __future__ import annotations

from typing import Any

import torch

from syllabary.model.jepa import Jepa
from syllabary.model.masking import sample_mask
from syllabary.workers.training.data.clips import Batch
from syllabary.workers.training.jepa import validate_jepa
from tests.helpers.small_models import HOP
from tests.helpers.training_testing import training_recipe


def test_a_model_in_training_is_judged_as_it_is_at_rest() -> None:
    recipe = training_recipe(model__jepa__predictor__dropout=0.5)
    torch.manual_seed(0)
    jepa = Jepa(recipe.model.encoder, recipe.model.jepa)
    waves = 0.3 * torch.randn(12, 10 * HOP)
    slots: Any = tuple(range(12))
    batch = Batch(waves, torch.full((12,), 10 * HOP), slots)
    mask = sample_mask([10] * 12, recipe.model.jepa, torch.Generator().manual_seed(0))
    found = [validate_jepa(jepa.train(mode), [(batch, mask)], torch.device("cpu"), recipe) for mode in (False, True)]
    assert not jepa.training
    assert found[0] == found[1]
    # dropout would show: in training the predictor gives another answer
    latents = jepa.target_encoder(waves, batch.num_samples).latents
    assert not torch.equal(jepa.train().predictor(latents, None), jepa.eval().predictor(latents, None))
