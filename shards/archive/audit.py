"""The scrub of an archive: every byte against its checksums, every row against the format, all against the shards.

What is found is named by part, rows and time span. The part's sha256 finds any changed byte; page checksums and the
rows' crc32c say where it lies, so that undamaged rows are known and stay readable.
"""

from __future__ import annotations

import io
import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from types import MappingProxyType
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from syllabary.shards import dataset, outputs
from syllabary.shards.about.files import CARD, check_about
from syllabary.shards.archive import parts as token_archive
from syllabary.shards.archive.ledger import (
    TOKENIZED,
    Ledger,
    archive_digest,
    ledger_name,
    part_sizes,
    read_totals,
    sha256,
    shards_in,
    sums_name,
    sums_text,
)
from syllabary.shards.archive.parts import (
    LEDGER,
    PARTS,
    SUMS,
    ArchiveFormat,
    PartMetadata,
    open_part,
    part_name,
    read_format,
)
from syllabary.shards.errors import FormatError, NotFoundError, SyllabaryError
from syllabary.shards.store import Folder

_READ_ERRORS = (pa.ArrowException, OSError, ValueError, ArithmeticError)  # the last: lengths and rates without sense
_SHOWN_SPANS = 3


@dataclass(frozen=True)
class Finding:
    """One damage that a scrub found.

    Attributes:
        file: path below the archive.
        what: in words.
        rows: first and last row of the part, or None when it concerns the file.
        spans: (recording_id, start_s, end_s) of the audio behind these rows.
    """

    file: str
    what: str
    rows: tuple[int, int] | None = None
    spans: tuple[tuple[str, float, float], ...] = ()

    def __str__(self) -> str:
        where = "" if self.rows is None else f", rows {self.rows[0]}..{self.rows[1]}"
        shown = [f"{name} {start:.3f}..{end:.3f} s" for name, start, end in self.spans[:_SHOWN_SPANS]]
        more = len(self.spans) - len(shown)
        tail = (" (" + "; ".join(shown) + (f"; and {more} more" if more else "") + ")") if shown else ""
        return f"{self.file}{where}: {self.what}{tail}"


@dataclass
class Audit:
    """What a scrub saw: counts, seconds of audio, bytes read, all findings, size in bytes of every intact part, how
    many of the parts read were encoded on what, notes on what is no damage (a card that people have edited), and the
    checksums of the parts and ledgers read, as their files have to be.
    """

    num_parts: int = 0
    num_rows: int = 0
    duration_s: float = 0.0
    size_bytes: int = 0
    findings: list[Finding] = field(default_factory=list)
    intact: dict[str, int] = field(default_factory=dict)
    encoded_on: Counter[str] = field(default_factory=Counter)
    notes: list[str] = field(default_factory=list)
    sums: dict[str, bytes] = field(default_factory=dict)

    @property
    def archive_digest(self) -> str | None:
        """The digest of the archive, where every part was read and none is damaged."""
        return archive_digest(self.sums) if self.intact and self.sums.keys() == self.intact.keys() else None


def audit_archive(
    archive_uri: str,
    shards_uri: str | None = None,
    on_part: Callable[[str, int, int], None] | None = None,
    known: Mapping[str, int] = MappingProxyType({}),
) -> Audit:
    """Scrub an archive; memory is that of one part. ``on_part`` is called with (shard, number, total).

    Parts that are ``known`` to be intact, by shard and size in bytes, are looked for but not read.

    Raises:
        NotFoundError, FormatError, VersionError: there is no archive of a known version, or there are no shards.
    """
    form = read_format(archive_uri)
    if shards_uri:
        outputs.read_claim(shards_uri, "shards")  # a wrong folder would be told as damage of every part
    sizes = part_sizes(archive_uri)
    names = {PARTS: list(sizes), **{folder: shards_in(archive_uri, folder) for folder in (LEDGER, SUMS)}}
    indexed = set(dataset.committed_shards(shards_uri)) if shards_uri else None
    told_of = set[str]().union(*names.values(), indexed or ())
    audit = Audit(findings=[*_coverage_findings(names, indexed), *_done_findings(archive_uri, sizes, len(told_of))])
    for name, what in check_about(archive_uri):
        if name == CARD:
            audit.notes.append(f"{name} {what}")
        else:
            audit.findings.append(Finding(name, what))
    audit.intact = {shard: size for shard, size in sizes.items() if known.get(shard) == size}
    todo = [shard for shard in sizes if shard not in audit.intact]
    for number, shard in enumerate(todo):
        rows = dataset.read_index_part(shards_uri, shard) if shards_uri and indexed and shard in indexed else None
        _audit_part(archive_uri, shard, form, rows, audit)
        audit.intact[shard] = sizes[shard]
        if on_part:
            on_part(shard, number + 1, len(todo))
    damaged = {PurePosixPath(finding.file).stem for finding in audit.findings}
    audit.intact = {shard: size for shard, size in audit.intact.items() if shard not in damaged}
    if not any(finding.file == outputs.DONE for finding in audit.findings):
        audit.findings += _digest_findings(read_totals(archive_uri), audit)
    return audit


