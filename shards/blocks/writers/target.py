"""What every writer of blocks is given, and what it reports afterwards."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from syllabary.shards import store
from syllabary.shards.blocks.layout import Cut, Layout, cut
from syllabary.shards.blocks.tape import Tape
from syllabary.shards.blocks.vocabulary import LmVocabulary

SPLITS = ("train", "valid", "test")
Tapes = Iterator[tuple[int, Tape]]
Totals = Counter[str]


@dataclass(frozen=True)
class Target:
    """One split of an output.

    Attributes:
        out: URI of the output.
        split: its name.
        seed: of the order of blocks.
        block_size: ids in a block.
        layout: how blocks are cut.
        vocabulary: of the ids.
        metadata: what a training run must know.
    """

    out: str
    split: str
    seed: int
    block_size: int
    layout: Layout
    vocabulary: LmVocabulary
    metadata: dict[str, Any]

    def uri(self, *names: str) -> str:
        """Of a file of the output."""
        return store.join(self.out, *names)

    def shuffled(self, bucket: int, tape: Tape) -> tuple[Cut, NDArray[np.int64]]:
        """The blocks of a tape, and the order in which they are written."""
        blocks = cut(tape, self.block_size, self.layout)
        rng = np.random.default_rng([self.seed, bucket, SPLITS.index(self.split)])
        return blocks, rng.permutation(blocks.num_blocks)


def totals_of(tape: Tape, blocks: Cut | None = None) -> Totals:
    """What a tape adds to the totals of its split."""
    found = Counter(num_documents=len(tape.starts), num_tokens=tape.num_tokens, num_ids=len(tape.ids))
    if blocks is not None:
        found.update(num_blocks=blocks.num_blocks, num_cut_documents=blocks.num_cut_documents)
    return found


def with_separators_behind(tape: Tape) -> tuple[NDArray[np.integer], NDArray[np.int64]]:
    """Ids of all documents with the separator after each, and their lengths: as trainers of documents want them.

    Separators before documents move behind them; ``begin`` and ``end`` stay, and get a separator behind.
    """
    separator = tape.vocabulary.dtype.type(tape.vocabulary.separator)
    if tape.ends == "separator":
        return np.append(tape.ids[1:], separator), tape.document_lengths
    stops = tape.starts + tape.document_lengths
    return np.insert(tape.ids, stops, separator), tape.document_lengths + 1
