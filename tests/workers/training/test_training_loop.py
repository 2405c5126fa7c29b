"""What a run does around the steps of its stage, without a stage that learns."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from syllabary.shards import store
from syllabary.shards.errors import StorageError
from syllabary.workers.training import loop
from syllabary.workers.training.history import History
from syllabary.workers.training.loop import Run


def stage_of(*losses: float) -> Any:
    """A stage that finds these losses, one a validation, and keeps the steps that it is asked to illustrate."""
    told, shown = iter(losses), list[int]()
    return SimpleNamespace(headline="loss", validate=lambda: {"loss": next(told)}, warnings=lambda _: [],
                           illustrate=shown.append, shown=shown)  # fmt: skip


def run_of(folder: Path) -> tuple[Run, list[Any]]:
    said = list[Any]()
    nothing: Any = None
    return Run(str(folder), nothing, nothing, said.append), said


def test_each_validation_can_be_read_as_soon_as_it_is_done(tmp_path: Path) -> None:
    """While the run goes on: ``status`` and whoever watches read the metrics from storage."""
    stage, (run, _) = stage_of(0.5, 0.25), run_of(tmp_path)
    for run.step, known in ((0, [0.5]), (4, [0.5, 0.25])):
        loop._validate(stage, run)
        history = History.from_parquet(store.read_bytes(store.join(str(tmp_path), "metrics.parquet")))
        assert history.series("valid", "loss") == ([0, 4][: len(known)], known)
    assert stage.shown == [0, 4]


def test_metrics_that_cannot_be_stored_are_told_and_the_run_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: History, run_uri: str) -> None:
        raise StorageError("the disk is full")

    monkeypatch.setattr(History, "publish", full)
    stage, (run, said) = stage_of(0.5), run_of(tmp_path)
    loop._validate(stage, run)
    assert said[-1] == "metrics of step 0 could not be stored: the disk is full" and not stage.shown