def _digest_findings(done: Mapping[str, Any] | None, audit: Audit) -> Iterable[Finding]:
    """Whether the parts of a complete archive are those that it was complete with: an exchanged one may fit its ledger,
    its checksums and its size.
    """
    own, stated = audit.archive_digest, (done or {}).get("archive_digest")
    if done and own and stated and own != stated and done["num_parts"] == len(audit.sums):
        what = f"has the archive digest {str(stated)[:16]}..., but parts and ledgers have {own[:16]}..."
        yield Finding(outputs.DONE, f"{what}: one of them is not of this archive")


def _done_findings(archive_uri: str, sizes: Mapping[str, int], num_shards: int) -> Iterable[Finding]:
    """Whether a complete archive still has all of its shards, and no other archive's instead: one that is gone, or
    exchanged, with its ledger and checksums leaves no other trace.
    """
    try:
        done = read_totals(archive_uri)
    except FormatError:
        yield Finding(outputs.DONE, "does not parse")
        return
    if done is None:
        return
    if done["num_parts"] > num_shards:
        yield Finding(outputs.DONE, f"counts {done['num_parts']} parts, but there are traces of {num_shards}")
    size_bytes = sum(sizes.values())
    if done["num_parts"] == len(sizes) == num_shards and done.get("size_bytes", size_bytes) != size_bytes:
        what = f"counts {done['size_bytes']:,} bytes in {len(sizes):,} parts, but they have {size_bytes:,}"
        yield Finding(outputs.DONE, f"{what}: a part is cut, or not of this archive")


def _coverage_findings(names: dict[str, list[str]], indexed: set[str] | None) -> Iterable[Finding]:
    parts, ledgers, sums = (set(names[folder]) for folder in (PARTS, LEDGER, SUMS))
    for shard in sorted((ledgers | sums) - parts):
        yield Finding(part_name(shard), "the part is missing, its ledger or checksums are there")
    for shard in sorted(parts - ledgers):
        yield Finding(ledger_name(shard), "the ledger is missing")
    for shard in sorted(parts - sums):
        yield Finding(sums_name(shard), "the checksums are missing")
    if indexed is not None:
        for shard in sorted(indexed - parts - ledgers - sums):
            yield Finding(part_name(shard), "the part is missing: its shard is not tokenized")
        for shard in sorted(parts - indexed):
            yield Finding(part_name(shard), "a foreign part: no shard of that name")


def _audit_part(archive_uri: str, shard: str, form: ArchiveFormat, rows: pa.Table | None, audit: Audit) -> None:
    part, encoded, sums = (_read(archive_uri, name(shard)) for name in (part_name, ledger_name, sums_name))
    assert part is not None, "listed a moment ago"
    audit.num_parts += 1
    audit.size_bytes += len(part)
    ledger = None
    try:
        ledger = Ledger.decode(encoded, ledger_name(shard)) if encoded is not None else None
    except FormatError:
        audit.findings.append(Finding(ledger_name(shard), "the ledger does not parse"))
    before = len(audit.findings)
    audit.findings += _row_findings(part, shard, form, ledger, audit)
    found_rows = len(audit.findings) > before
    audit.findings += _sum_findings(shard, part, encoded, sums, ledger, found_rows)
    if encoded is not None:
        audit.sums[shard] = sums_text(shard, sha256(part), sha256(encoded))
    if ledger is not None and rows is not None:
        audit.findings += _index_findings(shard, ledger, rows)


