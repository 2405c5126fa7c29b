"""Blocks as trainers take them: columns of one size, which any collator stacks, and a table of where pieces are from.

``position_ids`` begin at 0 with every document and with every block, so they stay below the block's size, and the
beginnings of what may attend to one another are where they are 0. ``labels`` are the next ids, written out: the last id
of a document has none, the last id of a block has the one that the next block begins with.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from syllabary.shards.blocks.layout import Cut
from syllabary.shards.blocks.tape import Ints, Tape, ranges
from syllabary.shards.blocks.vocabulary import LmVocabulary

IGNORED = -100
"""The label that cross-entropy leaves out, torch's default."""
METADATA_KEY = b"syllabary_blocks"
_IDS_AT_ONCE = 1 << 17
SOURCES = pa.schema(
    [
        ("block", pa.int64()),
        ("first", pa.int32()),
        ("num_ids", pa.int32()),
        ("document", pa.int32()),
        ("document_id", pa.string()),
        ("recording_id", pa.string()),
        ("utterance_id", pa.string()),
        ("archive", pa.int32()),
        ("start_s", pa.float64()),
        ("end_s", pa.float64()),
        ("gap_s", pa.float64()),
    ]
)
"""One row a piece of an utterance in a block."""


@dataclass(frozen=True)
class Blocks:
    """Some blocks, each array [num_blocks, block_size].

    Attributes:
        input_ids: in the vocabulary's type; padding behind the last document.
        labels: int32, what follows each id; -100 after a document's last id and in padding.
        position_ids: int32, from 0 in every document and every block; padding counts like a document.
        place: int16, of the label in its frame, 0 .. num_groups - 1; 0 where the label is no token.
        document_ids: int32, number of the document in the block, from 0; -1 in padding.
    """

    input_ids: NDArray[np.integer]
    labels: NDArray[np.int32]
    position_ids: NDArray[np.int32]
    place: NDArray[np.int16]
    document_ids: NDArray[np.int32]

    def columns(self) -> dict[str, NDArray[np.integer]]:
        """The arrays by name."""
        return {field.name: getattr(self, field.name) for field in fields(self)}


def make_blocks(tape: Tape, cut: Cut, numbers: Ints, document_of_id: NDArray[np.int32]) -> tuple[Blocks, pa.Table]:
    """The blocks of these ``numbers``, in that order, and :data:`SOURCES` of them, ``block`` counting from 0.

    What is needed on the way is several times as large as the blocks, so they are made some at a time.
    """
    made, tables = _empty(tape.vocabulary, (len(numbers), cut.block_size)), []
    step = max(_IDS_AT_ONCE // cut.block_size, 1)
    for first in range(0, max(len(numbers), 1), step):
        own, sources = _make(tape, cut, numbers[first : first + step], document_of_id)
        for name, values in made.columns().items():
            values[first : first + step] = getattr(own, name)
        tables.append(sources.set_column(0, SOURCES.field("block"), pc.add(sources["block"], first)))
    return made, pa.concat_tables(tables)


def _empty(vocabulary: LmVocabulary, shape: tuple[int, int]) -> Blocks:
    """Blocks to be filled."""
    ids, places = np.empty(shape, vocabulary.dtype), np.empty(shape, np.int16)
    return Blocks(ids, np.empty(shape, np.int32), np.empty(shape, np.int32), places, np.empty(shape, np.int32))


def _make(tape: Tape, cut: Cut, numbers: Ints, document_of_id: NDArray[np.int32]) -> tuple[Blocks, pa.Table]:
    counts = cut.firsts[numbers + 1] - cut.firsts[numbers]
    spans = ranges(cut.firsts[numbers], counts)
    starts, lengths = cut.starts[spans], (cut.stops - cut.starts)[spans]
    block = np.repeat(np.arange(len(numbers)), counts)
    ends = np.cumsum(lengths)
    before = np.concatenate([[0], ends])[np.concatenate([[0], np.cumsum(counts)])]  # ids before each block
    columns = ends - lengths - before[block]  # where in its block each span begins
    source = ranges(starts, lengths)
    target = ranges(block * cut.block_size + columns, lengths)
    document = document_of_id[source]
    is_begin = np.ones(len(source), bool)
    is_begin[1:] = document[1:] != document[:-1]
    is_begin[ends - lengths] = True
    run = np.cumsum(is_begin) - 1
    total = len(numbers) * cut.block_size
    input_ids = np.full(total, tape.vocabulary.padding, tape.vocabulary.dtype)
    labels, place = np.full(total, IGNORED, np.int32), np.zeros(total, np.int16)
    document_ids, positions = np.full(total, -1, np.int32), _padding_positions(before, cut.block_size)
    input_ids[target] = tape.ids[source]
    following = np.minimum(source + 1, max(len(tape.ids) - 1, 0))
    goes_on = (source + 1 < len(tape.ids)) & (document_of_id[following] == document)
    labels[target] = np.where(goes_on, tape.ids[following].astype(np.int32), IGNORED)
    place[target] = tape.place[source]
    positions[target] = np.arange(len(source)) - np.flatnonzero(is_begin)[run]
    block_of_id = np.repeat(block, lengths)
    first_run = run[before[:-1]] if len(source) else np.zeros(0, np.int64)
    document_ids[target] = run - first_run[block_of_id]
    shape = (len(numbers), cut.block_size)
    made = Blocks(
        input_ids.reshape(shape),
        labels.reshape(shape),
        positions.reshape(shape),
        place.reshape(shape),
        document_ids.reshape(shape),
    )
    return made, _sources(tape, starts, lengths, block, columns, made.document_ids)


def blocks_table(blocks: Blocks, block_size: int, metadata: bytes) -> pa.Table:
    """Blocks as rows, a list of fixed size a column."""
    arrays = {
        name: pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), block_size)
        for name, values in blocks.columns().items()
    }
    return pa.table(arrays).replace_schema_metadata({METADATA_KEY: metadata})


