"""The index of a sharded corpus: one Parquet part beside each shard, one row per utterance (FORMAT.md, "Shards").

The presence of ``index/<shard>.parquet`` is the commit of that shard. ``offset`` and ``size_bytes`` are those of the
FLAC file inside the tar, so that any utterance is one range request away.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from syllabary.shards import store
from syllabary.shards.errors import FormatError, InputError, NotFoundError, require_version

INDEX_VERSION = "1"
_VERSION_KEY = b"syllabary.index_version"
_READERS = 16
SPLITS = ("train", "valid", "test")

INDEX_SCHEMA = pa.schema(
    [
        pa.field("utterance_id", pa.string(), nullable=False),
        pa.field("recording_id", pa.string(), nullable=False),
        pa.field("speaker", pa.string(), nullable=False),
        pa.field("split", pa.string(), nullable=False),
        pa.field("shard", pa.string(), nullable=False),
        pa.field("key", pa.string(), nullable=False),
        pa.field("offset", pa.int64(), nullable=False),
        pa.field("size_bytes", pa.int64(), nullable=False),
        pa.field("sample_rate", pa.int32(), nullable=False),
        pa.field("num_samples", pa.int64(), nullable=False),
        pa.field("start_sample", pa.int64(), nullable=False),
        pa.field("sha256", pa.string(), nullable=False),
        pa.field("source", pa.string(), nullable=False),
        pa.field("language", pa.string()),
        pa.field("snr_db", pa.float64()),
        pa.field("text", pa.string()),
        pa.field("gender", pa.string()),
        pa.field("extra", pa.string()),
    ],
    metadata={_VERSION_KEY: INDEX_VERSION.encode()},
)


def shard_uri(shards_uri: str, shard: str) -> str:
    """Where the tar of a shard lies."""
    return store.join(shards_uri, "shards", f"{shard}.tar")


def index_uri(shards_uri: str, shard: str) -> str:
    """Where the index part of a shard lies."""
    return store.join(shards_uri, "index", f"{shard}.parquet")


def parquet_bytes(table: pa.Table) -> bytes:
    """A table as one Parquet file with page checksums; equal tables give equal bytes."""
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd", write_page_checksum=True)
    return buffer.getvalue()


def publish_index(shards_uri: str, shard: str, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write the index part of a shard, which commits it."""
    table = pa.Table.from_pylist(list(rows), schema=INDEX_SCHEMA)
    store.publish_bytes(index_uri(shards_uri, shard), parquet_bytes(table))


def read_index(shards_uri: str, *, splits: Iterable[str] | None = None) -> pa.Table:
    """All utterances of the committed shards, in (shard, offset) order.

    Raises:
        NotFoundError: no index there.
        FormatError: an index part is damaged or of another version.
        InputError: an unknown split.
    """
    names = committed_shards(shards_uri, splits=splits)
    if not names and not committed_shards(shards_uri):
        raise NotFoundError("no index of shards", value=shards_uri, fix="run `syllabary shard` to write it")
    with ThreadPoolExecutor(_READERS) as pool:
        parts = list(pool.map(lambda name: read_index_part(shards_uri, name), names))
    return pa.concat_tables([INDEX_SCHEMA.empty_table(), *parts])


def find_utterance(shards_uri: str, utterance_id: str) -> dict[str, Any]:
    """The index row of one utterance, for :func:`syllabary.shards.dataset.wds.read_utterance`.

    Raises:
        NotFoundError: no such utterance, or no index.
    """
    return find_utterances(shards_uri, [utterance_id])[utterance_id]


def find_utterances(shards_uri: str, utterance_ids: Sequence[str]) -> dict[str, dict[str, Any]]:
    """The index rows of some utterances, by id; the index is read once.

    Raises:
        NotFoundError: one of them is not there, or there is no index.
    """
    table = read_index(shards_uri)
    rows = table.filter(pc.is_in(table["utterance_id"], pa.array(utterance_ids, pa.string()))).to_pylist()
    found = {str(row["utterance_id"]): row for row in rows}
    if missing := [one for one in utterance_ids if one not in found]:
        raise NotFoundError("no such utterance", value=missing[0], expected=f"one of those in {shards_uri}")
    return found


def read_index_part(shards_uri: str, shard: str) -> pa.Table:
    """The utterances of one shard, by offset. Raises NotFoundError, FormatError."""
    uri = index_uri(shards_uri, shard)
    data = store.read_bytes(uri)
    try:
        table = pq.read_table(io.BytesIO(data), page_checksum_verification=True)
    except (pa.ArrowInvalid, OSError) as error:
        raise FormatError("damaged index part", value=uri, fix="delete it and shard again") from error
    version = (table.schema.metadata or {}).get(_VERSION_KEY, b"none").decode()
    require_version(version, INDEX_VERSION, "index version")
    return table


def committed_shards(shards_uri: str, *, splits: Iterable[str] | None = None) -> list[str]:
    """Names of the shards with an index part, sorted, also of those without any utterance."""
    wanted = SPLITS if splits is None else tuple(splits)
    unknown = set(wanted) - set(SPLITS)
    if unknown:
        raise InputError("unknown split", value=sorted(unknown)[0], expected=", ".join(SPLITS))
    entries = store.list_files(store.join(shards_uri, "index"), suffix=".parquet")
    names = [entry.name.removesuffix(".parquet") for entry in entries]
    return [name for name in names if name.rpartition("-")[0] in wanted]


def list_shards(shards_uri: str, *, splits: Iterable[str] | None = None) -> list[str]:
    """Names of the shards that hold an utterance, sorted."""
    table = read_index(shards_uri, splits=splits)
    names: list[str] = sorted(pc.unique(table["shard"]).to_pylist())
    return names
