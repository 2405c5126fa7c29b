"""What stage 2 tells of a step and of its heads, without an engine and without a training."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch

from syllabary.workers.training import codec
from syllabary.workers.training.codec import CodecStage, validate_heads
from syllabary.workers.training.data.clips import Batch
from tests.helpers.training_testing import training_recipe


def batch_of(*lengths: int) -> Batch:
    slots: Any = tuple(range(len(lengths)))
    return Batch(torch.zeros(len(lengths), max(lengths)), torch.tensor(lengths), slots)


class Heads:
    """A bottleneck whose mel head is as far off as 7 and whose pitch nobody looks at."""

    trunk = SimpleNamespace(samples_per_position=1)

    def __call__(self, waveform: torch.Tensor, num_samples: torch.Tensor, routing: object) -> SimpleNamespace:
        return SimpleNamespace(mel=torch.tensor(7.0), pitch=None)


class Mel:
    hop_length = 1

    def __call__(self, waveform: torch.Tensor) -> torch.Tensor:
        return waveform


def test_a_step_tells_the_mean_of_its_micro_batches_by_their_samples() -> None:
    stage: Any = object.__new__(CodecStage)
    stage._config, stage._setup = training_recipe().codec, SimpleNamespace(device=torch.device("cpu"))
    rates, judged, parts = list[float](), list[bool](), iter([1.0, 5.0] * 2)
    stage._prepare = rates.append

    def step_of(batch: Batch, share: object, adversarial: bool) -> dict[str, torch.Tensor]:
        judged.append(adversarial)
        return {"total": torch.tensor(next(parts)), "mrstft": torch.tensor(float(batch.num_samples.sum()))}

    stage._micro_step, stage._step_engines = step_of, lambda adversarial: {"gradient_norm": 3.0}
    for step in (4, 5):  # the discriminators begin behind step 4
        told = stage.train_step(step, [batch_of(8, 4), batch_of(4)], 1e-3, detailed=False)
        assert told == {"total": 1 * 12 / 16 + 5 * 4 / 16, "mrstft": 12 * 12 / 16 + 4 * 4 / 16, "gradient_norm": 3.0}
    assert rates == [1e-3] * 2 and judged == [False, False, True, True]


@pytest.mark.parametrize(
    ("counts", "voicing_wrong", "pitch_wrong"),
    [([(1, 4, 1, 1)], 0.25, 1.0), ([(4, 4, 0, 0)], 1.0, 0.0), ([(1, 5, 2, 3), (0, 3, 1, 5)], 1 / 8, 3 / 8)],
)
def test_shares_of_wrong_pitch_are_of_the_positions_of_all_clips(
    monkeypatch: pytest.MonkeyPatch, counts: list[tuple[int, ...]], voicing_wrong: float, pitch_wrong: float
) -> None:
    """From counts of wrong voicing, positions, wrong pitch and positions voiced in both, a batch each."""
    told = iter(counts)
    monkeypatch.setattr(codec, "pitch_errors", lambda *_: tuple(map(torch.tensor, next(told))))
    monkeypatch.setattr(codec, "heard_pitch", lambda *_: None)
    monkeypatch.setattr(codec, "mel_l1", lambda predicted, *_: predicted)
    found = validate_heads(cast(Any, Heads()), cast(Any, Mel()), [batch_of(4, 2)] * len(counts), torch.device("cpu"))
    assert found == {"mel_head": 7.0, "voicing_wrong": voicing_wrong, "pitch_wrong": pitch_wrong}
