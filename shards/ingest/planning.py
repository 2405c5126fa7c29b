"""Plan an ingest: which recording goes to which shard, decided before any audio is decoded.

A plan is a *generation*: ``plan/000000.parquet`` for the first listing of a source, the next number for recordings
that were added later. Shards never cross generations, so adding data leaves what is there untouched. Planning is pure:
it depends on the recordings and the configuration alone.
"""

from __future__ import annotations

import hashlib
import io
import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields

import pyarrow as pa
import pyarrow.parquet as pq

from syllabary.shards import store
from syllabary.shards.dataset import SPLITS
from syllabary.shards.errors import ConflictError, FormatError
from syllabary.shards.ingest.config import IngestConfig
from syllabary.shards.ingest.recordings import Recording
from syllabary.shards.ingest.splits import split_of
from syllabary.shards.store import Folder

PLAN_SCHEMA = pa.schema(
    [
        pa.field("shard", pa.string(), nullable=False),
        pa.field("split", pa.string(), nullable=False),
        pa.field("recording_id", pa.string(), nullable=False),
        pa.field("source", pa.string(), nullable=False),
        pa.field("size_bytes", pa.int64(), nullable=False),
        pa.field("fingerprint", pa.string(), nullable=False),
        pa.field("speaker", pa.string(), nullable=False),
        pa.field("language", pa.string()),
        pa.field("snr_db", pa.float64()),
        pa.field("text", pa.string()),
        pa.field("gender", pa.string()),
        pa.field("extra", pa.string()),
        pa.field("channel", pa.int32()),
        pa.field("duration_s", pa.float64()),
        pa.field("start_s", pa.float64()),
        pa.field("end_s", pa.float64()),
        pa.field("verdict", pa.string(), nullable=False),
        pa.field("detail", pa.string(), nullable=False),
    ],
    metadata={b"syllabary.plan_version": b"1"},
)
# Bytes of FLAC at 16 kHz for a byte of the source, roughly: only the sizes of shards depend on it.
_FLAC_BYTES_PER_BYTE = {".wav": 0.5, ".aiff": 0.5, ".aif": 0.5, ".mp3": 2.5, ".ogg": 4.0, ".oga": 4.0, ".opus": 6.0}
_PLAN_ROWS = 1 << 16  # of a row group
_FLAC_BYTES_PER_S = 24_000.0  # as much, of a part of a file whose own length is not known


@dataclass(frozen=True)
class ShardPlan:
    """One shard to write: its name, its split, its recordings in order."""

    shard: str
    split: str
    recordings: tuple[Recording, ...]


class Packer:
    """Fills shards recording by recording, with one open shard per split; closes a shard at the target size."""

    def __init__(self, config: IngestConfig, next_numbers: dict[str, int] | None = None) -> None:
        self._config = config
        self._numbers = {split: (next_numbers or {}).get(split, 0) for split in SPLITS}
        self._open: dict[str, list[Recording]] = {split: [] for split in SPLITS}
        self._sizes = dict.fromkeys(SPLITS, 0.0)

    def add(self, recording: Recording) -> ShardPlan | None:
        """Put a recording into its split's open shard; returns that shard when this one closed it."""
        split = split_of(recording.speaker, recording.recording_id, self._config)
        self._open[split].append(recording)
        self._sizes[split] += _expected_bytes(recording)
        return self._close(split) if self._sizes[split] >= self._config.shard_size_mb * 1e6 else None

    def rest(self) -> list[ShardPlan]:
        """Close the shards that are still open, and return them."""
        return [self._close(split) for split in SPLITS if self._open[split]]

    def _close(self, split: str) -> ShardPlan:
        plan = ShardPlan(f"{split}-{self._numbers[split]:06d}", split, tuple(self._open[split]))
        self._numbers[split] += 1
        self._open[split], self._sizes[split] = [], 0.0
        return plan


def plan_shards(
    recordings: Iterable[Recording], config: IngestConfig, next_numbers: dict[str, int] | None = None
) -> list[ShardPlan]:
    """Plan shards of about the target size, one split each.

    Recordings are taken in the order of a hash of their id, so that a shard mixes speakers.
    """
    packer = Packer(config, next_numbers)
    closed = [packer.add(recording) for recording in sorted(recordings, key=_mixing_key)]
    return [*(plan for plan in closed if plan), *packer.rest()]


