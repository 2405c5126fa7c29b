"""Megatron-LM's indexed dataset, ``.bin`` and ``.idx``: one sequence a document, readable by ``IndexedDataset``.

``.bin`` holds the ids of all sequences, nothing else. ``.idx`` (little-endian): ``b"MMIDIDX\\0\\0"``, uint64 version 1,
uint8 type (8 = uint16, 4 = int32), uint64 number of sequences S, uint64 number of document boundaries S + 1, int32 [S]
lengths in ids, int64 [S] byte offsets in ``.bin``, int64 [S + 1] boundaries 0..S.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from syllabary.shards.blocks.documents import LmVocabulary, Tape

_MAGIC, _VERSION = b"MMIDIDX\x00\x00", 1
_TYPES = {np.dtype(np.uint16): 8, np.dtype(np.int32): 4}
_CHUNK = 1 << 18  # sequences whose lengths are in memory at once


def write_sequences(bin_path: Path, lengths: BinaryIO, tapes: Iterable[Tape]) -> None:
    """Write the documents of the tapes to ``.bin``, every one with its separator behind it, and to ``lengths`` how many
    ids each has, of which :func:`write_index` makes the index."""
    with bin_path.open("wb") as out:
        for tape in tapes:
            dtype = tape.ids.dtype.newbyteorder("<")
            # The separators stand before the documents: without the first and with one more they stand behind them.
            out.write(np.append(tape.ids[1:], tape.ids[:1]).astype(dtype, copy=False).tobytes())
            lengths.write(tape.lengths.astype("<i4").tobytes())


def write_index(idx_path: Path, lengths: BinaryIO, vocabulary: LmVocabulary) -> None:
    """Write ``.idx`` from the ``lengths`` that :func:`write_sequences` wrote."""
    num = lengths.seek(0, io.SEEK_END) // 4
    offset = 0
    with idx_path.open("wb") as out:
        out.write(_MAGIC + struct.pack("<QBQQ", _VERSION, _TYPES[vocabulary.dtype], num, num + 1))
        for own in _chunks(lengths):
            out.write(own.tobytes())
        for own in _chunks(lengths):
            sizes = own.astype(np.int64) * vocabulary.dtype.itemsize
            out.write((offset + np.cumsum(sizes) - sizes).astype("<i8").tobytes())
            offset += int(sizes.sum())
        for first in range(0, num + 1, _CHUNK):
            out.write(np.arange(first, min(first + _CHUNK, num + 1), dtype="<i8").tobytes())


def _chunks(lengths: BinaryIO) -> Iterator[NDArray[np.int32]]:
    lengths.seek(0)
    while data := lengths.read(4 * _CHUNK):
        yield np.frombuffer(data, "<i4")
