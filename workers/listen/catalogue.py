"""Hold an archive's rows in memory: every column of every row but tokens and salience, searched by Arrow.

Tokens are read when somebody wants to hear them. An archive may grow meanwhile: its parts are listed again, and new
ones are read.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from syllabary.shards.archive.parts import PARTS
from syllabary.shards.archive.reader import ArchiveReader
from syllabary.shards.archive.where import Condition, parse_where
from syllabary.shards.errors import InputError, NotFoundError, SyllabaryError
from syllabary.shards.store import Folder

Row = dict[str, Any]
SHARD = "shard"
LISTED_EVERY_S = 2.0
MOST_TEXT = 2_000
MOST_ROWS_OF_A_RECORDING = 20_000
_KEPT_SEARCHES = 16


@dataclass(frozen=True)
class Query:
    """A search: words that all stand somewhere in the row, an expression, one speaker, one recording."""

    words: str = ""
    where: str = ""
    speaker: str | None = None
    recording: str | None = None

    def __post_init__(self) -> None:
        for text in (self.words, self.where):
            if len(text) > MOST_TEXT:
                raise InputError("too long to look for", value=len(text), expected=f"at most {MOST_TEXT} characters")


@dataclass(frozen=True)
class Snapshot:
    """The rows of an archive at one moment.

    Attributes:
        version: another one where rows are others.
        rows: all columns but lists, with the ``shard`` of each, in archive order.
        size_bytes: of the parts.
        faults: a line for each part that could not be read.
    """

    version: int
    rows: pa.Table
    size_bytes: int
    faults: tuple[str, ...] = ()
    _found: dict[tuple[Query, str], Any] = field(default_factory=dict, compare=False, repr=False)

    @cached_property
    def texts(self) -> list[str]:
        """Columns that words are looked for in."""
        return [f.name for f in self.rows.schema if pa.types.is_string(f.type) and f.name not in (SHARD, "packing")]

    def find(self, query: Query) -> pa.Table:
        """The matching rows, in archive order. Raises InputError: the expression does not do."""
        return self._kept(query, "rows", lambda: self._search(query))

    def groups(self, query: Query, name: str) -> pa.Table:
        """What the matching rows are of: a row for each value of the column ``name``, sorted by it.

        Columns: ``name``, ``count`` of utterances, ``duration_s``, ``frames``, and ``speaker`` of a recording.
        """
        return self._kept(query, name, lambda: _grouped(self.find(query), name))

    def utterance(self, utterance_id: str) -> Row:
        """One row. Raises NotFoundError."""
        at = pc.index(self.rows["utterance_id"], utterance_id).as_py()
        if at < 0:
            raise NotFoundError("no such utterance", value=utterance_id[:200])
        row: Row = self.rows.slice(at, 1).to_pylist()[0]
        return row

    def recording(self, recording_id: str) -> list[Row]:
        """The rows of a recording, by time. Raises NotFoundError, InputError: too many of them for a page."""
        own = self.rows.filter(pc.equal(self.rows["recording_id"], recording_id))
        if not len(own):
            raise NotFoundError("no such recording", value=recording_id[:200])
        if len(own) > MOST_ROWS_OF_A_RECORDING:
            what = "a recording of too many utterances for this page"
            raise InputError(what, value=len(own), expected=f"at most {MOST_ROWS_OF_A_RECORDING}")
        rows: list[Row] = own.sort_by("start_sample").to_pylist()
        return rows

    def _kept(self, query: Query, what: str, make: Callable[[], pa.Table]) -> pa.Table:
        """What an equal search found before: the pages of one search are slices of it."""
        key = (query, what)
        if (kept := self._found.get(key)) is None:
            kept = make()
            while len(self._found) >= _KEPT_SEARCHES:
                self._found.pop(next(iter(self._found)), None)
            self._found[key] = kept
        return kept

    def _search(self, query: Query) -> pa.Table:
        rows = self.rows
        if query.where.strip():
            rows = rows.filter(parse_where(query.where, rows.schema).expression)
        for name, value in (("speaker", query.speaker), ("recording_id", query.recording)):
            if value is not None:
                rows = rows.filter(pc.equal(rows[name], value))
        for word in query.words.split():
            rows = rows.filter(self._holding(rows, word))
        return rows

    def _holding(self, rows: pa.Table, word: str) -> pa.ChunkedArray:
        hits = [pc.fill_null(pc.match_substring(rows[name], word, ignore_case=True), False) for name in self.texts]
        mask = hits[0]
        for hit in hits[1:]:
            mask = pc.or_(mask, hit)
        return mask


def _grouped(rows: pa.Table, name: str) -> pa.Table:
    seconds = pc.divide(rows["num_samples"].cast(pa.float64()), rows["sample_rate"].cast(pa.float64()))
    table = pa.table(
        {
            name: rows[name],
            "duration_s": seconds,
            "frames": rows["num_frames"],
            "one": rows["speaker"],
        }
    )
    aggregates: list[tuple[str, str]] = [("duration_s", "count"), ("duration_s", "sum"), ("frames", "sum")]
    grouped = table.group_by(name).aggregate([*aggregates, ("one", "min")]).sort_by(name)
    names = {
        "duration_s_count": "count", "duration_s_sum": "duration_s", "frames_sum": "frames", "one_min": "of_speaker"
    }  # fmt: skip
    return grouped.rename_columns([names.get(column, column) for column in grouped.column_names])


class Catalogue:
    """The newest :class:`Snapshot` of an archive; one object serves all threads.

    Raises:
        NotFoundError, FormatError, DamageError: as ``ArchiveReader.open``.
    """

    def __init__(self, archive: str) -> None:
        self.reader = ArchiveReader.open(archive)
        names = [field.name for field in self.reader.schema if not pa.types.is_list(field.type)]
        self._columns: Sequence[str] = names
        self._parts: dict[str, tuple[tuple[int, str], pa.Table, str]] = {}
        self._lock = threading.Lock()
        empty = self.reader.schema.empty_table().select(names).replace_schema_metadata(None)
        self._snapshot = Snapshot(0, empty.append_column(SHARD, pa.array([], pa.string())), 0)
        self._listed = -LISTED_EVERY_S
        self.newest()

    def newest(self) -> Snapshot:
        """The rows as they are now, or were ``LISTED_EVERY_S`` ago; only parts that are new are read.

        A part that cannot be read is told among the faults, and its rows are left out. A listing that fails leaves what
        was known.
        """
        with self._lock:
            if time.monotonic() - self._listed >= LISTED_EVERY_S:
                self._look()
                self._listed = time.monotonic()
            return self._snapshot

    def tokens(self, rows: Sequence[Row]) -> list[Row]:
        """The rows with their ``tokens`` and ``salience``. Raises DamageError, NotFoundError: gone since."""
        by_id: dict[str, Row] = {}
        for shard in dict.fromkeys(row[SHARD] for row in rows):
            ids = [row["utterance_id"] for row in rows if row[SHARD] == shard]
            condition = Condition(pc.field("utterance_id").isin(ids), frozenset({"utterance_id"}))
            for table in self.reader.scan(condition, ["utterance_id", "tokens", "salience"], [shard]):
                by_id.update((row["utterance_id"], row) for row in table.to_pylist())
        missing = [row["utterance_id"] for row in rows if row["utterance_id"] not in by_id]
        if missing:
            raise NotFoundError("an utterance that was in the archive is gone", value=missing[0])
        return [row | by_id[row["utterance_id"]] for row in rows]

    def _look(self) -> None:
        try:
            entries = (Folder(self.reader.uri) / PARTS).list(suffix=".parquet")
        except SyllabaryError as error:
            self._snapshot = replace(self._snapshot, faults=(str(error),))
            return
        states = {e.name.removesuffix(".parquet"): (e.size_bytes, e.etag) for e in entries}
        if states == {shard: state for shard, (state, _, _) in self._parts.items()}:
            self._snapshot = replace(self._snapshot, faults=self._faults())
            return
        before, self._parts = self._parts, {}
        for shard, state in states.items():
            known = before.get(shard)
            self._parts[shard] = known if known and known[0] == state else (state, *self._read(shard))
        tables = [table for _, table, _ in self._parts.values()]
        size = sum(state[0] for state, _, _ in self._parts.values())
        rows = pa.concat_tables(tables, promote_options="default") if tables else self._snapshot.rows.slice(0, 0)
        self._snapshot = Snapshot(self._snapshot.version + 1, rows.combine_chunks(), size, self._faults())

    def _faults(self) -> tuple[str, ...]:
        return tuple(fault for _, _, fault in self._parts.values() if fault)

    def _read(self, shard: str) -> tuple[pa.Table, str]:
        """Rows of a part, and what is wrong with it."""
        try:
            tables, fault = list(self._scanned(shard)), ""
        except SyllabaryError as error:
            tables, fault = [], f"{shard}: {error}"
        table = pa.concat_tables([self.reader.schema.empty_table().select(self._columns), *tables])
        names = pa.array([shard] * len(table), pa.string())
        return table.replace_schema_metadata(None).append_column(SHARD, names), fault

    def _scanned(self, shard: str) -> Iterator[pa.Table]:
        for table in self.reader.scan(None, self._columns, [shard]):
            yield table.select(self._columns)
