"""How the columns of a part are written: ``plain`` for every Parquet reader, ``compact`` for the fewest bytes.

``plain`` takes zstd and pages that are plain or have a dictionary: what every reader since 2020 reads, browser viewers
and Spark among them. Tokens as plain 32-bit integers cost a quarter more than they hold, since zstd counts bytes and
knows no columns; with a dictionary of all values each is itself in 14 bits (``token_dictionary.py``). A part in which
few of the values occur may be smaller with a dictionary of these, and a very small or very repetitive one without any:
the smallest is kept.

``compact`` takes BYTE_STREAM_SPLIT, DELTA_BYTE_ARRAY and Brotli, which pyarrow and newer DuckDB and Polars read. Bytes
of a token are of two kinds (8 and 6 bits of content), in two runs after BYTE_STREAM_SPLIT. Brotli ends a block of
literals where their statistics change; zstd has blocks of 128 KiB, so one of them holds both kinds: 1 % more on parts
of 300 utterances. In the other columns Brotli's level 10, which models context, takes a tenth off ids and salience.
What each costs stands in infra/decisions ("Plain Parquet parts").
"""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from syllabary.shards.archive.parts import METADATA_KEY, Encoding, PartMetadata
from syllabary.shards.archive.token_dictionary import with_token_dictionary

ROW_GROUP_SIZE = 4096
TOKENS, SALIENCE = "tokens.list.element", "salience.list.element"
_PAGE_BYTES = 8 << 20  # mostly one page a column
_ZSTD_LEVEL = 9
_FEW_VALUES = (
    "recording_id", "speaker", "split", "packing", "num_frames", "sample_rate", "source", "language",
    "snr_db", "gender", "extra",
)  # fmt: skip
_NOT_SOUGHT = ("packing", "text", "extra")
_COMPACT: dict[str, Any] = {
    "compression": "brotli",
    "use_dictionary": ["recording_id", "packing"],
    "column_encoding": {
        "utterance_id": "DELTA_BYTE_ARRAY",
        "start_sample": "BYTE_STREAM_SPLIT",
        "num_samples": "BYTE_STREAM_SPLIT",
        "num_frames": "BYTE_STREAM_SPLIT",
        TOKENS: "BYTE_STREAM_SPLIT",
        SALIENCE: "BYTE_STREAM_SPLIT",
    },
}
_BROTLI_LEVEL, _BROTLI_LEVEL_OF_TOKENS = 10, 4


def encode_part(table: pa.Table, *, row_group_size: int = ROW_GROUP_SIZE) -> bytes:
    """A part as Parquet bytes, in the encoding that its metadata names; the same table gives the same bytes.

    Args:
        table: as :func:`syllabary.shards.archive.parts.part_table` makes it.
        row_group_size: at most so many rows in one; the unit of reading and of damage.
    """
    encoding = PartMetadata.of(table.schema.metadata, "a part to be written").format.encoding
    if encoding == "compact":
        leaves = [f"{f.name}.list.element" if pa.types.is_list(f.type) else f.name for f in table.schema]
        levels = {name: _BROTLI_LEVEL_OF_TOKENS if name == TOKENS else _BROTLI_LEVEL for name in leaves}
        return _written(table, row_group_size, _COMPACT | {"compression_level": levels})
    options: dict[str, Any] = {"compression": "zstd", "compression_level": _ZSTD_LEVEL}
    names = [*(name for name in _FEW_VALUES if name in table.column_names), SALIENCE]
    part = _written(table, row_group_size, options | {"use_dictionary": names})
    written = [part, with_token_dictionary(part, TOKENS, _ZSTD_LEVEL)]
    if _have_gaps(table["tokens"]):
        written.append(_written(table, row_group_size, options | {"use_dictionary": [*names, TOKENS]}))
    return min(written, key=len)


def encodings_of(file: pq.ParquetFile) -> set[str]:
    """Names of the codecs and the encodings that an opened Parquet file uses."""
    groups = [file.metadata.row_group(group) for group in range(file.metadata.num_row_groups)]
    columns = [group.column(number) for group in groups for number in range(file.metadata.num_columns)]
    return {name for column in columns for name in (column.compression, *column.encodings)}


PLAIN = {"ZSTD", "PLAIN", "RLE", "RLE_DICTIONARY", "PLAIN_DICTIONARY"}


def encoding_of(file: pq.ParquetFile) -> Encoding:
    """Which of the two an opened part is written in; a part without rows is plain."""
    return "plain" if encodings_of(file) <= PLAIN else "compact"


def _have_gaps(tokens: pa.ChunkedArray) -> bool:
    """Whether so few of the values up to the largest occur that numbers of these have fewer bits."""
    counts = np.zeros(1, np.int64)
    for chunk in tokens.chunks:
        own = np.bincount(chunk.flatten().to_numpy())
        counts = np.pad(counts, (0, max(len(own) - len(counts), 0)))
        counts[: len(own)] += own
    return (int(np.count_nonzero(counts)) - 1).bit_length() < (len(counts) - 1).bit_length()


def _written(table: pa.Table, row_group_size: int, options: dict[str, Any]) -> bytes:
    sink = io.BytesIO()
    with pq.ParquetWriter(
        sink,
        table.schema,
        write_statistics=[f.name for f in table.schema if pa.types.is_string(f.type) and f.name not in _NOT_SOUGHT],
        write_page_checksum=True,  # statistics are those of the texts, which rows are looked for by
        data_page_size=_PAGE_BYTES,
        store_schema=False,
        **options,
    ) as writer:
        writer.write_table(table, row_group_size=row_group_size)
        # without the Arrow schema, it is not written by itself
        writer.add_key_value_metadata({METADATA_KEY: table.schema.metadata[METADATA_KEY]})
    return sink.getvalue()
