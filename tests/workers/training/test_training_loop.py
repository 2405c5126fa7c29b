"""What a run does around the steps of its stage, without a stage that learns."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch

from syllabary.shards import store
from syllabary.shards.errors import StorageError
from syllabary.workers.training import loop
from syllabary.workers.training.checkpoints import CheckpointStore
from syllabary.workers.training.data.clips import Batch
from syllabary.workers.training.history import History
from syllabary.workers.training.loop import Run
from syllabary.workers.training.throughput import Pace


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


class Loader:
    """Where a loader stands, and whether it was told to stand elsewhere."""

    def __init__(self, position: int = 0) -> None:
        self.position, self.waited_s, self.utterances = position, 0.0, SimpleNamespace(sample_rate=1000)

    def seek(self, position: int) -> None:
        self.position = position


def test_a_run_goes_on_with_the_best_step_the_position_and_the_losses_of_its_checkpoint(tmp_path: Path) -> None:
    train: Any = SimpleNamespace(keep_checkpoints=1)
    stage: Any = SimpleNamespace(engines={}, headline="loss")
    nothing: Any = None
    run = Run(str(tmp_path), train, cast(Any, Loader()), nothing, identity="i", quarantined={"u": "damaged"})
    for run.step, loss in ((2, 0.25), (4, 0.5)):
        run.loader.position = 10 * run.step
        run.history.add(run.step, "valid", {"loss": loss})
        assert loop._store(stage, run) is None
    assert run.checkpoints.steps() == [2, 4], "the last, and the best"
    said = list[Any]()
    again = Run(str(tmp_path), train, cast(Any, Loader()), said.append, identity="i")
    loop.resume(stage, again, 4)
    assert (again.step, again.best, again.loader.position) == (4, (2, 0.25), 40)
    assert again.quarantined == {"u": "damaged"} and again.history.series("valid", "loss") == ([2, 4], [0.25, 0.5])
    assert said == ["resumes from the checkpoint of step 4"]


def test_what_a_logged_stretch_took_stays_in_the_metrics(tmp_path: Path) -> None:
    run, said = run_of(tmp_path)
    run.step, run.train = 6, cast(Any, SimpleNamespace(num_steps=10))
    loader, now = Loader(), [0.0]
    pace = Pace(cast(Any, loader), clock=lambda: now[0])
    for _ in range(2):
        pace.count([Batch(torch.zeros(1, 3000), torch.tensor([3000]), ())])
    now[0] = 4.0
    loop._log(cast(Any, SimpleNamespace(name="codec", headline="mel")), run, pace, 0.5)
    timing = {name: run.history.series("timing", name) for name in ("step_s", "audio_s_per_s", "eta_s")}
    assert timing == {"step_s": ([6], [2.0]), "audio_s_per_s": ([6], [1.5]), "eta_s": ([6], [8.0])}
    assert str(said[0]).startswith("6/10 steps · mel 0.5000")


def test_of_a_checkpoint_that_cannot_be_committed_nothing_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its files fill a disk that is full already."""

    def full(self: CheckpointStore, manifest: object) -> None:
        raise StorageError("the disk is full")

    run, _ = run_of(tmp_path)
    run.step, run.loader, run.train = 2, cast(Any, Loader()), cast(Any, SimpleNamespace(keep_checkpoints=1))
    stage: Any = SimpleNamespace(engines={}, headline="loss")
    assert loop._store(stage, run) is None
    kept = run.checkpoints.folder.list()
    run.step = 4
    monkeypatch.setattr(CheckpointStore, "commit", full)
    assert loop._store(stage, run) == "the disk is full"
    assert run.checkpoints.folder.list() == kept and {file.name.partition("/")[0] for file in kept} == {"step-00000002"}