def _read(archive_uri: str, name: str) -> bytes | None:
    try:
        return Folder(archive_uri).read(name)
    except NotFoundError:
        return None


def _sum_findings(
    shard: str, part: bytes, encoded: bytes | None, sums: bytes | None, ledger: Ledger | None, found_rows: bool
) -> Iterable[Finding]:
    """Whether part, ledger and checksums agree, and which of the three has changed when they do not."""
    if sums is None or encoded is None:
        return
    own = sha256(part)
    witnessed = sums.startswith(own.encode()) or (ledger is not None and ledger.part_sha256 == own)
    if not witnessed and not found_rows:
        yield Finding(part_name(shard), "sha256 differs: bytes outside the rows have changed")
    if ledger is None or sums == sums_text(shard, ledger.part_sha256, sha256(encoded)):
        return
    if ledger.encode() != encoded or (witnessed and not _describes(ledger, shard, part)):
        yield Finding(ledger_name(shard), "sha256 differs")
    else:
        yield Finding(sums_name(shard), "the checksums have changed")


def _describes(ledger: Ledger, shard: str, part: bytes) -> bool:
    try:
        metadata = PartMetadata.of_file(open_part(io.BytesIO(part), part_name(shard)), part_name(shard))
    except FormatError:
        return False
    told = (ledger.shard, ledger.shard_digest, ledger.part_sha256, ledger.part_size_bytes)
    return told == (shard, metadata.shard_digest, sha256(part), len(part))


def _index_findings(shard: str, ledger: Ledger, rows: pa.Table) -> Iterable[Finding]:
    if ledger.shard_digest != token_archive.shard_digest(rows):
        yield Finding(part_name(shard), "the shard has changed since it was tokenized")
    elif ledger.rows["utterance_id"].to_pylist() != rows["utterance_id"].to_pylist():
        yield Finding(ledger_name(shard), "does not account for the utterances of the shard")


def _row_findings(
    part: bytes, shard: str, form: ArchiveFormat, ledger: Ledger | None, audit: Audit
) -> Iterable[Finding]:
    name = part_name(shard)
    known = None
    if ledger is not None:
        known = ledger.rows.filter(pa.array([s == TOKENIZED for s in ledger.rows["status"].to_pylist()], pa.bool_()))
    try:
        file = open_part(io.BytesIO(part), name)
        metadata = PartMetadata.of_file(file, name)
    except SyllabaryError as error:
        yield Finding(name, f"unreadable: {error}", *_place(known, 0, len(known or []) - 1))
        return
    if metadata.format != form or metadata.shard != shard:
        yield Finding(name, "a foreign part: its metadata is not this archive's")
        return
    audit.encoded_on[metadata.encoded_on] += 1
    sizes = [file.metadata.row_group(group).num_rows for group in range(file.metadata.num_row_groups)]
    if min(sizes, default=0) < 0 or sum(sizes) != file.metadata.num_rows:
        yield Finding(name, "its row groups do not add up", *_place(known, 0, len(known or []) - 1))
        return
    if known is not None and len(known) != file.metadata.num_rows:
        yield Finding(name, f"has {file.metadata.num_rows} rows; its ledger has {len(known)} tokenized utterances")
        known = None  # says nothing of single rows
    firsts = itertools.accumulate(sizes, initial=0)
    for group, first in zip(range(len(sizes)), firsts, strict=False):
        yield from _group_findings(part, file, group, first, form, known, audit)


