"""Tokens for language models: documents with separators, cut into blocks of fixed length (FORMAT.md, "Blocks").

A document is a separator followed by its tokens. The separator and the padding id lie above every token, so ids need
no offset. ``positions`` count from the separator (0), so the token at position p has the place (p - 1) mod num_groups
in its frame, and what comes after position p has the place p mod num_groups: :meth:`LmVocabulary.mask` says which ids
are possible there.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from shards.packing import Packing


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


def cut_blocks(
    documents: Iterable[tuple[str, NDArray[np.integer]]], vocabulary: LmVocabulary, block_size: int
) -> Iterator[Block]:
    """Blocks of exactly ``block_size`` ids over documents (id, tokens [T]); the last is padded, no token is lost."""
    assert block_size > 0
    pieces: list[tuple[str, NDArray[np.integer], NDArray[np.int32]]] = []
    held = 0
    for name, tokens in documents:
        ids = np.concatenate([np.array([vocabulary.separator]), tokens]).astype(vocabulary.dtype)
        positions = np.arange(len(ids), dtype=np.int32)
        while len(ids):
            room = block_size - held
            pieces.append((name, ids[:room], positions[:room]))
            held += len(ids[:room])
            ids, positions = ids[room:], positions[room:]
            if held == block_size:
                yield _block(pieces, vocabulary, block_size)
                pieces, held = [], 0
    if pieces:
        yield _block(pieces, vocabulary, block_size)


def _block(
    pieces: list[tuple[str, NDArray[np.integer], NDArray[np.int32]]], vocabulary: LmVocabulary, block_size: int
) -> Block:
    ids = np.full(block_size, vocabulary.padding, vocabulary.dtype)
    positions = np.full(block_size, -1, np.int32)
    numbers = np.full(block_size, -1, np.int32)
    at = 0
    for number, (_, own, place) in enumerate(pieces):
        ids[at : at + len(own)], positions[at : at + len(own)] = own, place
        numbers[at : at + len(own)] = number
        at += len(own)
    return Block(ids, positions, numbers, tuple(name for name, _, _ in pieces))


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
    return pa.table(columns).replace_schema_metadata({b"syllabary_blocks": metadata})


def shuffle_key(seed: int, document_id: str) -> int:
    """Where a document comes in the shuffled order: 63 bits that depend on seed and id alone."""
    return int.from_bytes(hashlib.sha256(f"{seed}:{document_id}".encode()).digest()[:8], "big") >> 1


def speaker_split(seed: int, speaker: str, valid_percent: float, test_percent: float) -> str:
    """The split of a speaker, by hash: all of a speaker's recordings go the same way."""
    percent = shuffle_key(seed, f"split:{speaker}") / (1 << 63) * 100
    if percent < test_percent:
        return "test"
    return "valid" if percent < test_percent + valid_percent else "train"
