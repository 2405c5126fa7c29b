"""Documents one after another as ids, and where in them which utterance lies; blocks are cut from it."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from syllabary.shards.blocks.vocabulary import LmVocabulary

Ends = Literal["separator", "begin_end"]
Ints = NDArray[np.int64]
TextIds = Callable[[list[str]], list[list[int]]]

ROWS = pa.schema(
    [
        ("key", pa.int64()),
        ("copy", pa.int32()),
        ("document_id", pa.string()),
        ("utterance_id", pa.string()),
        ("recording_id", pa.string()),
        ("speaker", pa.string()),
        ("start_sample", pa.int64()),
        ("num_samples", pa.int64()),
        ("sample_rate", pa.int32()),
        ("archive", pa.int32()),
        ("text", pa.string()),
        ("text_first", pa.bool_()),
        ("tokens", pa.list_(pa.uint16())),
    ]
)
"""Utterances as a tape is made of them. ``copy`` tells repetitions of a document apart, ``text_first`` is null where no
text goes along."""
_ORDER = [(name, "ascending") for name in ("key", "archive", "copy", "document_id", "start_sample")]
_SAME = ("archive", "copy", "document_id")
_TOKENS_AT_ONCE, _TEXTS_AT_ONCE = 1 << 20, 4096


@dataclass(frozen=True)
class Tape:
    """Documents of one vocabulary, one after another.

    Attributes:
        ids: [T] in the vocabulary's type.
        place: of what follows each id in its frame, int16 [T]; 0 where that is no token.
        starts: where each document begins, [N], ascending.
        firsts: where the tokens of each utterance begin, [U], ascending.
        lengths: tokens of each, [U].
        document: number of the document of each, [U].
        rows: :data:`ROWS` of the utterances without their tokens, [U].
        gap_s: seconds between the utterance before in the document and this one, [U]; NaN where none is before.
        vocabulary: of the ids.
        ends: what documents begin and end with.
        frame_s: seconds of a frame.
    """

    ids: NDArray[np.integer]
    place: NDArray[np.int16]
    starts: Ints
    firsts: Ints
    lengths: Ints
    document: Ints
    rows: pa.Table
    gap_s: NDArray[np.float64]
    vocabulary: LmVocabulary
    ends: Ends
    frame_s: float

    @property
    def num_tokens(self) -> int:
        """Tokens of speech in all."""
        return int(self.lengths.sum())

    @property
    def document_lengths(self) -> Ints:
        """Ids of each document, [N]."""
        return np.diff(self.starts, append=len(self.ids))

    def document_of_id(self) -> NDArray[np.int32]:
        """Number of the document of every id, [T]."""
        return np.repeat(np.arange(len(self.starts), dtype=np.int32), self.document_lengths)

    def cuts(self) -> Ints:
        """Where the tape may be cut so that a frame stays whole, from 0 to its end, ascending."""
        return np.append(0, np.flatnonzero(self.place == 0) + 1)


def make_tape(
    rows: pa.Table,
    vocabulary: LmVocabulary,
    frame_s: float,
    ends: Ends = "separator",
    mark_gaps_s: float | None = None,
    text_ids: TextIds | None = None,
) -> Tape:
    """The documents of :data:`ROWS`, by key, their utterances in time.

    Args:
        rows: in any order.
        vocabulary: of the ids.
        frame_s: seconds of a frame.
        ends: a separator before each document, or ``begin`` before and ``end`` after it.
        mark_gaps_s: put ``gap`` where so many seconds or more pass between two utterances of a document.
        text_ids: ids of texts, for rows with ``text_first``.
    """
    order = pc.sort_indices(rows.select([name for name, _ in _ORDER]), sort_keys=_ORDER)
    tokens = rows["tokens"].combine_chunks()
    rows = rows.drop_columns("tokens").take(order).combine_chunks()
    lengths = pc.list_value_length(tokens).take(order).to_numpy().astype(np.int64)
    is_first, is_last = _bounds(rows)
    gap_s = _gaps(rows, is_first)
    heads, tails = _Beside(len(rows)), _Beside(len(rows))
    if text_ids is not None:
        _place_texts(rows, text_ids, vocabulary, heads, tails)
    if mark_gaps_s is not None:
        heads.put_before(np.flatnonzero(gap_s >= mark_gaps_s), vocabulary.gap)
    heads.put_before(np.flatnonzero(is_first), vocabulary.separator if ends == "separator" else vocabulary.begin)
    if ends == "begin_end":
        tails.put_after(np.flatnonzero(is_last), vocabulary.end)

    all_lengths = heads.lengths + lengths + tails.lengths
    begins = np.cumsum(all_lengths) - all_lengths
    firsts = begins + heads.lengths
    ids, place = np.empty(int(all_lengths.sum()), vocabulary.dtype), np.zeros(int(all_lengths.sum()), np.int16)
    for rows_of_slice in _slices(lengths):
        at = ranges(firsts[rows_of_slice], lengths[rows_of_slice])
        own = tokens.take(order[rows_of_slice]).flatten().to_numpy()
        ids[at] = own.astype(vocabulary.dtype) + vocabulary.dtype.type(vocabulary.id_offset)
        place[at] = np.resize(_places(vocabulary.packing.num_groups), len(at))  # an utterance has whole frames
    heads.write(ids, begins)
    tails.write(ids, firsts + lengths)
    document = np.cumsum(is_first) - 1
    return Tape(ids, place, begins[is_first], firsts, lengths, document, rows, gap_s, vocabulary, ends, frame_s)


def _slices(lengths: Ints) -> Iterator[slice]:
    """Rows one after another, so many that they have about a million tokens: numbers of these are 8 bytes each."""
    stops = np.searchsorted(np.cumsum(lengths), np.arange(_TOKENS_AT_ONCE, lengths.sum() + 1, _TOKENS_AT_ONCE))
    edges = np.unique(np.concatenate([[0], stops + 1, [len(lengths)]]))
    yield from map(slice, edges[:-1].tolist(), edges[1:].tolist())


def _places(num_groups: int) -> NDArray[np.int16]:
    """The place of what follows each token of a frame."""
    return np.roll(np.arange(num_groups, dtype=np.int16), -1)


def ranges(starts: Ints, lengths: Ints) -> Ints:
    """``starts[0], starts[0] + 1, ...`` for each length, one after another."""
    shifts = starts - (np.cumsum(lengths) - lengths)
    return np.repeat(shifts, lengths) + np.arange(int(lengths.sum()))


class _Beside:
    """Ids before or after the tokens of some utterances: one that is the same for many rows, or a list for each."""

    def __init__(self, num_rows: int) -> None:
        self.lengths = np.zeros(num_rows, np.int64)
        self._pieces: list[tuple[Ints, Ints, NDArray[np.int32]]] = []  # rows, lengths of their ids, ids; in order

    def put_before(self, rows: Ints, own: int) -> None:
        """One more id in front of what these rows have."""
        self._pieces.insert(0, self._same(rows, own))

    def put_after(self, rows: Ints, own: int) -> None:
        """One more id behind what these rows have."""
        self._pieces.append(self._same(rows, own))

    def put_lists(self, rows: Ints, lengths: Ints, ids: NDArray[np.int32]) -> None:
        """A list behind what each of these rows has."""
        self.lengths[rows] += lengths
        self._pieces.append((rows, lengths, ids))

    def write(self, ids: NDArray[np.integer], begins: Ints) -> None:
        """Write all of them into ``ids``, those of a row from its ``begins`` on."""
        at = begins.copy()
        for rows, lengths, own in self._pieces:
            ids[ranges(at[rows], lengths)] = own
            at[rows] += lengths

    def _same(self, rows: Ints, own: int) -> tuple[Ints, Ints, NDArray[np.int32]]:
        self.lengths[rows] += 1
        return rows, np.ones(len(rows), np.int64), np.full(len(rows), own, np.int32)


def _bounds(rows: pa.Table) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Which rows begin a document, and which end one."""
    num = len(rows)
    differs = np.zeros(max(num - 1, 0), bool)
    for name in _SAME:
        column = rows[name].combine_chunks()
        differs |= pc.not_equal(column.slice(1), column.slice(0, max(num - 1, 0))).to_numpy(zero_copy_only=False)
    edge = np.ones(min(num, 1), bool)
    return np.concatenate([edge, differs]), np.concatenate([differs, edge])


