"""WebDataset tars: a writer whose bytes depend on its samples alone, a streaming reader, and single utterances.

A sample is two adjacent members, ``<key>.flac`` and ``<key>.json`` (FORMAT.md, "Shards"). Modification time, owner and
mode are constant.
"""

from __future__ import annotations

import hashlib
import tarfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pyarrow as pa

from syllabary.shards import store
from syllabary.shards.dataset import index
from syllabary.shards.errors import DamageError
from syllabary.shards.outputs import canonical_json

_BLOCK = tarfile.BLOCKSIZE
_END = bytes(2 * _BLOCK)


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
            self._file.write(_END)
        self._file.close()

    def add(self, key: str, flac: bytes, metadata: Mapping[str, Any]) -> int:
        """Append one sample; returns the offset in the tar of the FLAC file's first byte."""
        offset = self._member(f"{key}.flac", flac)
        self._member(f"{key}.json", canonical_json(dict(metadata)))
        return offset

    def mark(self) -> int:
        """A position to roll back to."""
        return self._file.tell()

    def rollback(self, mark: int) -> None:
        """Take back every sample added since ``mark``."""
        self._file.seek(mark)
        self._file.truncate()

    def _member(self, name: str, data: bytes) -> int:
        header = tarfile.TarInfo(name)
        header.size = len(data)
        header.mode = 0o644
        self._file.write(header.tobuf(tarfile.USTAR_FORMAT))
        offset = self._file.tell()
        self._file.write(data)
        self._file.write(bytes(-len(data) % _BLOCK))
        return offset


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
    rows = (index.read_index_part(shards_uri, shard) if part is None else part).to_pylist()
    if not rows:
        return
    with store.open_read(index.shard_uri(shards_uri, shard)) as tar:
        for row in rows:
            tar.seek(row["offset"])
            yield row, _checked(row, tar.read(row["size_bytes"]))


def read_utterance(shards_uri: str, index_row: Mapping[str, Any]) -> bytes:
    """The FLAC bytes of one utterance, by its index row, with one range request.

    Raises:
        NotFoundError: no such shard.
        DamageError: the bytes are not what the index says.
    """
    uri = index.shard_uri(shards_uri, index_row["shard"])
    return _checked(index_row, store.read_range(uri, index_row["offset"], index_row["size_bytes"]))


def _checked(row: Mapping[str, Any], flac: bytes) -> bytes:
    if hashlib.sha256(flac).hexdigest() != row["sha256"]:
        raise DamageError(
            f"shard {row['shard']} is damaged at utterance",
            value=row["utterance_id"],
            fix="delete the shard's tar and index part, then run `syllabary shard` again",
        )
    return flac
