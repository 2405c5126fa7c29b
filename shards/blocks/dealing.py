"""Dealing: rows into numbered buckets on disk, in memory that neither the rows nor the buckets make grow.

Rows are held until they are ``held_bytes``, then appended to the files of their buckets. One file each for thousands
of buckets would get a row or two at a time, so there are at most ``FAN_OUT`` of them: a file stands for a range of
buckets, and is dealt again, into files of its own, when its turn comes.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa

from syllabary.shards.errors import StorageError

FAN_OUT = 64
BUCKET = "bucket"


class Dealer:
    """Deals rows into buckets ``first`` to ``first + num_buckets - 1``, in files below the local ``folder``.

    Args:
        folder: is made; its files are removed as their buckets are read.
        num_buckets: 1 or more.
        held_bytes: of rows that are held before they are written.
        first: number of the first bucket.
    """

    def __init__(self, folder: Path, num_buckets: int, held_bytes: float, first: int = 0) -> None:
        assert num_buckets > 0
        folder.mkdir(parents=True, exist_ok=True)
        self._folder, self._first, self._num_buckets, self._held_bytes = folder, first, num_buckets, held_bytes
        self._step = 1
        while self._step * FAN_OUT < num_buckets:
            self._step *= FAN_OUT
        self._tables: list[pa.Table] = []
        self._bytes = 0

    def add(self, rows: pa.Table) -> None:
        """Take rows whose column ``bucket`` (int) says where they go; all tables of a dealer have one schema.

        Raises:
            StorageError: the folder's disk is full.
        """
        self._tables.append(rows)
        self._bytes += rows.nbytes
        if self._bytes >= self._held_bytes:
            self._spill()

    def buckets(self) -> Iterator[tuple[int, pa.Table]]:
        """Number and rows of every bucket that has any, by number; its rows in the order in which they came.

        Raises:
            StorageError: the folder's disk is full.
        """
        self._spill()
        for low in range(self._first, self._first + self._num_buckets, self._step):
            path = self._path(low)
            if not path.exists():
                continue
            if self._step == 1:
                yield low, _all_in(path)
            else:
                yield from self._dealt_again(low, path).buckets()

    def _dealt_again(self, low: int, path: Path) -> Dealer:
        num_buckets = min(self._step, self._first + self._num_buckets - low)
        inner = Dealer(path.with_suffix(""), num_buckets, self._held_bytes, low)
        for table in _tables_in(path):
            inner.add(table)
        path.unlink()
        return inner

    def _path(self, low: int) -> Path:
        return self._folder / f"{low:08}.arrows"

    def _spill(self) -> None:
        """Append what is held to its files, an Arrow stream each time: no file stays open."""
        if not self._bytes:
            return
        rows = pa.concat_tables(self._tables).combine_chunks()
        self._tables, self._bytes = [], 0
        files = (rows[BUCKET].to_numpy() - self._first) // self._step
        order = np.argsort(files, kind="stable")
        sorted_rows, edges = rows.take(pa.array(order)), np.flatnonzero(np.diff(files[order], prepend=-1))
        for start, stop in zip(edges, [*edges[1:], len(files)], strict=True):
            low = self._first + int(files[order[start]]) * self._step
            self._append(self._path(low), sorted_rows.slice(start, stop - start))

    def _append(self, path: Path, rows: pa.Table) -> None:
        try:
            with path.open("ab") as sink, pa.ipc.new_stream(sink, rows.schema) as writer:
                writer.write_table(rows)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            what, fix = "no space left to sort in", "free some space, or set TMPDIR to a folder on a larger disk"
            raise StorageError(what, value=str(self._folder), fix=fix) from error


def _all_in(path: Path) -> pa.Table:
    """The rows of a file, which is removed."""
    rows = pa.concat_tables(_tables_in(path))
    path.unlink()
    return rows


def _tables_in(path: Path) -> Iterator[pa.Table]:
    """The tables of a file, in the order in which they were appended."""
    with pa.OSFile(str(path)) as source:
        while source.tell() < source.size():
            yield pa.ipc.open_stream(source).read_all()