def _gaps(rows: pa.Table, is_first: NDArray[np.bool_]) -> NDArray[np.float64]:
    start, num, rate = (
        rows[name].to_numpy().astype(np.float64) for name in ("start_sample", "num_samples", "sample_rate")
    )
    starts, stops = start / rate, (start + num) / rate
    gaps = np.full(len(rows), np.nan)
    gaps[1:] = np.maximum(np.round(starts[1:] - stops[:-1], 6), 0)
    gaps[is_first] = np.nan
    return gaps


def _place_texts(rows: pa.Table, text_ids: TextIds, vocabulary: LmVocabulary, heads: _Beside, tails: _Beside) -> None:
    for first in range(0, len(rows), _TEXTS_AT_ONCE):
        own = rows.slice(first, _TEXTS_AT_ONCE)
        for side, text_first in ((heads, True), (tails, False)):
            is_here = pc.fill_null(pc.equal(own["text_first"], text_first), False)
            here = np.flatnonzero(is_here.to_numpy())
            found = text_ids(own["text"].take(pa.array(here)).to_pylist())
            ids = np.array(list(itertools.chain.from_iterable(found)), np.int32)
            side.put_after(here + first, vocabulary.text)
            side.put_lists(here + first, np.array([len(one) for one in found], np.int64), ids)
            heads.put_after(here + first, vocabulary.speech)
