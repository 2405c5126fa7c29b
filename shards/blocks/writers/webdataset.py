"""Blocks as WebDataset: ``<split>/part-NNNNN.tar``, one sample per block: an array for each column, and JSON."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from syllabary.shards import outputs, store
from syllabary.shards.blocks.blocks import make_blocks
from syllabary.shards.blocks.layout import Cut
from syllabary.shards.blocks.tape import Tape
from syllabary.shards.blocks.writers.target import Tapes, Target, Totals, totals_of
from syllabary.shards.blocks.writers.tars import npy_bytes, writing_tar

_AT_ONCE = 64


def write_webdataset(target: Target, tapes: Tapes) -> Totals:
    """Write a tar of every tape that has not been written."""
    totals = Totals(num_documents=0, num_tokens=0, num_ids=0, num_blocks=0, num_cut_documents=0)
    for bucket, tape in tapes:
        blocks, order = target.shuffled(bucket, tape)
        totals.update(totals_of(tape, blocks))
        uri = target.uri(target.split, f"part-{bucket:05}.tar")
        if not store.exists(uri):
            with store.publishing(uri) as path:
                _write(path, f"{target.split}-{bucket:05}", tape, blocks, order)
        del tape, blocks, order  # not beside the next
    return totals


def _write(path: Path, name: str, tape: Tape, blocks: Cut, order: NDArray[np.int64]) -> None:
    document_of_id = tape.document_of_id()
    with writing_tar(path) as add:
        for first in range(0, len(order), _AT_ONCE):
            made, sources = make_blocks(tape, blocks, order[first : first + _AT_ONCE], document_of_id)
            told: dict[int, list[dict[str, Any]]] = defaultdict(list)
            for row in sources.to_pylist():
                told[row.pop("block")].append(row)
            columns = made.columns()
            for number in range(len(made.input_ids)):
                key = f"{name}-{first + number:06}"
                for column, values in columns.items():
                    add(f"{key}.{column}.npy", npy_bytes(values[number]))
                add(f"{key}.json", outputs.canonical_json({"sources": told[number]}))
