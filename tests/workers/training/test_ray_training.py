"""Which device the ranks of a training job get: decided once, by the driver, for all of them."""

from __future__ import annotations

import pytest

from syllabary.workers.recipes.training import TrainConfig
from syllabary.workers.training.driver import device_of_all_ranks


@pytest.mark.parametrize(
    ("asked", "num_gpus", "device"),
    [
        ("auto", 0, "cpu"),
        ("auto", 1, "cpu"),
        ("auto", 2, "cuda"),
        ("auto", 8, "cuda"),
        ("cpu", 8, "cpu"),
        ("cuda", 0, "cuda"),
    ],
)
def test_auto_takes_gpus_only_when_there_is_one_for_each_rank(asked: str, num_gpus: int, device: str) -> None:
    assert device_of_all_ranks("pretrain", TrainConfig(device=asked, num_workers=2), num_gpus) == device


def test_too_few_gpus_are_told_and_none_is_no_news(capfd: pytest.CaptureFixture[str]) -> None:
    train = TrainConfig(num_workers=2)
    device_of_all_ranks("pretrain", train, 0)
    assert "GPU" not in capfd.readouterr().err
    device_of_all_ranks("pretrain", train, 1)
    assert "1 GPUs are fewer than 2 ranks, so the CPU trains; set num_workers to 1 or fewer" in capfd.readouterr().err
