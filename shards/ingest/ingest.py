"""Frame an ingest: claim the output, plan what is new, and account for everything at the end.

What lies between, writing the planned shards, is :func:`syllabary.shards.ingest.cutting.write_shard`, in any order and
any process.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.compute as pc

from syllabary.shards import outputs, store
from syllabary.shards.dataset import SPLITS, committed_shards, index_name, read_index_part
from syllabary.shards.errors import FormatError, InputError
from syllabary.shards.ingest.config import IngestConfig
from syllabary.shards.ingest.cutting import Inputs
from syllabary.shards.ingest.duplicates import mark_duplicates
from syllabary.shards.ingest.ledger import notes, promised_s, read_ledger, totals
from syllabary.shards.ingest.planning import ShardPlan, match, next_numbers, plan_shards, publish_plan, read_plans
from syllabary.shards.ingest.recordings import Recording
from syllabary.shards.ingest.sources.files import fetch_input, read_input
from syllabary.shards.ingest.sources.librilight import parse_sidecar
from syllabary.shards.ingest.sources.streamed import VoiceActivity
from syllabary.shards.store import Folder

_LIMITS = {"max_quarantined_percent", "quarantine_allowance"}  # they decide when to stop, not what is written


def claim_output(out: str, source: str, config: IngestConfig, inputs: Mapping[str, Any] | None = None) -> None:
    """Claim the output for this configuration. The recordings of a folder or manifest are pinned by the plan.

    Raises:
        InputError: the output lies inside the source, and would become its own input.
        ConflictError: the output belongs to another configuration.
    """
    if store.is_within(out, source):
        raise InputError("--out lies inside SOURCE", value=out, fix="choose a folder outside of it")
    outputs.claim(out, "shards", inputs=inputs or {}, config=config.model_dump(mode="json", exclude=_LIMITS))
    store.sweep_temporary(out)


def update_plan(out: str, found: list[Recording], config: IngestConfig) -> list[ShardPlan]:
    """All shards of the output, with the locations of their recordings; new recordings become a new generation.

    Raises:
        ConflictError: a recording planned before is gone or has changed.
    """
    generations = read_plans(out)
    planned = [plan for generation in generations for plan in generation]
    known, new = match(planned, found)
    located = [_located(plan, known) for plan in planned]
    if not new:
        return located
    if config.drop_duplicates:
        earlier = [recording for plan in located for recording in plan.recordings]
        new = mark_duplicates(new, earlier, fetch)
    added = plan_shards(new, config, next_numbers(planned))
    Folder(out).delete(outputs.DONE)
    publish_plan(out, len(generations), added)
    return [*located, *added]


def _located(plan: ShardPlan, known: dict[str, Recording]) -> ShardPlan:
    recordings = tuple(
        replace(old, location=new.location, sidecar=new.sidecar, is_listed=new.is_listed)
        for old in plan.recordings
        for new in [known[old.recording_id]]
    )
    return replace(plan, recordings=recordings)


def pending(out: str, plans: Iterable[ShardPlan]) -> list[ShardPlan]:
    """The shards that are not committed yet."""
    committed = set(committed_shards(out))
    return [plan for plan in plans if plan.shard not in committed]


def fetch(recording: Recording, folder: Path) -> Path:
    """A local path of a recording that is a file of its own."""
    return fetch_input(recording.location, folder)


def voice_activity(recording: Recording) -> VoiceActivity | None:
    """Read the JSON beside a recording; None when there is none."""
    if recording.sidecar is None:
        return None
    return parse_sidecar(read_input(recording.sidecar)).voice_activity


FILES = Inputs(fetch, voice_activity)


def require_few_quarantined(num_quarantined: int, num_recordings: int, config: IngestConfig, reason: str) -> None:
    """Raise when too much of a corpus is unusable. Raises InputError."""
    limit = config.max_quarantined_percent / 100 * num_recordings
    if num_quarantined > max(limit, config.quarantine_allowance):
        raise InputError(
            f"{num_quarantined} of {num_recordings} recordings cannot be used (such as: {reason})",
            expected=f"at most {config.max_quarantined_percent:g} %",
            fix="see the ledger; mend the source, or set ingest.max_quarantined_percent",
        )


def finish(
    out: str, plans: list[ShardPlan], config: IngestConfig, about_source: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Check that every planned recording is accounted for, and mark the output done.

    Returns:
        The summary in ``done.json``: counts and seconds in all, for each split, and for each outcome of the ledger.

    Raises:
        FormatError: the ledger does not name every planned recording.
        InputError: too many recordings are quarantined, or no utterance is left.
    """
    ledger = read_ledger(out, [plan.shard for plan in plans])
    planned = {recording.recording_id for plan in plans for recording in plan.recordings}
    accounted = set(pc.unique(ledger["recording_id"]).to_pylist())
    if planned != accounted:
        lost = sorted(planned ^ accounted)[0]
        raise FormatError("the ledger does not account for recording", value=lost)
    outcomes = totals(ledger)
    splits = {split: _split_summary(out, plans, split) for split in SPLITS}
    reasons = [row for row in outcomes if row["status"] == "quarantined"]
    first = reasons[0]["detail"] if reasons else ""
    require_few_quarantined(sum(row["num_recordings"] for row in reasons), len(planned), config, first)
    num_utterances = sum(split["num_utterances"] for split in splits.values())
    if not num_utterances:
        kept = ", ".join(f"{row['status']} {row['detail']}".strip() for row in outcomes)
        raise InputError("no utterance is left", value=kept, fix="see the ledger, or choose other filters")
    summary = {
        "num_recordings": len(planned),
        "num_shards": len(plans),
        "num_utterances": num_utterances,
        "input_s": round(sum(row["duration_s"] for row in outcomes), 3),
        "stored_s": round(sum(split["duration_s"] for split in splits.values()), 3),
        "promised_s": round(promised_s(ledger), 3),
        "notes": notes(ledger),
        "splits": splits,
        "ledger": outcomes,
        "index_sha256": _index_digest(out, plans),
        **(about_source or {}),
    }
    outputs.mark_done(out, summary)
    return summary


def _split_summary(out: str, plans: list[ShardPlan], split: str) -> dict[str, Any]:
    counts: Counter[str] = Counter()
    speakers: set[str] = set()
    duration_s = 0.0
    for plan in plans:
        if plan.split == split:
            part = read_index_part(out, plan.shard)
            speakers.update(part["speaker"].to_pylist())
            counts["num_utterances"] += part.num_rows
            counts["num_shards"] += part.num_rows > 0
            duration_s += pc.sum(pc.divide(pc.cast(part["num_samples"], "float64"), part["sample_rate"])).as_py() or 0
    return {"num_utterances": counts["num_utterances"], "num_shards": counts["num_shards"],
            "num_speakers": len(speakers), "duration_s": round(duration_s, 3)}  # fmt: skip


def _index_digest(out: str, plans: Iterable[ShardPlan]) -> str:
    """sha256 over the index parts in order of their names: it pins every utterance."""
    whole = hashlib.sha256()
    for shard in sorted(plan.shard for plan in plans):
        whole.update(hashlib.sha256(Folder(out).read(index_name(shard))).digest())
    return whole.hexdigest()
