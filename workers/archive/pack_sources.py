"""The archives of a pack: opened, weighed, held to one tokenizer, and their rows as documents in shuffled order."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from syllabary.shards.archive.parts import ArchiveFormat
from syllabary.shards.archive.reader import ArchiveReader
from syllabary.shards.archive.where import Condition, parse_where
from syllabary.shards.blocks.dealing import BUCKET
from syllabary.shards.blocks.splits import KEY_RANGE, num_copies, shuffle_key
from syllabary.shards.blocks.tape import ROWS
from syllabary.shards.errors import ConflictError, InputError
from syllabary.workers.archive.split_chooser import SplitChooser
from syllabary.workers.control.jobs import PackJob

COLUMNS = [
    "utterance_id", "recording_id", "speaker", "split", "start_sample", "num_samples", "sample_rate", "tokens",
]  # fmt: skip
_SPILL = pa.schema([pa.field(BUCKET, pa.int32()), *ROWS])


@dataclass(frozen=True)
class Source:
    """One archive of a pack.

    Attributes:
        number: among them.
        reader: of it.
        condition: which of its rows are taken; None for all.
        weight: how often each of its documents comes, on average.
    """

    number: int
    reader: ArchiveReader
    condition: Condition | None
    weight: float

    @property
    def size_bytes(self) -> int:
        """How many bytes its parts have in all."""
        return sum(self.reader.part_sizes.values())

    @property
    def text_columns(self) -> list[str]:
        """The columns of text to read: ``text``, where the archive has it."""
        return [name for name in ("text",) if name in self.reader.schema.names]

    def with_text(self, table: pa.Table, interleave: str) -> pa.Table:
        """The rows that have the text that is asked for."""
        if interleave == "none":
            return table
        if not self.text_columns:
            return table.slice(0, 0)
        return table.filter(pc.greater(pc.utf8_length(pc.fill_null(pc.utf8_trim_whitespace(table["text"]), "")), 0))


def open_sources(job: PackJob) -> list[Source]:
    """Open every archive that has a weight.

    Raises:
        InputError: as many weights as archives are not given, one is negative or not finite, or they sum to nothing.
        NotFoundError, FormatError, DamageError: an archive does not open.
    """
    weights = job.weights or (1.0,) * len(job.archive)
    if len(weights) != len(job.archive):
        raise InputError("weights of the archives", value=len(weights), expected=f"{len(job.archive)}, one per archive")
    if bad := [weight for weight in weights if not (math.isfinite(weight) and weight >= 0)]:
        raise InputError("weight of an archive", value=bad[0], expected="0 or more")
    if not sum(weights):
        raise InputError("weights that sum to nothing", value=list(weights), fix="give one archive a weight above 0")
    pairs = zip(job.archive, weights, strict=True)
    return [_open(job, number, *pair) for number, pair in enumerate(pairs) if pair[1] > 0]


def _open(job: PackJob, number: int, uri: str, weight: float) -> Source:
    reader = ArchiveReader.open(uri)
    condition = parse_where(job.where, reader.schema) if job.where is not None else None
    return Source(number, reader, condition, weight)


def require_one_tokenizer(sources: list[Source]) -> ArchiveFormat:
    """The format whose tokens all of them hold. Raises ConflictError: their tokens mean different things."""
    form = sources[0].reader.format
    for source in sources[1:]:
        other, uri = source.reader.format, source.reader.uri
        if other.encoder_digest != form.encoder_digest:
            raise ConflictError(
                f"archives of two tokenizers, encoder digest of {uri}",
                value=other.encoder_digest[:16],
                expected=form.encoder_digest[:16],
                fix="pack them apart, or tokenize one of them anew",
            )
        if other.packing != form.packing:
            fix = "make them one with `syllabary repack`"
            what = f"archives of two packings, {uri}"
            raise ConflictError(what, value=str(other.packing), expected=str(form.packing), fix=fix)
    return form


def documents(
    job: PackJob, source: Source, table: pa.Table, chooser: SplitChooser, num_buckets: int
) -> Iterator[tuple[pa.Table, pa.Array]]:
    """The rows as parts of documents, once for every copy of these, and the split of each row."""
    if not len(table):
        return
    splits = pa.array(chooser.splits(table))
    ids = table["recording_id" if job.document == "recording" else "utterance_id"].to_pylist()
    copies = {one: num_copies(job.seed, one, source.weight) for one in set(ids)}
    wanted = np.array([copies[one] for one in ids])
    orders: tuple[bool | None, ...] = {
        "none": (None,),
        "text_to_speech": (True,),
        "speech_to_text": (False,),
        "both": (True, False),
    }[job.interleave]
    for repeat in range(int(wanted.max())):
        kept = pa.array(np.flatnonzero(wanted > repeat))
        rows, names = table.take(kept), [ids[i] for i in kept.to_pylist()]
        for number, text_first in enumerate(orders):
            copy = repeat * len(orders) + number
            yield _keyed(job, source, rows, names, copy, text_first, num_buckets), splits.take(kept)


def _keyed(
    job: PackJob,
    source: Source,
    table: pa.Table,
    ids: list[str],
    copy: int,
    text_first: bool | None,
    num_buckets: int,
) -> pa.Table:
    """The rows with their document, its place in the shuffled order and the bucket of that place."""
    mark = f"{source.number}/{copy}/" if source.number or copy else ""
    known = {one: shuffle_key(job.seed, mark + one) for one in set(ids)}
    keys = [known[one] for one in ids]
    num = len(table)
    columns = {
        BUCKET: [key * num_buckets // KEY_RANGE for key in keys],
        "key": keys,
        "copy": _constant(copy, num),
        "document_id": ids,
        "archive": _constant(source.number, num),
        "text": table["text"] if "text" in table.column_names else pa.nulls(num, pa.string()),
        "text_first": pa.array([text_first] * num, pa.bool_()),
    }
    return pa.table([columns.get(n) if n in columns else table[n] for n in _SPILL.names], _SPILL.names).cast(_SPILL)


def _constant(value: int, num: int) -> NDArray[np.int32]:
    return np.full(num, value, np.int32)
