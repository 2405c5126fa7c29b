"""Which spans of a tape make which block: cut wherever a block is full, at a frame, or so that no document is cut."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Literal

import numpy as np

from syllabary.shards.blocks.tape import Ints, Tape
from syllabary.shards.errors import InputError

Layout = Literal["stream", "frames", "whole"]


@dataclass(frozen=True)
class Cut:
    """Blocks as spans of a tape.

    Attributes:
        starts: of each span, [P].
        stops: likewise, [P].
        firsts: the first span of each block, and their number, [B + 1].
        block_size: ids in a block; what the spans leave is padding.
        num_cut_documents: that lie in more than one span.
    """

    starts: Ints
    stops: Ints
    firsts: Ints
    block_size: int
    num_cut_documents: int

    @property
    def num_blocks(self) -> int:
        """How many there are."""
        return len(self.firsts) - 1


def require_block_size(block_size: int, num_groups: int) -> None:
    """Refuse a block that holds no frame and what stands before it. Raises InputError."""
    if block_size < num_groups + 1:
        what = f"a block smaller than a frame of {num_groups} tokens and what stands before it"
        raise InputError(what, value=block_size, expected=f"{num_groups + 1} or more", fix="use a larger block size")


def cut(tape: Tape, block_size: int, layout: Layout) -> Cut:
    """The blocks of a tape.

    ``stream`` cuts where a block is full, ``frames`` at the last frame's end that still fits. ``whole`` puts documents
    together so that little is left over and none is cut (best fit, the longest first); one that is longer than a block
    is cut at frames, and what is left of it is placed like a document.
    """
    if layout == "whole":
        return _whole(tape, block_size)
    edges = np.append(np.arange(0, len(tape.ids), block_size), len(tape.ids))
    if layout == "frames":
        edges = np.array(_frame_edges(tape.cuts(), block_size, 0, len(tape.ids)), np.int64)
    if not len(tape.ids):
        edges = np.zeros(1, np.int64)
    inside = np.setdiff1d(edges[1:-1], tape.starts)
    num_cut = len(np.unique(np.searchsorted(tape.starts, inside, side="right")))
    return Cut(edges[:-1], edges[1:], np.arange(len(edges)), block_size, num_cut)


def _frame_edges(cuts: Ints, block_size: int, start: int, stop: int) -> list[int]:
    """Where the tape from ``start`` to ``stop`` is cut, each time at the last of ``cuts`` that fits."""
    edges, at = [start], start
    while at < stop:
        at = int(cuts[np.searchsorted(cuts, min(at + block_size, stop), side="right") - 1])
        edges.append(at)
    return edges


def _whole(tape: Tape, block_size: int) -> Cut:
    lengths = tape.document_lengths
    starts, stops = tape.starts.tolist(), (tape.starts + lengths).tolist()
    long = np.flatnonzero(lengths > block_size).tolist()
    spans = [(starts[i], stops[i]) for i in np.flatnonzero(lengths <= block_size).tolist()]
    cuts = tape.cuts() if long else np.zeros(0, np.int64)
    for document in long:
        edges = _frame_edges(cuts, block_size, starts[document], stops[document])
        spans += itertools.pairwise(edges)
    spans.sort(key=lambda span: (span[0] - span[1], span[0]))
    blocks: list[list[tuple[int, int]]] = []
    open_blocks: list[list[int]] = [[] for _ in range(block_size + 1)]  # by the room that is left
    rooms = 0  # bit r is set where a block has room r
    for start, stop in spans:
        length = stop - start
        fitting = rooms >> length
        if fitting:
            room = length + (fitting & -fitting).bit_length() - 1
            number = open_blocks[room].pop()
            if not open_blocks[room]:
                rooms ^= 1 << room
        else:
            room, number = block_size, len(blocks)
            blocks.append([])
        blocks[number].append((start, stop))
        if room > length:
            open_blocks[room - length].append(number)
            rooms |= 1 << (room - length)
    flat = np.array([span for block in blocks for span in block], np.int64).reshape(-1, 2)
    firsts = np.concatenate([[0], np.cumsum([len(block) for block in blocks], dtype=np.int64)])
    return Cut(flat[:, 0], flat[:, 1], firsts, block_size, len(long))
