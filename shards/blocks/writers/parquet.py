"""Blocks as Parquet: ``<split>/part-NNNNN.parquet``, and ``sources/<split>/part-NNNNN.parquet`` beside."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from syllabary.shards import outputs, store
from syllabary.shards.blocks.blocks import SOURCES, blocks_schema, blocks_table, make_blocks
from syllabary.shards.blocks.layout import Cut
from syllabary.shards.blocks.tape import Tape
from syllabary.shards.blocks.writers.target import Tapes, Target, Totals, totals_of

_ROW_GROUP_SIZE = 1024
_ZSTD_LEVEL = 3
_TEXTS = ["document_id", "recording_id", "utterance_id", "archive"]


def write_parquet(target: Target, tapes: Tapes) -> Totals:
    """Write a part of every tape that has not been written; its blocks come last and say that it is whole."""
    totals = Totals(num_documents=0, num_tokens=0, num_ids=0, num_blocks=0, num_cut_documents=0)
    for bucket, tape in tapes:
        blocks, order = target.shuffled(bucket, tape)
        totals.update(totals_of(tape, blocks))
        name = f"part-{bucket:05}.parquet"
        uri = target.uri(target.split, name)
        if not store.exists(uri):
            with store.publishing(target.uri("sources", target.split, name)) as sources, store.publishing(uri) as path:
                _write(target, tape, blocks, order, path, sources)
        del tape, blocks, order  # not beside the next
    return totals


def _write(target: Target, tape: Tape, blocks: Cut, order: NDArray[np.int64], path: Path, sources: Path) -> None:
    """The blocks in that order, a row group in memory at a time."""
    metadata = outputs.canonical_json(target.metadata)
    schema, document_of_id = blocks_schema(target.vocabulary, target.block_size, metadata), tape.document_of_id()
    with (
        pq.ParquetWriter(path, schema, compression="zstd", compression_level=_ZSTD_LEVEL, use_dictionary=False,
                         write_page_checksum=True, write_statistics=False) as writer,
        pq.ParquetWriter(sources, SOURCES, compression="zstd", compression_level=_ZSTD_LEVEL, use_dictionary=_TEXTS,
                         write_page_checksum=True, store_schema=False) as beside,
    ):  # fmt: skip
        for first in range(0, len(order), _ROW_GROUP_SIZE):
            made, told = make_blocks(tape, blocks, order[first : first + _ROW_GROUP_SIZE], document_of_id)
            writer.write_table(blocks_table(made, target.block_size, metadata), row_group_size=_ROW_GROUP_SIZE)
            numbers = pa.array(told["block"].to_numpy() + first)
            beside.write_table(told.set_column(0, SOURCES.field("block"), numbers))
