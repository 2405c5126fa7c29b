"""Tokens for language models: documents with separators, cut into blocks of fixed length (FORMAT.md, "Blocks").

A document is a separator followed by its tokens. The separator and the padding id lie above every token, so ids need
no offset. ``positions`` count from the separator (0), so the token at position p has the place (p - 1) mod num_groups
in its frame, and what comes after position p has the place p mod num_groups: :meth:`LmVocabulary.mask` says which ids
are possible there.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Self

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from syllabary.shards.archive.packing import Packing

KEY_RANGE = 1 << 63  # of shuffle keys
METADATA_KEY = b"syllabary_blocks"


@dataclass(frozen=True)
class LmVocabulary:
    """The ids of a language model over tokens of one packing."""

    packing: Packing

    @property
    def separator(self) -> int:
        """Stands before every document."""
        return self.packing.vocabulary

    @property
    def padding(self) -> int:
        """Fills the last block."""
        return self.packing.vocabulary + 1

    @property
    def size(self) -> int:
        """Number of ids: tokens, separator, padding."""
        return self.packing.vocabulary + 2

    @property
    def dtype(self) -> np.dtype[np.generic]:
        """The smallest type that Megatron and pyarrow both know and that holds every id."""
        return np.dtype(np.uint16 if self.size <= 1 << 16 else np.int32)

    def mask(self) -> NDArray[np.bool_]:
        """Possible next ids, bool [num_groups, size]: row ``p % num_groups`` holds after position p of a document.

        Add ``log(mask)`` to the logits. At a frame's start the document may also end, so the separator is possible.
        """
        mask = np.zeros((self.packing.num_groups, self.size), bool)
        for place, ids in enumerate(self.packing.position_sizes):
            mask[place, :ids] = True
        mask[0, self.separator] = True
        return mask


@dataclass(frozen=True)
class Block:
    """``block_size`` ids with the position in its document of each, and the number of its document in the block.

    Padding has position and document number -1. ``document_ids`` names the documents by their number.
    """

    ids: NDArray[np.integer]
    positions: NDArray[np.int32]
    document_numbers: NDArray[np.int32]
    document_ids: tuple[str, ...]


@dataclass(frozen=True)
class Tape:
    """Documents one after another, each behind its separator; blocks are cut from it as they are asked for.

    Attributes:
        ids: of separators and tokens, [T] in the vocabulary's type.
        starts: where the separator of each document is, int64 [N], ascending.
        names: ids of the documents, [N].
        vocabulary: of the ids.
    """

    ids: NDArray[np.integer]
    starts: NDArray[np.int64]
    names: pa.Array
    vocabulary: LmVocabulary

    @classmethod
    def of(
        cls, names: pa.Array, lengths: NDArray[np.int64], tokens: NDArray[np.integer], vocabulary: LmVocabulary
    ) -> Self:
        """Documents of ``names`` [N] and ``lengths`` [N] in tokens; ``tokens`` are theirs, [sum of lengths]."""
        starts = np.cumsum(lengths) - lengths + np.arange(len(lengths))
        is_token = np.ones(len(tokens) + len(lengths), bool)
        is_token[starts] = False
        ids = np.full(len(is_token), vocabulary.separator, vocabulary.dtype)
        ids[is_token] = tokens
        return cls(ids, starts, names, vocabulary)

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Ids of each document, its separator among them, [N]."""
        return np.diff(self.starts, append=len(self.ids))

    def num_blocks(self, block_size: int) -> int:
        """Blocks of ``block_size`` that hold every id; the last may need padding."""
        return -(-len(self.ids) // block_size)

    def block(self, number: int, block_size: int) -> Block:
        """The ids from ``number * block_size`` on, exactly ``block_size`` with padding behind the tape's end."""
        first = number * block_size
        own = self.ids[first : first + block_size]
        last = first + len(own)
        begin, end = np.searchsorted(self.starts, [first, last - 1], side="right") - [1, 0]
        starts = self.starts[begin:end]
        pieces = np.diff(np.maximum(starts, first), append=last)
        ids = np.full(block_size, self.vocabulary.padding, self.vocabulary.dtype)
        positions, numbers = np.full(block_size, -1, np.int32), np.full(block_size, -1, np.int32)
        ids[: len(own)] = own
        positions[: len(own)] = np.arange(first, last) - np.repeat(starts, pieces)
        numbers[: len(own)] = np.repeat(np.arange(len(starts)), pieces)
        return Block(ids, positions, numbers, tuple(self.names.slice(begin, end - begin).to_pylist()))


def block_table(blocks: list[Block], vocabulary: LmVocabulary, block_size: int, metadata: bytes) -> pa.Table:
    """Blocks as rows: ``input_ids``, ``positions``, ``document_numbers`` [block_size] each, and ``document_ids``."""
    columns: dict[str, pa.Array] = {}
    for name, values, kind in (
        ("input_ids", [b.ids for b in blocks], pa.from_numpy_dtype(vocabulary.dtype)),
        ("positions", [b.positions for b in blocks], pa.int32()),
        ("document_numbers", [b.document_numbers for b in blocks], pa.int32()),
    ):
        flat = pa.array(np.concatenate(values) if values else [], kind)
        columns[name] = pa.FixedSizeListArray.from_arrays(flat, block_size)
    columns["document_ids"] = pa.array([list(b.document_ids) for b in blocks], pa.list_(pa.string()))
    return pa.table(columns).replace_schema_metadata({METADATA_KEY: metadata})


def shuffle_key(seed: int, document_id: str) -> int:
    """Where a document comes in the shuffled order: 63 bits that depend on seed and id alone."""
    return int.from_bytes(hashlib.sha256(f"{seed}:{document_id}".encode()).digest()[:8], "big") >> 1


def speaker_split(seed: int, speaker: str, valid_percent: float, test_percent: float) -> str:
    """The split of a speaker, by hash: all of a speaker's recordings go the same way."""
    percent = shuffle_key(seed, f"split:{speaker}") / KEY_RANGE * 100
    if percent < test_percent:
        return "test"
    return "valid" if percent < test_percent + valid_percent else "train"
