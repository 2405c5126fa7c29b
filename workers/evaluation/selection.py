"""Select and order the utterances of an evaluation, with what is known of each."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from syllabary.shards import dataset, outputs
from syllabary.shards.errors import InputError
from syllabary.shards.words import counted
from syllabary.workers.control.jobs import EvaluateJob
from syllabary.workers.evaluation.transcripts import read_transcripts
from syllabary.workers.evaluation.utterance import Item

_MIN_S = 0.5  # below it no metric has a value


@dataclass(frozen=True)
class Selection:
    """The utterances of a report: ``items`` in the report's order, out of ``num_held_out`` in the splits."""

    items: tuple[Item, ...]
    num_held_out: int
    notes: tuple[str, ...]

    @property
    def digest(self) -> str:
        """sha256 over the utterances' ids, audio and transcripts."""
        return outputs.digest([[i.utterance_id, i.row["sha256"], i.transcript] for i in self.items])

    def table(self, numbers: list[int]) -> pa.Table:
        """Index rows of some of the items."""
        return pa.Table.from_pylist([dict(self.items[n].row) for n in numbers], schema=dataset.INDEX_SCHEMA)


def select(job: EvaluateJob) -> Selection:
    """Select held-out utterances, taking speakers in turn, so that the first N cover many speakers.

    Raises:
        InputError: no utterance, none as long as half a second, transcripts of none of them.
        NotFoundError, FormatError: no shards, no table of transcripts.
    """
    outputs.read_claim(job.shards, "shards")
    rows = dataset.read_index(job.shards, splits=job.splits).to_pylist()
    long_enough = [row for row in rows if row["num_samples"] >= _MIN_S * row["sample_rate"]]
    if not long_enough:
        raise InputError(
            f"too few utterances in the splits {', '.join(job.splits)} of {job.shards}",
            value=len(rows),
            expected=f"at least one of {_MIN_S} s",
            fix="shard more speech, with ingest.valid_percent above 0, or name other --splits",
        )
    chosen = _in_turn(long_enough, job.seed)[: job.limit]
    texts = _transcripts(job.transcripts, chosen) if job.transcripts else {}
    items = tuple(
        Item(number, row, texts.get(row["utterance_id"]), number < job.num_probes) for number, row in enumerate(chosen)
    )
    return Selection(items, len(rows), _notes(job, rows, long_enough, items))


def _transcripts(uri: str, chosen: list[dict[str, Any]]) -> dict[str, str]:
    transcripts = read_transcripts(uri, chosen)
    if not transcripts:
        example = (
            f"utterance_id as {chosen[0]['utterance_id']!r}, or path as {chosen[0]['source']!r} and whole stretches"
        )
        what = f"no transcript of any of the {len(chosen)} utterances"
        raise InputError(what, value=uri, expected=example, fix="or leave --transcripts out")
    return transcripts


def _in_turn(rows: list[dict[str, Any]], seed: int) -> list[dict[str, Any]]:
    """One utterance of each speaker, then another of each, ...; speakers and utterances in an order of the seed."""

    def place(name: str) -> str:
        return hashlib.sha256(f"{seed}:{name}".encode()).hexdigest()

    of_speaker: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in sorted(rows, key=lambda row: place(row["utterance_id"])):
        of_speaker[row["speaker"]].append(row)
    turns = [(turn, place(speaker), row) for speaker, own in of_speaker.items() for turn, row in enumerate(own)]
    return [row for _, _, row in sorted(turns, key=lambda entry: entry[:2])]


def _notes(
    job: EvaluateJob, rows: list[dict[str, Any]], long_enough: list[dict[str, Any]], items: tuple[Item, ...]
) -> tuple[str, ...]:
    notes = []
    speakers = {item.row["speaker"] for item in items}
    if len(speakers) < 2:
        notes.append("Only one speaker: there are no intervals, and nothing is known of other voices.")
    elif len(speakers) < 5:
        notes.append(f"Only {counted(len(speakers), 'speaker')}: the intervals are rough.")
    if len(items) < len(long_enough):
        notes.append(f"{len(items)} of {len(long_enough)} held-out utterances, spread over the speakers (--limit).")
    if too_short := len(rows) - len(long_enough):
        notes.append(f"{too_short} utterances below {_MIN_S} s are left out: no metric has a value on them.")
    if "train" in job.splits:
        notes.append("The split train is among those measured: the tokenizer has been trained on it.")
    config = outputs.read_claim(job.shards)["config"]
    if isinstance(config, dict) and config.get("split_by") == "recording":
        notes.append("Recordings, not speakers, are held out: the voices have been heard in training.")
    return tuple(notes)
