"""Megatron-LM's indexed dataset, ``.bin`` and ``.idx``: one sequence a document, readable by ``IndexedDataset``.

``.bin`` holds the ids of all sequences, nothing else. ``.idx`` (little-endian): ``b"MMIDIDX\\0\\0"``, uint64 version 1,
uint8 type (8 = uint16, 4 = int32), uint64 number of sequences S, uint64 number of document boundaries S + 1, int32 [S]
lengths in ids, int64 [S] byte offsets in ``.bin``, int64 [S + 1] boundaries 0..S.
"""

from __future__ import annotations

import struct
from array import array
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from shards.lm_packing import LmVocabulary

_MAGIC, _VERSION = b"MMIDIDX\x00\x00", 1
_TYPES = {np.dtype(np.uint16): 8, np.dtype(np.int32): 4}


def write_megatron(
    bin_path: Path, idx_path: Path, documents: Iterable[NDArray[np.integer]], vocabulary: LmVocabulary
) -> int:
    """Write documents (tokens [T] each), every one with a separator after it; returns the number of ids written."""
    lengths = array("i")
    dtype = vocabulary.dtype.newbyteorder("<")
    with bin_path.open("wb") as out:
        for tokens in documents:
            ids = np.append(tokens, vocabulary.separator).astype(dtype)
            out.write(ids.tobytes())
            lengths.append(len(ids))
    sizes = np.array(lengths, "<i4")
    offsets = np.zeros(len(sizes), "<i8")
    np.cumsum(sizes[:-1].astype(np.int64) * dtype.itemsize, out=offsets[1:])
    with idx_path.open("wb") as out:
        out.write(_MAGIC + struct.pack("<QBQQ", _VERSION, _TYPES[vocabulary.dtype], len(sizes), len(sizes) + 1))
        for values in (sizes, offsets, np.arange(len(sizes) + 1, dtype="<i8")):
            out.write(values.tobytes())
    return int(sizes.sum())