def blocks_schema(vocabulary: LmVocabulary, block_size: int, metadata: bytes) -> pa.Schema:
    """The columns of :func:`blocks_table`."""
    return blocks_table(_empty(vocabulary, (0, block_size)), block_size, metadata).schema


def _padding_positions(before: Ints, block_size: int) -> NDArray[np.int32]:
    """Positions as if every block were padding from its last id on: 0 to its end."""
    used = np.diff(before)
    columns = np.tile(np.arange(block_size), (len(used), 1)) - used[:, None]
    return np.maximum(columns, 0).astype(np.int32).reshape(-1)


def _sources(
    tape: Tape, starts: Ints, lengths: Ints, block: Ints, columns: Ints, document_ids: NDArray[np.int32]
) -> pa.Table:
    """The utterances in every span, and the seconds of the frames that the span has of each."""
    stops, utterance_stops = starts + lengths, tape.firsts + tape.lengths
    low = np.searchsorted(utterance_stops, starts, side="right")
    high = np.searchsorted(tape.firsts, stops, side="left")
    counts = np.maximum(high - low, 0)
    span, row = np.repeat(np.arange(len(starts)), counts), ranges(low, counts)
    first, last = np.maximum(tape.firsts[row], starts[span]), np.minimum(utterance_stops[row], stops[span])
    kept = last > first
    span, row, first, last = span[kept], row[kept], first[kept], last[kept]
    column = columns[span] + first - starts[span]
    own = tape.rows.take(pa.array(row))
    begin_s, end_s = _seconds(tape, own, first - tape.firsts[row], last - tape.firsts[row])
    is_begin = first == tape.firsts[row]
    return pa.table(
        {
            "block": block[span],
            "first": column,
            "num_ids": last - first,
            "document": document_ids[block[span], column] if len(span) else column,
            "document_id": own["document_id"],
            "recording_id": own["recording_id"],
            "utterance_id": own["utterance_id"],
            "archive": own["archive"],
            "start_s": begin_s,
            "end_s": end_s,
            "gap_s": pa.array(np.where(is_begin, tape.gap_s[row], np.nan), from_pandas=True),
        }
    ).cast(SOURCES)


def _seconds(tape: Tape, rows: pa.Table, first: Ints, stop: Ints) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Second of the recording at which the frame of token ``first`` begins, and that of token ``stop - 1`` ends."""
    rate, start, num = (rows[n].to_numpy().astype(np.float64) for n in ("sample_rate", "start_sample", "num_samples"))
    groups = tape.vocabulary.packing.num_groups
    begin = start / rate + first // groups * tape.frame_s
    end = np.minimum(start / rate + -(-stop // groups) * tape.frame_s, (start + num) / rate)
    return np.round(begin, 6), np.round(end, 6)
