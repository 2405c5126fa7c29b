"""The part of restoring that touches sound: rows of an archive become audio files, by one process or one of many.

What a file holds follows from its rows and the tokenizer alone, and a file that is there is kept. So it does not matter
which process restores which shard, or how often.
"""

from __future__ import annotations

import itertools
import json
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from syllabary.shards import audio
from syllabary.shards.archive import parts as token_archive
from syllabary.shards.archive.packing import Packing
from syllabary.shards.archive.reader import ArchiveReader, Place
from syllabary.shards.errors import DamageError, InputError, SyllabaryError
from syllabary.shards.store import Folder
from syllabary.workers.cluster.actors import refused
from syllabary.workers.cluster.memory import keep_freed_memory
from syllabary.workers.control.jobs import RestoreJob
from syllabary.workers.tokenizer.tokenizer import Tokenizer

_COLUMNS = ["utterance_id", "recording_id", "speaker", "start_sample", "num_samples", "sample_rate", "tokens"]
Manifest = list[dict[str, Any]]


@dataclass(frozen=True)
class Clip:
    """A file to write: its path below the output without extension, and the utterances (rows with tokens [F, G]) in it.

    ``span`` is the first sample and the one after the last of a joined recording, or None for a single utterance.
    """

    name: str
    rows: list[dict[str, Any]]
    span: tuple[int, int] | None = None

    @property
    def num_samples(self) -> int:
        """How many samples the file has."""
        return int(self.rows[0]["num_samples"]) if self.span is None else self.span[1] - self.span[0]


@dataclass(frozen=True)
class Restorer:
    """Restores the shards of a job, one by one or many; ``present`` names the files that were there before."""

    job: RestoreJob
    reader: ArchiveReader
    tokenizer: Tokenizer
    present: frozenset[str]

    @classmethod
    def open(cls, job: RestoreJob, reader: ArchiveReader, tokenizer: Tokenizer) -> Restorer:
        """Make the restorer of a job, and list the files that are already there."""
        present = frozenset(entry.name for entry in (Folder(job.out) / "audio").list())
        return cls(job, reader, tokenizer, present)

    def restore(
        self,
        places: Mapping[str, Sequence[Place]],
        recordings: Counter[str],
        on_clip: Callable[[int], None] = lambda _: None,
    ) -> Manifest:
        """Publish the files of the selected rows; returns the manifest rows of their utterances.

        Args:
            places: of each shard, where its selected rows are; they are restored in this order.
            recordings: selected utterances of each recording in these shards.
            on_clip: called after each file with the number of utterances in it.

        Raises:
            DamageError: a row group does not pass its checksums, or tokens do not decode.
            StorageError: the store fails.
        """
        rows = _rows(self.reader, places)
        singles = (Clip(row["utterance_id"], [row]) for row in rows)
        manifest: Manifest = []
        for clip in _recordings(self.job, rows, recordings) if self.job.joins_recordings else singles:
            manifest += self._publish(clip)
            on_clip(len(clip.rows))
        return manifest

    def _publish(self, clip: Clip) -> Manifest:
        if not clip.num_samples:  # there is no FLAC of no samples; a file of no bytes would be no audio
            return _manifest_rows(clip, None)
        name = f"{clip.name}.{self.job.audio_format}"
        if name not in self.present:
            samples = samples_of(clip, self.tokenizer, self.reader.format.packing)
            data = audio.encode(samples, clip.rows[0]["sample_rate"], self.job.audio_format, self.tokenizer.comment)
            (Folder(self.job.out) / "audio").publish(name, data)
        return _manifest_rows(clip, f"audio/{name}")


