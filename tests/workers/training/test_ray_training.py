"""When a group of ranks that fails is started again."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from syllabary.shards.errors import JobError
from syllabary.workers.recipes.recipe import TrainConfig
from syllabary.workers.training import driver as ray_training
from syllabary.workers.training import rank


def restarts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, ends: list[int | None], max_restarts: int) -> int:
    """How often the group is started when it ends at these steps in turn (None: it finished)."""
    reached, starts = [0], []

    def ends_at(*_: object) -> str | None:
        starts.append(reached[0])
        at = ends[len(starts) - 1]
        reached[0] = reached[0] if at is None else at
        return None if at is None else "a worker died"

    monkeypatch.setattr(ray_training, "_fit_once", ends_at)
    monkeypatch.setattr(ray_training, "_last", lambda checkpoints: reached[0])
    job = SimpleNamespace(run_uri=str(tmp_path))
    ray_training._until_done("pretrain", lambda job: None, TrainConfig(max_restarts=max_restarts), job, str(tmp_path))
    return len(starts)


def test_a_group_that_gets_further_may_fail_again_and_again(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert restarts(monkeypatch, tmp_path, [0, 0, 10, 10, 20, 30, 40, 50, None], max_restarts=2) == 9


@pytest.mark.parametrize(("ends", "step"), [([0, 0, 0, None], "0"), ([10, 10, 10, None], "10")])
def test_a_group_that_gets_no_further_is_given_up(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, ends: list[int | None], step: str
) -> None:
    with pytest.raises(JobError, match=f"pretrain failed 3 times after step {step}: a worker died"):
        restarts(monkeypatch, tmp_path, ends, max_restarts=2)
    assert restarts(monkeypatch, tmp_path, ends, max_restarts=3) == 4


@pytest.mark.parametrize("own_rank", [0, 1])
def test_the_first_rank_alone_speaks_and_is_measured(monkeypatch: pytest.MonkeyPatch, own_rank: int) -> None:
    told: list[object] = []
    monkeypatch.setattr(rank, "world", lambda: (own_rank, 2))
    monkeypatch.setattr(
        rank, "Meter", lambda *names: SimpleNamespace(advance=lambda *given: told.append((names, given)))
    )
    job: Any = SimpleNamespace(run_uri="run", mailbox=SimpleNamespace(put=SimpleNamespace(remote=told.append)))
    rank._leader_says(job)("step 1")
    rank._leader_meters(job, "pretrain")(2.0, 30.0)
    assert told == (["step 1", (("pretrain", "run"), (2.0, 30.0))] if own_rank == 0 else [])
