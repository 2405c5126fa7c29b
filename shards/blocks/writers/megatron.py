"""Megatron-LM's indexed dataset, ``.bin`` and ``.idx``: one sequence a document, readable by ``IndexedDataset``.

``.bin`` holds the ids of all sequences, nothing else. ``.idx`` (little-endian): ``b"MMIDIDX\\0\\0"``, uint64 version 1,
uint8 type (8 = uint16, 4 = int32), uint64 number of sequences S, uint64 number of document boundaries S + 1, int32 [S]
lengths in ids, int64 [S] byte offsets in ``.bin``, int64 [S + 1] boundaries 0..S. A split without documents has no
files: an empty ``.bin`` cannot be mapped.
"""

from __future__ import annotations

import io
import itertools
import struct
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from syllabary.shards import store
from syllabary.shards.blocks.vocabulary import LmVocabulary
from syllabary.shards.blocks.writers.target import Tapes, Target, Totals, totals_of, with_separators_behind

_MAGIC, _VERSION = b"MMIDIDX\x00\x00", 1
_TYPES = {np.dtype(np.uint16): 8, np.dtype(np.int32): 4}
_CHUNK = 1 << 18  # sequences whose lengths are in memory at once


def write_megatron(target: Target, tapes: Tapes) -> Totals:
    """Write ``<split>.bin`` and, last, ``<split>.idx``, which says that the ids are there."""
    totals = Totals(num_documents=0, num_tokens=0, num_ids=0)
    first = next(tapes, None)
    if first is None:
        return totals
    with tempfile.TemporaryFile() as lengths:
        with store.publishing(target.uri(f"{target.split}.bin")) as path, path.open("wb") as out:
            tapes = itertools.chain(iter([first]), tapes)
            del first  # held by the iterator alone, until it is written
            for _, tape in tapes:
                ids, own = with_separators_behind(tape)
                out.write(ids.astype(ids.dtype.newbyteorder("<"), copy=False).data)
                lengths.write(own.astype("<i4").data)
                totals.update(totals_of(tape))
                del tape, ids, own  # not beside the next
        with store.publishing(target.uri(f"{target.split}.idx")) as path:
            _write_index(path, lengths, target.vocabulary)
    return totals


def megatron_flags(vocabulary: LmVocabulary) -> list[str]:
    """What Megatron-LM's command line needs so that its end of a document is ours."""
    return ["--tokenizer-type", "NullTokenizer", "--vocab-size", str(vocabulary.separator)]


def _write_index(idx_path: Path, lengths: BinaryIO, vocabulary: LmVocabulary) -> None:
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