class ShardRestorer:
    """The Ray actor: one tokenizer, one thread; called with ``{"shard", "places", "recordings"}`` it restores a shard.

    ``places`` is a JSON list of row groups and the selected rows in them, ``recordings`` a JSON object: how many
    utterances of each recording are selected.
    """

    def __init__(self, job: str) -> None:
        import torch

        torch.set_num_threads(1)
        keep_freed_memory()
        values = RestoreJob.model_validate_json(job)
        reader, tokenizer = ArchiveReader.open(values.archive), Tokenizer.load(values.tokenizer)
        self._restorer = Restorer.open(values, reader, tokenizer)

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        """Restore a shard; returns manifest rows as JSON, what was read, and ``error`` and ``kind`` if it failed."""
        reader = self._restorer.reader
        before = reader.bytes_read, reader.num_row_groups_read
        result = {"shard": row["shard"], "error": "", "kind": "", "manifest": "[]"}
        try:
            places = {str(row["shard"]): json.loads(str(row["places"]))}
            manifest = self._restorer.restore(places, Counter(json.loads(str(row["recordings"]))))
            result["manifest"] = json.dumps(manifest)
        except SyllabaryError as error:
            result |= refused(error)
        groups = reader.num_row_groups_read - before[1]
        return result | {"bytes_read": reader.bytes_read - before[0], "num_row_groups_read": groups}


def _recordings(job: RestoreJob, rows: Iterable[dict[str, Any]], recordings: Counter[str]) -> Iterator[Clip]:
    """Whole recordings, each as soon as its last selected utterance has been read: only open ones are in memory."""
    missing = recordings.copy()
    open_rows: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        recording = row["recording_id"]
        open_rows[recording].append(row)
        missing[recording] -= 1
        if not missing[recording]:
            yield joined_clip(recording, open_rows.pop(recording), job.start_s, job.end_s)


def joined_clip(recording: str, rows: list[dict[str, Any]], start_s: float | None, end_s: float | None) -> Clip:
    """A recording from ``start_s`` to ``end_s`` (None for its beginning, and the end of its last utterance).

    Raises:
        InputError: the utterances have several rates.
    """
    rows.sort(key=lambda row: row["start_sample"])
    rates = {row["sample_rate"] for row in rows}
    if len(rates) > 1:
        raise InputError(f"recording {recording} has utterances of several rates", value=sorted(rates))
    start = 0 if start_s is None else round(start_s * rows[0]["sample_rate"])
    stop = max(row["start_sample"] + row["num_samples"] for row in rows)
    if end_s is not None:
        stop = min(stop, round(end_s * rows[0]["sample_rate"]))
    return Clip(recording, rows, (start, stop))


def _rows(reader: ArchiveReader, places: Mapping[str, Sequence[Place]]) -> Iterator[dict[str, Any]]:
    groups = reader.format.packing.num_groups
    for table in itertools.chain.from_iterable(reader.take(shard, own, _COLUMNS) for shard, own in places.items()):
        tokens = token_archive.row_tokens(table, groups)
        for row, own in zip(table.drop_columns("tokens").to_pylist(), tokens, strict=True):
            yield {**row, "tokens": own}


def samples_of(clip: Clip, tokenizer: Tokenizer, packing: Packing) -> NDArray[np.float32]:
    """The waveform float32 of a clip, at its own rate, with exactly as many samples as it had."""
    if clip.span is None:
        return _decoded(clip.rows[0], tokenizer, packing)
    start, stop = clip.span
    joined = np.zeros(stop - start, np.float32)
    for row in clip.rows:
        samples = _decoded(row, tokenizer, packing)
        first, last = max(row["start_sample"], start), min(row["start_sample"] + row["num_samples"], stop)
        joined[first - start : last - start] = samples[first - row["start_sample"] : last - row["start_sample"]]
    return joined


def _decoded(row: dict[str, Any], tokenizer: Tokenizer, packing: Packing) -> NDArray[np.float32]:
    if not row["num_samples"]:
        return np.zeros(0, np.float32)
    try:
        return tokenizer.decode(row["tokens"], row["num_samples"], row["sample_rate"], packing)
    except ValueError as error:
        raise DamageError(
            f"utterance {row['utterance_id']} does not decode ({error})", fix="run `syllabary verify`"
        ) from error


def _manifest_rows(clip: Clip, file: str | None) -> list[dict[str, Any]]:
    start = clip.rows[0]["start_sample"] if clip.span is None else clip.span[0]
    names = ("utterance_id", "recording_id", "speaker", "start_sample", "num_samples", "sample_rate")
    return [
        {**{name: row[name] for name in names}, "file": file, "offset_in_file": row["start_sample"] - start}
        for row in clip.rows
    ]
