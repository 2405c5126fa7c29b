"""Sharded corpora: WebDataset tars, and beside each one the part of the index that commits it (FORMAT.md, "Shards").

A sample is two adjacent members of a tar, ``<key>.flac`` and ``<key>.json``; modification time, owner and mode are
constant, so that the bytes depend on the samples alone. ``index/<shard>.parquet`` has one row per utterance, and its
presence is the commit of that shard. ``offset`` and ``size_bytes`` are those of the FLAC file inside the tar, so that
any utterance is one range request away.
"""

from __future__ import annotations

import hashlib
import io
import tarfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from syllabary.shards import store
from syllabary.shards.errors import DamageError, FormatError, InputError, NotFoundError, require_version
from syllabary.shards.outputs import canonical_json
from syllabary.shards.store import Folder

INDEX_VERSION = "1"
_VERSION_KEY = b"syllabary.index_version"
_READERS = 16
TAR_END = bytes(2 * tarfile.BLOCKSIZE)
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


def index_name(shard: str) -> str:
    """Path of a shard's part of the index below the shards."""
    return f"index/{shard}.parquet"


def parquet_bytes(table: pa.Table) -> bytes:
    """A table as one Parquet file with page checksums; equal tables give equal bytes."""
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd", write_page_checksum=True)
    return buffer.getvalue()


def publish_index(shards_uri: str, shard: str, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write the index part of a shard, which commits it."""
    table = pa.Table.from_pylist(list(rows), schema=INDEX_SCHEMA)
    Folder(shards_uri).publish(index_name(shard), parquet_bytes(table))


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
    """The index row of one utterance, for :func:`read_utterance`.

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
    by_id = {str(row["utterance_id"]): row for row in rows}
    if missing := [one for one in utterance_ids if one not in by_id]:
        raise NotFoundError("no such utterance", value=missing[0], expected=f"one of those in {shards_uri}")
    return by_id


def read_index_part(shards_uri: str, shard: str) -> pa.Table:
    """The utterances of one shard, by offset. Raises NotFoundError, FormatError."""
    shards, name = Folder(shards_uri), index_name(shard)
    data = shards.read(name)
    try:
        table = pq.read_table(io.BytesIO(data), page_checksum_verification=True)
    except (pa.ArrowInvalid, OSError) as error:
        raise FormatError("damaged index part", value=shards.join(name), fix="delete it and shard again") from error
    version = (table.schema.metadata or {}).get(_VERSION_KEY, b"none").decode()
    require_version(version, INDEX_VERSION, "index version")
    return table


def committed_shards(shards_uri: str, *, splits: Iterable[str] | None = None) -> list[str]:
    """Names of the shards with an index part, sorted, also of those without any utterance."""
    wanted = SPLITS if splits is None else tuple(splits)
    unknown = set(wanted) - set(SPLITS)
    if unknown:
        raise InputError("unknown split", value=sorted(unknown)[0], expected=", ".join(SPLITS))
    entries = (Folder(shards_uri) / "index").list(suffix=".parquet")
    names = [entry.name.removesuffix(".parquet") for entry in entries]
    return [name for name in names if name.rpartition("-")[0] in wanted]


def list_shards(shards_uri: str, *, splits: Iterable[str] | None = None) -> list[str]:
    """Names of the shards that hold an utterance, sorted."""
    table = read_index(shards_uri, splits=splits)
    names: list[str] = sorted(pc.unique(table["shard"]).to_pylist())
    return names


def write_member(tar: BinaryIO, name: str, data: bytes) -> int:
    """Append a file to a tar that is being written; returns the offset of its first byte.

    ``tarfile.TarFile`` gives the same bytes and keeps an object of a kilobyte for every member.
    """
    header = tarfile.TarInfo(name)
    header.size = len(data)
    tar.write(header.tobuf(tarfile.USTAR_FORMAT))
    offset = tar.tell()
    tar.write(data)
    tar.write(bytes(-len(data) % tarfile.BLOCKSIZE))
    return offset


class ShardWriter:
    """Writes samples to a tar file; :meth:`mark` and :meth:`rollback` take back the last ones."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("wb")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self._file.write(TAR_END)
        self._file.close()

    def add(self, key: str, flac: bytes, metadata: Mapping[str, Any]) -> int:
        """Append one sample; returns the offset in the tar of the FLAC file's first byte."""
        offset = write_member(self._file, f"{key}.flac", flac)
        write_member(self._file, f"{key}.json", canonical_json(dict(metadata)))
        return offset

    def mark(self) -> int:
        """A position to roll back to."""
        return self._file.tell()

    def rollback(self, mark: int) -> None:
        """Take back every sample added since ``mark``."""
        self._file.seek(mark)
        self._file.truncate()


def iter_shard(shards_uri: str, shard: str, part: pa.Table | None = None) -> Iterator[tuple[dict[str, Any], bytes]]:
    """The samples of a shard in order, each with its index row and its FLAC bytes, in one sequential read.

    Args:
        shards_uri: of the corpus.
        shard: its name.
        part: its index part, where the caller has read it.

    Raises:
        NotFoundError: no such shard.
        DamageError: a FLAC file is not what the index says.
    """
    rows = (read_index_part(shards_uri, shard) if part is None else part).to_pylist()
    if not rows:
        return
    with store.open_read(shard_uri(shards_uri, shard)) as tar:
        for row in rows:
            tar.seek(row["offset"])
            yield row, _checked(row, tar.read(row["size_bytes"]))


def read_utterance(shards_uri: str, index_row: Mapping[str, Any]) -> bytes:
    """The FLAC bytes of one utterance, by its index row, with one range request.

    Raises:
        NotFoundError: no such shard.
        DamageError: the bytes are not what the index says.
    """
    uri = shard_uri(shards_uri, index_row["shard"])
    return _checked(index_row, store.read_range(uri, index_row["offset"], index_row["size_bytes"]))


def _checked(row: Mapping[str, Any], flac: bytes) -> bytes:
    if hashlib.sha256(flac).hexdigest() != row["sha256"]:
        raise DamageError(
            f"shard {row['shard']} is damaged at utterance",
            value=row["utterance_id"],
            fix="delete the shard's tar and index part, then run `syllabary shard` again",
        )
    return flac
