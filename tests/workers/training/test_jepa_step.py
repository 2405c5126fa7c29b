"""How a step of stage 1 weighs its micro-batches: by the frames that each has to predict."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from syllabary.workers.training import jepa as jepa_module
from syllabary.workers.training.data.clips import Batch
from syllabary.workers.training.jepa import JepaStage


class _Engine:
    """An engine whose loss of its n-th micro-batch is n."""

    def __init__(self) -> None:
        self._losses = iter(range(1, 9))

    def train(self) -> None:
        pass

    def __call__(self, *_: Any) -> Any:
        loss = torch.tensor(float(next(self._losses)))
        return SimpleNamespace(total=loss, loss=loss, prediction_std=loss, target_std=loss)


@pytest.mark.parametrize(
    ("masked", "loss", "shares"),
    [
        ([1], 1.0, [1.0]),
        ([3, 1], (3 * 1 + 1 * 2) / 4, [2 * 3 / 4, 2 * 1 / 4]),  # the engine divides by its two micro-batches
        ([0, 1], 2.0, [0.0, 2.0]),
        ([0], 0.0, [0.0]),
    ],
)
def test_a_micro_batch_weighs_as_many_frames_as_it_has_to_predict(
    monkeypatch: pytest.MonkeyPatch, masked: list[int], loss: float, shares: list[float]
) -> None:
    told: list[float] = []
    monkeypatch.setattr(jepa_module, "set_learning_rate", lambda engine, lr: None)
    monkeypatch.setattr(jepa_module, "step_engine", lambda engine: {})
    monkeypatch.setattr(jepa_module, "backward", lambda engine, value: told.append(float(value)))
    stage: Any = object.__new__(JepaStage)
    stage._setup, stage.engines = SimpleNamespace(device=torch.device("cpu")), {"jepa": _Engine()}
    stage._jepa = SimpleNamespace(update_target=lambda: None)
    stage._masks = lambda batch: torch.arange(4)[None] < batch.num_samples[:, None]
    slots: Any = (0,)
    batches = [Batch(torch.zeros(1, 4), torch.tensor([count]), slots) for count in masked]
    found = stage.train_step(1, batches, 1e-3, detailed=True)
    assert found["loss"] == pytest.approx(loss)
    assert told == [pytest.approx(share * (number + 1)) for number, share in enumerate(shares)]