def _group_findings(
    part: bytes, file: pq.ParquetFile, group: int, first: int, form: ArchiveFormat, known: pa.Table | None, audit: Audit
) -> Iterable[Finding]:
    name = part_name(PartMetadata.of(file.metadata.metadata, "").shard)
    last = first + file.metadata.row_group(group).num_rows - 1
    try:
        table = file.read_row_group(group)
        wrong = wrong_rows(table, form, known.slice(first, last - first + 1) if known is not None else None)
        audit.num_rows += len(table)
        audit.duration_s += float(np.sum(table["num_samples"].to_numpy() / table["sample_rate"].to_numpy()))
        what = "rows do not pass their checks"
    except _READ_ERRORS:
        columns = [c for c in file.schema_arrow.names if not _reads(file, group, c)]
        what = f"page checksum fails in {', '.join(columns) or 'the row group'}"
        table, wrong = _salvage(part, group, form, columns, last - first + 1)
    for start, stop in _runs(wrong):
        yield Finding(name, what, *_place(known if known is not None else table, first + start, first + stop, first))


def wrong_rows(table: pa.Table, form: ArchiveFormat, known: pa.Table | None = None) -> NDArray[np.bool_]:
    """Which rows of a table break the format: checksum, lengths, token ranges, or what the ledger knows of them."""
    groups = form.packing.num_groups
    tokens, salience = (token_archive.list_values(table[c]) for c in ("tokens", "salience"))
    num_frames = table["num_frames"].to_numpy()
    pairs = zip(table["num_samples"].to_pylist(), table["sample_rate"].to_pylist(), strict=True)
    wrong = np.array([form.num_frames(n, rate) for n, rate in pairs], np.int64) != num_frames
    wrong |= np.array([len(t) for t in tokens], np.int64) != num_frames * groups
    wrong |= np.array([len(s) for s in salience], np.int64) != num_frames
    wrong |= token_archive.row_crc32cs(table) != table["crc32c"].to_numpy()
    wrong |= np.array([text != str(form.packing) for text in table["packing"].to_pylist()], bool)
    sizes = np.array(form.packing.position_sizes)
    for row in np.flatnonzero(~wrong):
        wrong[row] = bool((tokens[row].reshape(-1, groups) >= sizes).any())
    if known is not None:
        wrong |= np.array(table["utterance_id"].to_pylist()) != np.array(known["utterance_id"].to_pylist())
    return wrong


def _reads(file: pq.ParquetFile, group: int, column: str) -> bool:
    try:
        file.read_row_group(group, columns=[column])
    except _READ_ERRORS:
        return False
    return True


def _salvage(
    part: bytes, group: int, form: ArchiveFormat, columns: list[str], num_rows: int
) -> tuple[pa.Table | None, NDArray[np.bool_]]:
    """The rows of a damaged row group that are still right: without page checksums, by their own crc32c.

    Damage in a column that the crc32c does not cover concerns all rows of the group.
    """
    everything = np.ones(num_rows, bool)
    try:
        table = open_part(io.BytesIO(part), "", checked=False).read_row_group(group)
        wrong = wrong_rows(table, form)
    except (*_READ_ERRORS, SyllabaryError):
        return None, everything
    return table, wrong if wrong.any() and set(columns) <= {"tokens", "salience"} else everything


def _runs(wrong: NDArray[np.bool_]) -> list[tuple[int, int]]:
    """First and last index of each run of True."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], wrong, [False]]).astype(np.int8)))
    return [(int(a), int(b) - 1) for a, b in zip(edges[::2], edges[1::2], strict=True)]


def _place(
    rows: pa.Table | None, first: int, last: int, offset_of_table: int = 0
) -> tuple[tuple[int, int] | None, tuple[tuple[str, float, float], ...]]:
    """Row range, and its time spans where a table knows them: one per recording, neighbours joined."""
    if last < first:
        return None, ()
    if rows is None:
        return (first, last), ()
    begin = first if len(rows) > last else first - offset_of_table
    spans: dict[str, tuple[float, float]] = {}
    for row in rows.slice(begin, last - first + 1).to_pylist():
        if row["sample_rate"] <= 0:  # read in spite of the damage
            continue
        start, end = (x / row["sample_rate"] for x in (row["start_sample"], row["start_sample"] + row["num_samples"]))
        low, high = spans.get(row["recording_id"], (start, end))
        spans[row["recording_id"]] = (min(low, start), max(high, end))
    return (first, last), tuple((name, *span) for name, span in spans.items())
