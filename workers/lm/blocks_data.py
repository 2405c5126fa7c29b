"""Read blocks for training, by row group, in an order that depends on the seed and the block's number alone."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch
from torch import Tensor

from syllabary.shards import outputs, store
from syllabary.shards.archive.packing import Packing
from syllabary.shards.blocks.blocks import METADATA_KEY
from syllabary.shards.errors import DamageError, FormatError, InputError, NotFoundError
from syllabary.shards.store import Folder

COLUMNS = ("input_ids", "labels", "position_ids", "place", "document_ids")
Batch = dict[str, Tensor]


@dataclass(frozen=True)
class Vocabulary:
    """What the ids in blocks mean, as the blocks' own metadata says.

    Attributes:
        metadata: all that the blocks say of themselves.
        packing: how digits are packed into tokens.
    """

    metadata: dict[str, Any]
    packing: Packing

    @classmethod
    def of_blocks(cls, blocks: str) -> Vocabulary:
        """Read the vocabulary of the blocks at a URI.

        Raises:
            NotFoundError: there are no blocks.
            InputError: they are not complete, or are in another form than Parquet.
        """
        claim = outputs.read_claim(blocks, "packed")
        if claim["config"]["output_format"] != "parquet":
            what, fix = "blocks in another form", "pack with --format parquet"
            raise InputError(what, value=claim["config"]["output_format"], expected="parquet", fix=fix)
        if outputs.read_done(blocks) is None:
            raise InputError("the blocks are not complete", value=blocks, fix="run `syllabary pack` again first")
        metadata = Folder(blocks).read_json("blocks.json")
        metadata.pop("archives", None)
        return cls.of_metadata(metadata)

    @classmethod
    def of_metadata(cls, metadata: dict[str, Any]) -> Vocabulary:
        """Make a vocabulary of the metadata that a model or a part carries. Raises FormatError."""
        try:
            names = ("num_dims", "levels", "group_size", "digit_order")
            return cls(metadata, Packing(*(metadata[name] for name in names)))
        except (KeyError, TypeError, ValueError) as error:
            raise FormatError(f"metadata of blocks is incomplete ({error!r})") from error

    def __getitem__(self, name: str) -> int:
        """A number in the metadata by its name: ``separator``, ``block_size``, ``id_offset``, ..."""
        return int(self.metadata[name])

    @property
    def with_text(self) -> bool:
        """Whether the blocks hold text beside the speech."""
        return self.metadata.get("interleave", "none") != "none"

    @property
    def num_text_ids(self) -> int:
        """How many ids are text; they begin at 0. 0 where there is no text."""
        return self["text_vocabulary_size"] if self.with_text else 0

    @property
    def ends(self) -> tuple[int, ...]:
        """The ids beside text and tokens that may stand where a frame would begin."""
        return tuple(self[name] for name in ("gap", "end", *(("speech", "text") if self.with_text else ())))

    @property
    def begin(self) -> tuple[int, ...]:
        """The ids before the first token of a document that begins with speech."""
        first = self["separator" if self.metadata["ends"] == "separator" else "begin"]
        return (first, self["speech"]) if self.with_text else (first,)

    def is_token(self, ids: Tensor) -> Tensor:
        """Which ids are tokens of speech."""
        return (ids >= self["id_offset"]) & (ids < self["id_offset"] + self.packing.vocabulary)

    @property
    def frames_per_s(self) -> float:
        """Frames per second of speech."""
        return self["model_sample_rate"] / self["hop_length"]


class BlockSource:
    """The blocks of one split, numbered from 0 on; later epochs hold the same blocks in another order."""

    def __init__(self, blocks: str, split: str, seed: int) -> None:
        self._seed = seed
        self._parts = [entry.uri for entry in (Folder(blocks) / split).list(suffix=".parquet")]
        if not self._parts:
            fix = "pack with --splits speaker and a higher --valid-percent" if split != "train" else "pack more"
            raise NotFoundError(f"no blocks of the split {split}", value=blocks, fix=fix)
        self._groups: list[tuple[int, int, int]] = []  # part, row group, blocks in it
        for number, uri in enumerate(self._parts):
            with store.open_read(uri) as handle:
                metadata = pq.ParquetFile(handle).metadata
                self._groups += [(number, g, metadata.row_group(g).num_rows) for g in range(metadata.num_row_groups)]
        self._held: tuple[tuple[int, int], dict[str, np.ndarray]] | None = None
        self._order: tuple[int, np.ndarray, np.ndarray] | None = None

    def __len__(self) -> int:
        """The number of blocks in the split."""
        return sum(count for _, _, count in self._groups)

    def block(self, number: int) -> dict[str, np.ndarray]:
        """The columns of a block, [block_size] each; numbers from ``len`` on belong to later epochs.

        Raises:
            DamageError: the block fails its checksum.
        """
        epoch, at = divmod(number, len(self))
        groups, stops = self._epoch(epoch)
        place = int(np.searchsorted(stops, at, side="right"))
        part, group, count = self._groups[groups[place]]
        inside = np.random.default_rng([self._seed, epoch, part, group]).permutation(count)
        row = int(inside[at - (int(stops[place - 1]) if place else 0)])
        return {name: values[row] for name, values in self._read(part, group).items()}

    def batch(self, first: int, count: int, device: torch.device) -> Batch:
        """Blocks ``first`` to ``first + count - 1`` as int64 [count, block_size]."""
        rows = [self.block(first + i) for i in range(count)]
        return {name: torch.from_numpy(np.stack([row[name] for row in rows]).astype(np.int64)).to(device)
                for name in COLUMNS}  # fmt: skip

    def _epoch(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """The row groups in the epoch's order, and how many blocks there are up to the end of each."""
        if self._order is None or self._order[0] != epoch:
            groups = np.random.default_rng([self._seed, epoch]).permutation(len(self._groups))
            self._order = (epoch, groups, np.cumsum([self._groups[g][2] for g in groups]))
        return self._order[1], self._order[2]

    def _read(self, part: int, group: int) -> dict[str, np.ndarray]:
        if self._held is None or self._held[0] != (part, group):
            uri = self._parts[part]
            try:
                with store.open_read(uri) as handle:
                    file = pq.ParquetFile(handle, page_checksum_verification=True)
                    json.loads(file.metadata.metadata[METADATA_KEY])
                    table = file.read_row_group(group, columns=list(COLUMNS))
            except (OSError, KeyError, ValueError) as error:
                fix = "delete the part and run `syllabary pack` again"
                raise DamageError(f"blocks cannot be read ({error})", value=uri, fix=fix) from error
            width = table["input_ids"].type.list_size
            columns = {name: table[name].combine_chunks().flatten().to_numpy().reshape(-1, width) for name in COLUMNS}
            self._held = ((part, group), columns)
        return self._held[1]


def frames_of(row: dict[str, np.ndarray], vocabulary: Vocabulary) -> list[np.ndarray]:
    """The runs of consecutive whole frames in a block, tokens [F, num_groups] each."""
    groups, offset = vocabulary.packing.num_groups, vocabulary["id_offset"]
    ids = row["input_ids"].astype(np.int64) - offset
    is_token = (ids >= 0) & (ids < vocabulary.packing.vocabulary)
    own_place = np.where(is_token, (row["place"].astype(np.int64) - 1) % groups, -1)
    starts = [s for s in np.flatnonzero(own_place == 0).tolist() if s + groups <= len(ids)]
    runs: list[list[int]] = []
    for start in starts:
        if runs and runs[-1][-1] + groups == start:
            runs[-1].append(start)
        else:
            runs.append([start])
    return [np.stack([ids[start : start + groups] for start in run]).astype(np.uint16) for run in runs]
