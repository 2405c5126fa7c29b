"""The cost of a run, read from its own files: for the plan's page, beside what was predicted.

Outputs hold no times (the same input gives the same bytes). The trainings keep their pace apart in
``timings.parquet``; the wall-clock hours of the other stages are in the run's ``stage_timings.json``.
"""

from __future__ import annotations

from typing import Any

import pyarrow.parquet as pq

from syllabary.shards import outputs, store
from syllabary.shards.archive.ledger import shards_in
from syllabary.shards.archive.parts import part_name
from syllabary.shards.errors import NotFoundError
from syllabary.shards.store import Folder
from syllabary.workers.control.run_layout import PipelineLayout
from syllabary.workers.control.timings import read_timings
from syllabary.workers.training.checkpoints import CheckpointStore
from syllabary.workers.training.history import TIMINGS, History

_HOUR = 3600


def actual_of(run: str) -> dict[str, float]:
    """The figures of the run at ``run`` by the prediction's names; what is not there is left out.

    Raises:
        NotFoundError: nothing of ours is at ``run``.
    """
    outputs.read_claim(run, "run")
    layout = PipelineLayout(run)
    figures: dict[str, Any] = {}
    for take in (_shards, _archive, _trainings, _stages):
        figures |= take(layout)
    return {name: value for name, value in figures.items() if value is not None}


def restored_fraction(run: str) -> float | None:
    """The part of the stored audio that the run gave back; None before both are complete."""
    layout = PipelineLayout(run)
    stored, restored = outputs.read_done(layout.shards), outputs.read_done(layout.restored)
    return restored["duration_s"] / stored["stored_s"] if stored and restored and stored["stored_s"] else None


def killed_attempts(run: str) -> dict[str, int]:
    """Count attempts at each stage that never ended: their time is in no figure. Stages without are left out."""
    killed = {stage: one.began - one.ended for stage, one in read_timings(run).items()}
    return {stage: count for stage, count in killed.items() if count > 0}


def _shards(layout: PipelineLayout) -> dict[str, Any]:
    done = outputs.read_done(layout.shards)
    if done is None:
        return {}
    return {
        "hours": done["input_s"] / _HOUR,
        "stored_h": done["stored_s"] / _HOUR,
        "shards_bytes": _bytes_below(Folder(layout.shards) / "shards"),
    }


def _archive(layout: PipelineLayout) -> dict[str, Any]:
    if outputs.read_done(layout.archive) is None:
        return {}
    archive = Folder(layout.archive)
    parts = [part_name(shard) for shard in shards_in(layout.archive)]
    claim = outputs.read_claim(layout.archive, "archive")["config"]
    groups = -(-claim["num_dims"] // claim["group_size"])
    frames = sum(_frames(archive, part) for part in parts)
    return {"tokens": frames * groups, "archive_bytes": sum(store.size_bytes(archive.join(part)) for part in parts)}


def _frames(archive: Folder, part: str) -> int:
    with archive.open(part) as file:
        column = pq.read_table(file, columns=["num_frames"])["num_frames"]
    return int(column.to_numpy().sum())


def _trainings(layout: PipelineLayout) -> dict[str, Any]:
    stages = {"pretrain_h": layout.pretrain, "codec_h": layout.codec}
    figures: dict[str, Any] = {name: _hours(uri) for name, uri in stages.items()}
    kept = [CheckpointStore(uri).folder for uri in stages.values()]
    figures["checkpoints_bytes"] = _bytes_below(*kept) or None
    return figures


def _stages(layout: PipelineLayout) -> dict[str, Any]:
    """Hours of the stages that are complete, where the pipeline ran and timed them."""
    places = {"shard": layout.shards, "tokenize": layout.archive, "restore": layout.restored}
    times = read_timings(layout.root)
    complete = [stage for stage, uri in places.items() if stage in times and outputs.read_done(uri) is not None]
    return {f"{stage}_h": times[stage].seconds / _HOUR for stage in complete}


def _hours(run_uri: str) -> float | None:
    """Hours of the steps alone: each logged pace holds for the steps since the one before."""
    if outputs.read_done(run_uri) is None:
        return None
    try:
        history = History.from_parquet(Folder(run_uri).read(TIMINGS))
    except NotFoundError:
        return None
    steps, paces = history.series("timing", "step_s")
    before = [0, *steps[:-1]]
    return sum((step - last) * pace for step, last, pace in zip(steps, before, paces, strict=True)) / _HOUR


def _bytes_below(*folders: Folder) -> int:
    return sum(entry.size_bytes for folder in folders for entry in folder.list())


TAKEN_FROM: dict[str, str] = {
    "hours": "shards/done.json, input_s",
    "stored_h": "shards/done.json, stored_s",
    "shards_bytes": "the tars",
    "tokens": "the archive's parts, num_frames x groups",
    "archive_bytes": "the archive's parts",
    "shard_h": "stage_timings.json, start-up and all",
    "tokenize_h": "stage_timings.json, start-up and all",
    "restore_h": "stage_timings.json, start-up and all; predicted for what the run restored",
    "pretrain_h": "pretrain/timings.parquet, steps alone",
    "codec_h": "codec/timings.parquet, steps alone",
    "checkpoints_bytes": "the checkpoints",
}
