"""Reading an archive: the rows that meet a condition, from the row groups that can hold them, counting bytes read."""

from __future__ import annotations

import contextlib
import io
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import pyarrow as pa
import pyarrow.parquet as pq

from syllabary.shards import outputs, store
from syllabary.shards.archive.ledger import part_sizes, read_totals
from syllabary.shards.archive.parts import REBUILD, ArchiveFormat, PartMetadata, open_part, part_name, read_format
from syllabary.shards.archive.where import Condition
from syllabary.shards.errors import DamageError, FormatError, NotFoundError

Place = tuple[int, Sequence[int]]  # a row group of a part, and rows in it


class RangeReader(io.RawIOBase):
    """A file at a URI, read by exact range requests; counts what it fetches."""

    def __init__(self, uri: str) -> None:
        super().__init__()
        self._uri, self._at = uri, 0
        self._size = store.size_bytes(uri)
        self.bytes_read = 0

    def readable(self) -> bool:
        """Whether it can be read: always."""
        return True

    def seekable(self) -> bool:
        """Whether it can be moved in: always."""
        return True

    def tell(self) -> int:
        """The position of the next byte to read."""
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move to a position; returns it."""
        self._at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        return self._at

    def read(self, size: int | None = -1) -> bytes:
        """Read ``size`` bytes, or all the rest."""
        left = max(self._size - self._at, 0)
        length = left if size is None or size < 0 else min(size, left)
        data = store.read_range(self._uri, self._at, length) if length else b""
        self._at += len(data)
        self.bytes_read += len(data)
        return data


@dataclass
class ArchiveReader:
    """An archive opened for reading.

    Attributes:
        uri: of the archive.
        format: of its tokens.
        part_sizes: bytes of each part, by shard, sorted.
        schema: the columns of the rows.
        bytes_read: so far.
        num_row_groups_read: so far.
    """

    uri: str
    format: ArchiveFormat
    part_sizes: dict[str, int]
    schema: pa.Schema
    bytes_read: int = field(default=0)
    num_row_groups_read: int = field(default=0)

    @classmethod
    def open(cls, uri: str) -> ArchiveReader:
        """Open the archive at ``uri``.

        Raises:
            NotFoundError: there is no archive, or no part in it.
            FormatError: it is no archive, or of another version.
            DamageError: parts are missing.
        """
        form = read_format(uri)
        sizes = part_sizes(uri)
        if not sizes:
            raise NotFoundError("an archive without parts", value=uri, fix="run `syllabary tokenize` first")
        done = read_totals(uri)
        if done is not None and done["num_parts"] > len(sizes):  # more there may be: a run that is adding them
            raise DamageError(f"parts of {uri}", value=len(sizes), expected=str(done["num_parts"]), fix=REBUILD)
        reader = cls(uri, form, sizes, pa.schema([]))
        with reader._part(reader.shards[0]) as file:
            reader.schema = file.schema_arrow
        return reader

    @property
    def shards(self) -> list[str]:
        """Names of the parts, sorted."""
        return list(self.part_sizes)

    def scan(
        self, condition: Condition | None = None, columns: Sequence[str] | None = None, shards: Sequence[str] = ()
    ) -> Iterator[pa.Table]:
        """Read the matching rows in archive order, one table per row group; tables without rows are left out.

        Row groups whose statistics exclude a match are not read; the columns of the condition are read first, the
        others only where a row matches.

        Raises:
            DamageError: a row group does not pass its checksums; it is named.
        """
        for shard in shards or self.shards:
            for _, table in self.find(shard, condition, columns):
                yield table

    def find(
        self, shard: str, condition: Condition | None = None, columns: Sequence[str] | None = None
    ) -> Iterator[tuple[Place, pa.Table]]:
        """As :meth:`scan`, of one part: each table with the place of its rows, by which :meth:`take` reads them."""
        with self._part(shard) as file:
            for group in self._candidates(file, condition):
                with self._counted(shard, group):
                    rows = _matching(file, group, condition)
                    table = _read_rows(file, (group, rows), columns) if rows else None
                if table is not None:
                    yield (group, rows), table

    def take(self, shard: str, places: Iterable[Place], columns: Sequence[str]) -> Iterator[pa.Table]:
        """Read the rows at these places of a part, one table per row group, without any condition.

        Raises:
            DamageError: a row group does not pass its checksums; it is named.
        """
        with self._part(shard) as file:
            for place in places:
                with self._counted(shard, place[0]):
                    table = _read_rows(file, place, columns)
                yield table

    @contextlib.contextmanager
    def _counted(self, shard: str, group: int) -> Iterator[None]:
        """The reading of a row group: counted, and named where it fails."""
        self.num_row_groups_read += 1
        try:
            yield
        except (pa.ArrowException, OSError) as error:
            what = f"row group {group} of {part_name(shard)} is damaged ({error})"
            raise DamageError(what, value=self.uri, fix="run `syllabary verify`; " + REBUILD) from error

    @property
    def parts_digest(self) -> str:
        """A digest of the names and sizes of its parts."""
        return outputs.digest([[f"{shard}.parquet", size] for shard, size in self.part_sizes.items()])

    def _candidates(self, file: pq.ParquetFile, condition: Condition | None) -> list[int]:
        """Row groups that may hold a match, by their statistics."""
        if condition is None or file.metadata.num_row_groups == 0:
            return list(range(file.metadata.num_row_groups))
        import pyarrow.dataset as pds  # which loads pandas where that is installed: half a second

        footer = _footer_only(file)
        fragment = pds.ParquetFileFormat().make_fragment(footer)
        kept = fragment.subset(filter=condition.expression, schema=file.schema_arrow)
        return [group.id for group in kept.row_groups]

    def _part(self, shard: str) -> _OpenPart:
        return _OpenPart(self, shard)


class _OpenPart:
    """A part opened for the length of a block; adds what it read to the reader's count."""

    def __init__(self, reader: ArchiveReader, shard: str) -> None:
        self._reader, self._shard = reader, shard
        self._file: RangeReader | None = None

    def __enter__(self) -> pq.ParquetFile:
        name = part_name(self._shard)
        self._file = RangeReader(store.join(self._reader.uri, name))
        opened = open_part(self._file, name)
        metadata = PartMetadata.of_file(opened, name)
        if metadata.format != self._reader.format or metadata.shard != self._shard:  # a copy would come twice
            expected = f"the format of {self._reader.uri}, and the name of its own shard"
            raise FormatError("a foreign part", value=name, expected=expected, fix="move it away")
        return opened

    def __exit__(self, *_: object) -> None:
        assert self._file is not None
        self._reader.bytes_read += self._file.bytes_read


def _matching(file: pq.ParquetFile, group: int, condition: Condition | None) -> Sequence[int]:
    """The rows of a row group that meet the condition."""
    everything = range(file.metadata.row_group(group).num_rows)
    if condition is None:
        return everything
    asked = file.read_row_group(group, columns=sorted(condition.columns))
    numbered = asked.append_column("row", pa.array(everything, pa.int64()))
    return array("q", numbered.filter(condition.expression)["row"].to_numpy())  # eight bytes a row: all are held


def _read_rows(file: pq.ParquetFile, place: Place, columns: Sequence[str] | None) -> pa.Table:
    group, rows = place
    table = file.read_row_group(group, columns=list(columns or file.schema_arrow.names))
    return table if len(rows) == len(table) else table.take(pa.array(rows, pa.int64()))


def _footer_only(file: pq.ParquetFile) -> pa.BufferReader:
    """A Parquet file of the footer alone: enough for pruning, without reading the part again."""
    sink = io.BytesIO()
    file.metadata.write_metadata_file(sink)
    return pa.BufferReader(sink.getvalue())
