"""Sharding a tar or Parquet: one process reads it once, Ray tasks write shards as they fill."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from syllabary.shards import outputs, store
from syllabary.shards.dataset import committed_shards
from syllabary.shards.errors import ConflictError, DamageError
from syllabary.shards.ingest import ingest
from syllabary.shards.ingest.config import IngestConfig
from syllabary.shards.ingest.duplicates import mark_duplicates, mark_of
from syllabary.shards.ingest.planning import Packer, ShardPlan, publish_plan
from syllabary.shards.ingest.recordings import Recording, RecordingError
from syllabary.shards.ingest.sources.listing import Source
from syllabary.shards.ingest.sources.parquet import ParquetStream, parquet_files
from syllabary.shards.ingest.sources.streamed import Stream, Streamed, head_mark
from syllabary.shards.ingest.sources.tar import TarStream
from syllabary.shards.store import Folder
from syllabary.workers.cluster.session import ray_session
from syllabary.workers.control.jobs import ShardJob
from syllabary.workers.control.log import Progress, say
from syllabary.workers.ingest.tasks import run_all, write_streamed_shard

STAGE = "shard"
Put = Callable[[Path], Any]
Arguments = tuple[str, ShardPlan, IngestConfig, dict[str, Any], dict[str, Any]]


def shard_stream(job: ShardJob, config: IngestConfig, source: Source) -> tuple[dict[str, Any], int]:
    """The summary of the shards of a tar or of Parquet, and how many of them this run wrote.

    A run that was killed reads the source again, for its md5, but decodes nothing that is done.

    Raises:
        ConflictError: the output was made from another source.
        DamageError: wrong md5; nothing made from the tar stays.
        FormatError: the tar ends early.
    """
    files = [source.uri] if source.layout == "tar" else [file.location for file in parquet_files(source.uri)]
    marks = {"source_head_sha256": outputs.digest([head_mark(file) for file in files])}
    size_bytes = sum(store.size_bytes(file) for file in files)
    ingest.claim_output(job.out, job.source, config, marks)
    if (done := outputs.read_done(job.out)) is not None:
        _require_same_size(job, done, size_bytes)
        return done, 0
    feed, wrote = _stream(job, config, source, size_bytes)
    publish_plan(job.out, 0, feed.plans)
    about = {"source_md5": feed.stream.md5, "source_size_bytes": feed.stream.size_bytes}
    about["source_notes"] = feed.stream.notes
    return ingest.finish(job.out, feed.plans, config, about), wrote


def _stream(job: ShardJob, config: IngestConfig, source: Source, size_bytes: int) -> tuple[StreamFeed, int]:
    try:
        with tempfile.TemporaryDirectory(prefix="syllabary-") as spool, ray_session(num_cpus=job.num_workers):
            stream: Stream = ParquetStream(source.uri, Path(spool))
            if source.layout == "tar":
                stream = TarStream(source.uri, config, Path(spool))
            feed = StreamFeed(stream, job.out, config, _put)
            return feed, _write(feed, job.out, size_bytes)
    except DamageError:
        for part in ("index", "ledger", "shards"):
            Folder(job.out).delete(part)
        raise


def _require_same_size(job: ShardJob, done: dict[str, Any], size_bytes: int) -> None:
    if size_bytes != done["source_size_bytes"]:
        what = f"{job.out} was made of a source of {done['source_size_bytes']:,} bytes and not"
        raise ConflictError(what, value=size_bytes, fix="use another --out")


def _write(feed: StreamFeed, out: str, size_bytes: int) -> int:
    total = size_bytes / 1e6
    say(STAGE, f"streams {feed.stream.uri}, {total:,.0f} MB")
    progress = Progress(STAGE, total, "MB of audio")
    wrote = 0
    for _ in run_all(write_streamed_shard, feed.tasks(), out):
        wrote += 1
        progress.add(feed.bytes_passed / 1e6 - progress.done)
    progress.finish()
    return wrote


def _put(audio: Path) -> Any:
    import numpy as np
    import ray

    return ray.put(np.fromfile(audio, dtype=np.uint8))


class StreamFeed:
    """Turns the stream of recordings into the argument tuples of shard tasks.

    Attributes:
        plans: every shard so far, also those that are committed already.
    """

    def __init__(self, stream: Stream, out: str, config: IngestConfig, put: Put) -> None:
        self.stream, self.plans = stream, list[ShardPlan]()
        self.bytes_passed = 0
        self._out, self._config, self._put = out, config, put
        self._committed = set(committed_shards(out))
        self._packer = Packer(config)
        self._held: dict[str, Streamed] = {}
        self._originals: dict[str, Streamed] = {}

    def tasks(self) -> Iterator[Arguments]:
        """Arguments of :func:`syllabary.workers.ingest.tasks.write_streamed_shard` for every shard that is not
        committed."""
        for item in self.stream.recordings():
            self.bytes_passed += item.recording.size_bytes
            recording = self._judge(item)
            self._held[recording.recording_id] = item
            if (plan := self._packer.add(recording)) is not None:
                yield from self._task(plan)
        for plan in self._packer.rest():
            yield from self._task(plan)

    def _task(self, plan: ShardPlan) -> Iterator[Arguments]:
        self.plans.append(plan)
        held = {recording.recording_id: self._held.pop(recording.recording_id) for recording in plan.recordings}
        if plan.shard not in self._committed:
            audio = {name: self._put(item.audio) for name, item in held.items() if item.audio is not None}
            activity = {name: item.voice_activity for name, item in held.items()}
            yield self._out, plan, self._config, audio, activity
        for item in held.values():
            if item.audio is not None:
                item.audio.unlink()

    def _judge(self, item: Streamed) -> Recording:
        """The recording, marked as a duplicate when its samples came by before, undamaged."""
        mark = mark_of(item.recording, lambda _, __: _audio_of(item)) if self._config.drop_duplicates else ""
        first = self._originals.setdefault(mark, item) if mark else item
        if first is item:
            return item.recording

        def fetch(recording: Recording, folder: Path) -> Path:
            if recording is item.recording:
                return _audio_of(item)
            # The first one may have left the spool long ago: it is still in the source.
            path = folder / "audio"
            path.write_bytes(self.stream.again(first.place, recording.size_bytes))
            return path

        (judged,) = mark_duplicates([item.recording], [first.recording], fetch)
        if not judged.verdict:
            self._originals[mark] = item
        return judged


def _audio_of(item: Streamed) -> Path:
    if item.audio is None:
        raise RecordingError(item.recording.detail)
    return item.audio