def _mixing_key(recording: Recording) -> bytes:
    return hashlib.sha256(recording.recording_id.encode()).digest()


def _expected_bytes(recording: Recording) -> float:
    suffix = "." + recording.source.rpartition(".")[2].lower()
    whole = recording.size_bytes * _FLAC_BYTES_PER_BYTE.get(suffix, 1.0)
    if recording.end_s is None:
        return whole
    return min(whole, (recording.end_s - (recording.start_s or 0.0)) * _FLAC_BYTES_PER_S)


def publish_plan(shards_uri: str, generation: int, plans: Iterable[ShardPlan]) -> None:
    """Write one generation. From then on its shards are fixed."""
    rows = ((plan, recording) for plan in plans for recording in plan.recordings)
    buffer = io.BytesIO()
    with pq.ParquetWriter(buffer, PLAN_SCHEMA, compression="zstd", write_page_checksum=True) as writer:
        # some rows at a time: a million beside themselves as columns are too many
        for some in iter(lambda: list(itertools.islice(rows, _PLAN_ROWS)), []):
            writer.write_table(_plan_table(some))
    _plans(shards_uri).publish(f"{generation:06d}.parquet", buffer.getvalue())


def _plan_table(rows: Sequence[tuple[ShardPlan, Recording]]) -> pa.Table:
    columns = {name: [getattr(plan, name) for plan, _ in rows] for name in ("shard", "split")}
    columns |= {f.name: [getattr(own, f.name) for _, own in rows] for f in PLAN_SCHEMA if f.name not in columns}
    return pa.table([pa.array(columns[field.name], field.type) for field in PLAN_SCHEMA], PLAN_SCHEMA)


def _plans(shards_uri: str) -> Folder:
    return Folder(shards_uri) / "plan"


def read_plans(shards_uri: str) -> list[list[ShardPlan]]:
    """Read all generations, oldest first. Locations are not stored: see :func:`located`. Raises FormatError."""
    return [_read_plan(entry.uri) for entry in _plans(shards_uri).list(suffix=".parquet")]


def _read_plan(uri: str) -> list[ShardPlan]:
    try:
        rows = pq.read_table(io.BytesIO(store.read_bytes(uri)), page_checksum_verification=True).to_pylist()
    except (pa.ArrowInvalid, OSError) as error:
        raise FormatError("damaged plan", value=uri, fix="delete the output and shard again") from error
    known = {field.name for field in fields(Recording)}
    shards: dict[str, tuple[str, list[Recording]]] = {}
    for row in rows:
        recording = Recording(location="", **{key: value for key, value in row.items() if key in known})
        shards.setdefault(row["shard"], (row["split"], []))[1].append(recording)
    return [ShardPlan(shard, split, tuple(recordings)) for shard, (split, recordings) in shards.items()]


def next_numbers(plans: Iterable[ShardPlan]) -> dict[str, int]:
    """The first free shard number of each split."""
    numbers = dict.fromkeys(SPLITS, 0)
    for plan in plans:
        numbers[plan.split] = max(numbers[plan.split], int(plan.shard.rpartition("-")[2]) + 1)
    return numbers


def match(planned: Sequence[ShardPlan], found: Iterable[Recording]) -> tuple[dict[str, Recording], list[Recording]]:
    """Match found recordings to the plan: those that are planned, by id, and those that are new.

    Raises:
        ConflictError: a planned recording is gone or has changed.
    """
    if not planned:
        return {}, list(found)
    by_id = {recording.recording_id: recording for recording in found}
    known: dict[str, Recording] = {}
    for old in (recording for plan in planned for recording in plan.recordings):
        new = by_id.pop(old.recording_id, None)
        if new is None or new.fingerprint != old.fingerprint:
            what = "is gone from the source" if new is None else "has changed"
            raise ConflictError(
                f"recording {old.recording_id} {what} since this output was planned",
                fix="use another --out, or the source as it was",
            )
        known[old.recording_id] = new
    return known, list(by_id.values())
