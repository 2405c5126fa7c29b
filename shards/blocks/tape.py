"""Documents one after another as ids, and where in them which utterance lies; blocks are cut from it."""

from __future__ import annotations

from collections.abc import Callable
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


@dataclass(frozen=True)
class Tape:
    """Documents of one vocabulary, one after another.

    Attributes:
        ids: [T] in the vocabulary's type.
        place: of what follows each id in its frame, int16 [T]; 0 where that is no token.
        starts: where each document begins, [N], ascending.
        names: ids of the documents, [N].
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
    names: list[str]
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

    def may_cut(self) -> NDArray[np.bool_]:
        """Where the tape may be cut so that a frame stays whole, [T + 1]."""
        return np.concatenate([[True], self.place == 0])


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
    rows = rows.sort_by(_ORDER).combine_chunks()
    tokens, num = rows["tokens"].combine_chunks(), len(rows)
    rows = rows.drop_columns("tokens")
    lengths = np.diff(tokens.offsets.to_numpy().astype(np.int64)) if num else np.zeros(0, np.int64)
    is_first, is_last = _bounds(rows)
    gap_s = _gaps(rows, is_first)
    heads, tails = _Texts(num), _Texts(num)
    if text_ids is not None:
        _place_texts(rows, text_ids, vocabulary, heads, tails)
    if mark_gaps_s is not None:
        heads.before(np.flatnonzero(gap_s >= mark_gaps_s), vocabulary.gap)
    heads.before(np.flatnonzero(is_first), vocabulary.separator if ends == "separator" else vocabulary.begin)
    if ends == "begin_end":
        tails.after(np.flatnonzero(is_last), vocabulary.end)

    all_lengths = heads.lengths + lengths + tails.lengths
    begins = np.cumsum(all_lengths) - all_lengths
    firsts = begins + heads.lengths
    ids, place = np.empty(int(all_lengths.sum()), vocabulary.dtype), np.zeros(int(all_lengths.sum()), np.int16)
    at = ranges(firsts, lengths)
    ids[at] = tokens.flatten().to_numpy().astype(vocabulary.dtype) + vocabulary.dtype.type(vocabulary.id_offset)
    place[at] = (np.arange(len(at)) + 1) % vocabulary.packing.num_groups  # an utterance has whole frames
    ids[ranges(begins, heads.lengths)] = heads.flat()
    ids[ranges(firsts + lengths, tails.lengths)] = tails.flat()
    document = np.cumsum(is_first) - 1
    names = rows["document_id"].filter(pa.array(is_first)).to_pylist()
    return Tape(ids, place, begins[is_first], names, firsts, lengths, document, rows, gap_s, vocabulary, ends, frame_s)


def ranges(starts: Ints, lengths: Ints) -> Ints:
    """``starts[0], starts[0] + 1, ...`` for each length, one after another."""
    shifts = starts - (np.cumsum(lengths) - lengths)
    return np.repeat(shifts, lengths) + np.arange(int(lengths.sum()))


class _Texts:
    """Ids before or after the tokens of some utterances; lists are kept only of those that have any."""

    def __init__(self, num: int) -> None:
        self.lengths = np.zeros(num, np.int64)
        self._own: dict[int, list[int]] = {}

    def put(self, row: int, ids: list[int]) -> None:
        self._own[row] = ids
        self.lengths[row] = len(ids)

    def before(self, rows: Ints, own: int) -> None:
        """One more id in front of what these rows have."""
        for row in rows.tolist():
            self.put(row, [own, *self._own.get(row, ())])

    def after(self, rows: Ints, own: int) -> None:
        """One more id behind what these rows have."""
        for row in rows.tolist():
            self.put(row, [*self._own.get(row, ()), own])

    def flat(self) -> Ints:
        """All of them, by row."""
        return np.array([one for row in sorted(self._own) for one in self._own[row]], np.int64)


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


def _place_texts(rows: pa.Table, text_ids: TextIds, vocabulary: LmVocabulary, heads: _Texts, tails: _Texts) -> None:
    texts, firsts = rows["text"].to_pylist(), rows["text_first"].to_pylist()
    with_text = [row for row, first in enumerate(firsts) if first is not None]
    for row, ids in zip(with_text, text_ids([texts[row] for row in with_text]), strict=True):
        if firsts[row]:
            heads.put(row, [vocabulary.text, *ids, vocabulary.speech])
        else:
            heads.put(row, [vocabulary.speech])
            tails.put(row, [vocabulary.text, *ids])
