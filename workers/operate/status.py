"""``syllabary status URI``: what an output folder holds, how far it is, and what failed.

Reads claims, commits, ledgers and summaries; no audio, no tokens, no weights. A folder that is being written may be
looked at: what is committed at that moment is reported.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from syllabary.shards import dataset, outputs, store
from syllabary.shards.archive.ledger import QUARANTINED, TOKENIZED, read_ledger, shards_in
from syllabary.shards.errors import NotFoundError, StorageError, SyllabaryError
from syllabary.shards.ingest import ledger as ingest_ledger
from syllabary.shards.ingest.planning import read_plans
from syllabary.shards.store import Folder
from syllabary.shards.words import counted
from syllabary.workers.control.jobs import StatusJob
from syllabary.workers.control.run_layout import LM_FIGURES, POINTER, PipelineLayout
from syllabary.workers.operate.status_table import (
    COMPLETE,
    DAMAGED,
    UNFINISHED,
    Failure,
    Status,
    as_table,
    next_step,
)
from syllabary.workers.report.card import REPORT, UTTERANCES
from syllabary.workers.training.checkpoints import CheckpointStore, Manifest

_READERS = 16


def status(job: StatusJob) -> dict[str, Any]:
    """The status of the folder at ``job.uri``, of each stage below it when it is a run, and a table as ``text``.

    Raises:
        NotFoundError: nothing is there, or nothing of ours.
        StorageError: the store fails or refuses.
    """
    statuses = look(job.uri)
    return {"outputs": [asdict(one) for one in statuses], "text": as_table(statuses)}


def look(uri: str) -> list[Status]:
    """The status of a folder; of a run, its own and then those of its stages that exist."""
    uri = store.normalize(uri)
    holds = kind_of(uri)
    if holds is None:
        raise _nothing(uri)
    own = _described(uri, holds)
    own = replace(own, next_step=next_step(own))
    if holds != "run":
        return [own]
    stages = [_described(place, kind) for place in _places(uri) if (kind := kind_of(place)) is not None]
    stages = [_of_run(stage, stages) for stage in stages]
    return [own, *(replace(stage, next_step=next_step(stage, own)) for stage in stages)]


def kind_of(uri: str) -> str | None:
    """The kind of output at a URI, or None where it is none of ours."""
    folder = Folder(uri)
    for name in (outputs.CLAIM, "config.json"):  # a tokenizer directory has only the latter
        if folder.exists(name) and isinstance(kind := folder.read_json(name).get("kind"), str):
            return kind
    return "registry" if folder.exists(POINTER) else None


def _nothing(uri: str) -> NotFoundError:
    if not store.exists(uri):
        return NotFoundError("nothing there", value=uri, fix="check the URI")
    expected = f"a folder with {outputs.CLAIM}, or a tokenizer directory"
    fix = outputs.inside_bag(uri) or "give the --out or --archive of a verb"
    return NotFoundError("no output of syllabary", value=uri, expected=expected, fix=fix)


def _places(run: str) -> list[str]:
    names = {entry.name.partition("/")[0] for entry in store.list_files(run) if "/" in entry.name}
    order = list(PipelineLayout(run).stages().values())
    places = [store.join(run, name) for name in sorted(names)]
    return [p for p in order if p in places] + [p for p in places if p not in order]


def _described(uri: str, holds: str) -> Status:
    """The status of one folder; damage of its own files is its state, never a failed command."""
    blank = Status(uri, holds, size_bytes=_size_bytes(uri))
    try:
        return _DESCRIBERS.get(holds, _plain)(blank)
    except SyllabaryError as error:
        if isinstance(error, StorageError) and not isinstance(error, NotFoundError):
            raise
        return replace(blank, state=DAMAGED, failures=(Failure(str(error), 1),))


def _of_run(stage: Status, stages: list[Status]) -> Status:
    """An archive alone does not know how many shards there are; beside its shards it does."""
    shards = next((one for one in stages if one.holds == "shards"), None)
    if stage.holds != "archive" or shards is None or shards.total is None:
        return stage
    return replace(stage, total=shards.total, progress=f"{stage.done:,}/{shards.total:,} parts")


def _state(uri: str) -> str:
    return COMPLETE if outputs.read_done(uri) is not None else UNFINISHED


def _shards(blank: Status) -> Status:
    outputs.read_claim(blank.uri, "shards")
    committed = dataset.committed_shards(blank.uri)
    planned = sum(len(generation) for generation in read_plans(blank.uri)) or None
    done = outputs.read_done(blank.uri)
    rows = done["ledger"] if done else ingest_ledger.totals(ingest_ledger.read_ledger(blank.uri, committed))
    total = planned or (len(committed) if done else None)
    stored_s = sum(row["duration_s"] for row in rows if row["status"] == "shard")
    return replace(
        blank, state=_state(blank.uri), done=len(committed), total=total, unit="shards", duration_s=round(stored_s, 3),
        progress=f"{len(committed):,}/{total:,} shards" if total else counted(len(committed), "shard"),
        failures=tuple(
            Failure(f"quarantined: {row['detail']}", row["num_recordings"], row["duration_s"])
            for row in rows if row["status"] == "quarantined"
        ),
    )  # fmt: skip


def _archive(blank: Status) -> Status:
    outputs.read_claim(blank.uri, "archive")
    parts = shards_in(blank.uri)
    done = outputs.read_done(blank.uri)
    if done and not done["num_quarantined"]:
        tokenized_s: float = done["tokenized_s"]
        failures: tuple[Failure, ...] = ()
    else:
        tokenized_s, failures = _archive_ledgers(blank.uri, parts)
    total = int(done["num_parts"]) if done else None
    state = _state(blank.uri) if total in (None, len(parts)) else UNFINISHED
    progress = f"{len(parts):,}/{total:,} parts" if total else counted(len(parts), "part")
    return replace(
        blank, state=state, done=len(parts), total=total, unit="parts", duration_s=tokenized_s, progress=progress,
        failures=failures,
    )  # fmt: skip


def _archive_ledgers(uri: str, parts: list[str]) -> tuple[float, tuple[Failure, ...]]:
    with ThreadPoolExecutor(_READERS) as pool:
        tables = list(pool.map(lambda shard: read_ledger(uri, shard).rows, parts))
    if not tables:
        return 0.0, ()
    rows = pa.concat_tables(tables)
    seconds = pc.divide(pc.cast(rows["num_samples"], pa.float64()), pc.cast(rows["sample_rate"], pa.float64()))
    sums = rows.select(["status", "reason"]).append_column("duration_s", seconds).group_by(["status", "reason"])
    counts = sums.aggregate([("duration_s", "sum"), ("duration_s", "count")]).to_pylist()
    tokenized_s = sum(row["duration_s_sum"] for row in counts if row["status"] == TOKENIZED)
    failures = [
        Failure(f"quarantined: {row['reason']}", row["duration_s_count"], round(row["duration_s_sum"], 3))
        for row in counts if row["status"] == QUARANTINED
    ]  # fmt: skip
    return round(tokenized_s, 3), tuple(sorted(failures, key=lambda f: (-f.count, f.reason)))


def _training(blank: Status) -> Status:
    claim, done = outputs.read_claim(blank.uri), outputs.read_done(blank.uri)
    total = int(claim["config"]["train"]["num_steps"])
    checkpoints = CheckpointStore(blank.uri)
    steps = checkpoints.steps()
    reached = int(done["steps"]) if done else max(steps, default=0)
    told = " checkpointed" if done is None else _learned(done)
    quarantined = done["quarantined"] if done else _quarantined(checkpoints, steps)
    return replace(
        blank, state=_state(blank.uri), done=reached, total=total, unit="steps",
        progress=f"{reached:,}/{total:,} steps{told}",
        failures=tuple(Failure(f"quarantined {name}: {reason}", 1) for name, reason in sorted(quarantined.items())),
    )  # fmt: skip


def _learned(done: dict[str, Any]) -> str:
    names = [name.removeprefix("final_valid_") for name in done if name.startswith("final_valid_")]
    losses = [f", {n} {done[f'first_valid_{n}']:.4f} → {done[f'final_valid_{n}']:.4f}" for n in sorted(names)]
    warned = [one["name"] for one in done.get("warnings", []) if one["last_step"] == done["steps"]]
    return "".join(losses) + (f", warns: {', '.join(warned)}" if warned else "")


def _quarantined(checkpoints: CheckpointStore, steps: list[int]) -> dict[str, str]:
    return dict(Manifest.read(checkpoints.of_step(steps[-1])).state["quarantined"]) if steps else {}


def _tokenizer(blank: Status) -> Status:
    config = blank.folder.read_json("config.json")
    needed = ("encoder.safetensors", "decoder.safetensors")
    missing = [name for name in needed if not blank.folder.exists(name)]
    digests = " · ".join(f"{part} {str(config.get(f'{part}_digest'))[:12]}" for part in ("encoder", "decoder"))
    failures = tuple(Failure(f"missing {name}", 1) for name in missing)
    return replace(blank, state=UNFINISHED if missing else COMPLETE, progress=digests, failures=failures)


def _restored(blank: Status) -> Status:
    return _plain(blank) if outputs.read_done(blank.uri) else _so_far(blank, "audio", "files")


def _evaluation(blank: Status) -> Status:
    """What could not be scored is in the report; before there is one, how many utterances have results."""
    if outputs.read_done(blank.uri) is None:
        return _so_far(blank, UTTERANCES, "utterances scored")
    failed = blank.folder.read_json(REPORT)["failures"]
    reasons = Counter(f"{one['system']} {one['metric']}: {one['reason']}" for one in failed)
    return replace(_plain(blank), failures=tuple(Failure(why, count) for why, count in reasons.most_common()))


def _so_far(blank: Status, folder: str, unit: str) -> Status:
    count = len((blank.folder / folder).list())
    return replace(blank, done=count, unit=unit, progress=f"{count:,} {unit} so far")


def _packed(blank: Status) -> Status:
    splits = outputs.read_done(blank.uri) or {}
    told = [f"{split} {counted(counts['num_documents'], 'document')}" for split, counts in splits.items()]
    return replace(blank, state=_state(blank.uri), progress=", ".join(told))


def _spans(blank: Status) -> Status:
    """Salient spans are one file, whole or not there; so are the figures of a language model. Its samples are done when
    they say so."""
    if blank.folder.exists(LM_FIGURES):
        told = blank.folder.read_json(LM_FIGURES)
        return replace(blank, state=COMPLETE, progress=f"a language model's {told['bits_per_s']:.1f} bit/s")
    if outputs.read_done(blank.uri) is not None:
        return _plain(blank)
    there = blank.folder.exists("spans.parquet")
    return replace(blank, state=COMPLETE if there else UNFINISHED, progress="salient spans")


def _language_model(blank: Status) -> Status:
    claim, done = outputs.read_claim(blank.uri), outputs.read_done(blank.uri)
    total = int(claim["config"]["num_steps"])
    reached = total if done else max(CheckpointStore(blank.uri).steps(), default=0)
    told = f", {done['valid_bits_per_token']:.3f} bits per token held out" if done else " checkpointed"
    return replace(
        blank, state=_state(blank.uri), done=reached, total=total, unit="steps",
        progress=f"{reached:,}/{total:,} steps{told}",
    )  # fmt: skip


def _registry(blank: Status) -> Status:
    pointer = blank.folder.read_json(POINTER)
    return replace(blank, state=COMPLETE, progress=f"in use: {pointer['tokenizer']}")


def _plain(blank: Status) -> Status:
    """What is known of any output: whether it is complete, and the numbers of its summary."""
    done = outputs.read_done(blank.uri) or {}
    figures = [f"{value:,} {name.removeprefix('num_')}" for name, value in done.items() if isinstance(value, int)]
    duration_s = done.get("duration_s")
    return replace(blank, state=_state(blank.uri), progress=", ".join(figures), duration_s=duration_s)


_DESCRIBERS: dict[str, Callable[[Status], Status]] = {
    "shards": _shards,
    "archive": _archive,
    "pretrain": _training,
    "codec": _training,
    "tokenizer": _tokenizer,
    "restored": _restored,
    "evaluation": _evaluation,
    "packed": _packed,
    "report": _spans,
    "language_model": _language_model,
    "registry": _registry,
}


def _size_bytes(uri: str) -> int:
    return sum(entry.size_bytes for entry in store.list_files(uri))
