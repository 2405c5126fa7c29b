"""The ledger of an ingest: where every second of every input recording went (FORMAT.md, "Shards").

One row is one span of one recording; the spans of a recording cover it from start to end, each sample once.
"""

from __future__ import annotations

import io
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from syllabary.shards.dataset import parquet_bytes
from syllabary.shards.errors import FormatError
from syllabary.shards.store import Folder

LEDGER_SCHEMA = pa.schema(
    [
        pa.field("recording_id", pa.string(), nullable=False),
        pa.field("source", pa.string(), nullable=False),
        pa.field("speaker", pa.string(), nullable=False),
        pa.field("status", pa.string(), nullable=False),
        pa.field("detail", pa.string(), nullable=False),
        pa.field("start_sample", pa.int64(), nullable=False),
        pa.field("num_samples", pa.int64(), nullable=False),
        pa.field("sample_rate", pa.int32(), nullable=False),
        pa.field("promised_samples", pa.int64()),
        pa.field("note", pa.string()),
    ],
    metadata={b"syllabary.ledger_version": b"1"},
)
STATUSES = ("shard", "silence", "too_short", "filtered", "duplicate", "quarantined")
_READERS = 16
Row = dict[str, Any]


def fill_gaps(rows: Iterable[Row], num_samples: int, gap: Row) -> list[Row]:
    """Rows in order of start, and what they leave uncovered of ``num_samples`` as copies of ``gap``.

    Raises:
        FormatError: two rows overlap, or one passes the end.
    """
    filled: list[Row] = []
    position = 0
    for row in sorted(rows, key=lambda row: int(row["start_sample"])):
        start, stop = row["start_sample"], row["start_sample"] + row["num_samples"]
        if start < position or stop > num_samples:
            raise FormatError("ledger spans overlap or pass the end", value=row["recording_id"])
        if start > position:
            filled.append({**gap, "start_sample": position, "num_samples": start - position})
        filled.append(row)
        position = stop
    if position < num_samples:
        filled.append({**gap, "start_sample": position, "num_samples": num_samples - position})
    return filled


def ledger_name(shard: str) -> str:
    """Path of a shard's part of the ledger below the shards."""
    return f"ledger/{shard}.parquet"


def publish_ledger(shards_uri: str, shard: str, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write the ledger part of a shard; before its index part, so that a committed shard is accounted for."""
    table = pa.Table.from_pylist(list(rows), schema=LEDGER_SCHEMA)
    Folder(shards_uri).publish(ledger_name(shard), parquet_bytes(table))


def read_ledger(shards_uri: str, shards: Iterable[str]) -> pa.Table:
    """The ledger rows of the named shards."""
    with ThreadPoolExecutor(_READERS) as pool:
        parts = list(pool.map(lambda shard: _read_part(shards_uri, shard), shards))
    return pa.concat_tables([LEDGER_SCHEMA.empty_table(), *parts])


def _read_part(shards_uri: str, shard: str) -> pa.Table:
    shards, name = Folder(shards_uri), ledger_name(shard)
    try:
        return pq.read_table(io.BytesIO(shards.read(name)), page_checksum_verification=True)
    except (pa.ArrowInvalid, OSError) as error:
        raise FormatError(
            "damaged ledger part", value=shards.join(name), fix="delete its index part and shard again"
        ) from error


def totals(ledger: pa.Table) -> list[Row]:
    """One row for each outcome: status, detail, recordings it touches, seconds and percent; they sum to 100 %.

    The details of "shard" and "duplicate" rows name one place each and are not distinguished here.
    """
    told = pc.is_in(ledger["status"], value_set=pa.array(["filtered", "quarantined"]))
    detail = pc.if_else(told, ledger["detail"], "")
    rate = pc.cast(pc.max_element_wise(ledger["sample_rate"], 1), pa.float64())
    duration_s = pc.divide(pc.cast(ledger["num_samples"], pa.float64()), rate)
    columns = {"status": ledger["status"], "detail": detail, "id": ledger["recording_id"], "duration_s": duration_s}
    groups = (
        pa.table(columns).group_by(["status", "detail"]).aggregate([("id", "count_distinct"), ("duration_s", "sum")])
    )
    rows = sorted(groups.to_pylist(), key=lambda row: (STATUSES.index(row["status"]), row["detail"]))
    total = sum(row["duration_s_sum"] for row in rows)
    return [
        {"status": row["status"], "detail": row["detail"], "num_recordings": row["id_count_distinct"],
         "duration_s": round(row["duration_s_sum"], 3),
         "percent": round(100 * row["duration_s_sum"] / total, 4) if total else 0.0}
        for row in rows
    ]  # fmt: skip


def promised_s(ledger: pa.Table) -> float:
    """Seconds that headers and lists promise of the recordings; where they promise nothing, what was decoded counts."""
    rate = pc.cast(pc.max_element_wise(ledger["sample_rate"], 1), pa.float64())
    columns = {
        "id": ledger["recording_id"],
        "promised": pc.divide(pc.cast(ledger["promised_samples"], pa.float64()), rate),
        "decoded": pc.divide(pc.cast(ledger["num_samples"], pa.float64()), rate),
    }
    groups = pa.table(columns).group_by("id").aggregate([("promised", "sum"), ("decoded", "sum")])
    return float(pc.sum(pc.coalesce(groups["promised_sum"], groups["decoded_sum"])).as_py() or 0.0)


def notes(ledger: pa.Table) -> dict[str, int]:
    """Count the spans with a note of each kind, which is its text before the first colon or number."""
    counts: Counter[str] = Counter()
    for note in pc.unique(ledger["note"].drop_null()).to_pylist() if len(ledger) else ():
        number = pc.sum(pc.equal(ledger["note"], note)).as_py()
        for part in filter(None, note.split("; ")):
            counts[re.split(r":| ?\d", part)[0].strip() or "streams in one file"] += number
    return dict(sorted(counts.items()))


def named(row: Row) -> str:
    """What became of the seconds of a row of the totals."""
    return str(row["status"]) + (f": {row['detail']}" if row["detail"] else "")


def as_table(rows: Iterable[Row]) -> list[str]:
    """The totals as lines of text."""
    lines = [f"{'outcome':<40} {'recordings':>10} {'seconds':>14} {'percent':>9}"]
    for row in rows:
        lines.append(
            f"{named(row):<40} {row['num_recordings']:>10,} {row['duration_s']:>14,.1f} {row['percent']:>8.2f} %"
        )
    return lines
