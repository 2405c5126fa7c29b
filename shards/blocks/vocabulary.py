"""The ids of a language model over tokens: text below, then tokens, then ids that mean something of their own."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from syllabary.shards.archive.packing import Packing
from syllabary.shards.errors import InputError

SPECIALS = ("padding", "gap", "speech", "text", "begin", "end", "separator")
"""What stands above the tokens, in this order. The separator is the highest id of all: Megatron's NullTokenizer takes
the id after its vocabulary for the end of a document."""


@dataclass(frozen=True)
class LmVocabulary:
    """The ids of a language model: ``id_offset`` to below ``specials`` are tokens of one packing.

    Raises:
        InputError: a negative offset, or ids that do not fit into 32 bits.
    """

    packing: Packing
    id_offset: int = 0

    def __post_init__(self) -> None:
        if self.id_offset < 0:
            raise InputError("id offset", value=self.id_offset, expected="0 or more")
        if self.size > np.iinfo(np.int32).max:
            raise InputError("ids that do not fit into 32 bits", value=self.size, fix="use a smaller id offset")

    @property
    def padding(self) -> int:
        """Fills a block; never a document's."""
        return self.specials + 0

    @property
    def gap(self) -> int:
        """Stands where time passes between two utterances of a document."""
        return self.specials + 1

    @property
    def speech(self) -> int:
        """Stands before speech that has a text beside it."""
        return self.specials + 2

    @property
    def text(self) -> int:
        """Stands before a text."""
        return self.specials + 3

    @property
    def begin(self) -> int:
        """Stands before a document that has an end of its own."""
        return self.specials + 4

    @property
    def end(self) -> int:
        """Stands after it."""
        return self.specials + 5

    @property
    def separator(self) -> int:
        """Stands before every document; after it in Megatron's files and datatrove's."""
        return self.specials + 6

    @property
    def specials(self) -> int:
        """The first id above the tokens."""
        return self.id_offset + self.packing.vocabulary

    @property
    def size(self) -> int:
        """Number of ids, those below the offset among them."""
        return self.specials + len(SPECIALS)

    @property
    def dtype(self) -> np.dtype[np.generic]:
        """The smallest type that Megatron and pyarrow both know and that holds every id."""
        return np.dtype(np.uint16 if self.size <= 1 << 16 else np.int32)

    def ids(self) -> dict[str, int]:
        """Every special id by name."""
        return {name: self.specials + number for number, name in enumerate(SPECIALS)}

    def mask(self) -> NDArray[np.bool_]:
        """Possible next ids of speech, bool [num_groups, size]: row ``place`` holds where one of that place follows.

        At a frame's start the document may also end: the separator, ``end`` and ``gap`` are possible there.
        """
        mask = np.zeros((self.packing.num_groups, self.size), bool)
        for place, count in enumerate(self.packing.position_sizes):
            mask[place, self.id_offset : self.id_offset + count] = True
        mask[0, [self.separator, self.end, self.gap]] = True
        return mask
