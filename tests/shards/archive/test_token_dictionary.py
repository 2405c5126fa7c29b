"""A plain part's dictionary of all token values: what it costs, what is in it, and every shape a part may have."""

from __future__ import annotations

import io
import itertools
import struct
from dataclasses import replace

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from syllabary.shards.archive import encoding, token_dictionary
from syllabary.shards.archive import parts as token_archive
from syllabary.shards.archive.encoding import TOKENS, encode_part
from syllabary.shards.archive.parts import PartMetadata
from syllabary.shards.archive.thrift import read_struct, write_struct
from syllabary.shards.archive.token_dictionary import packed_runs, with_token_dictionary
from syllabary.shards.archive.zstd_range import zstd_range
from syllabary.shards.dataset import INDEX_SCHEMA
from tests.helpers.archive_corpus import FORMAT, RATE, utterance_rows

BOUND = 1.10  # of the bits of the digits of unpadded audio


def a_part(num_samples: list[int], shares: tuple[float, ...] = (0.25,) * 4, encoding: str = "plain") -> pa.Table:
    """The table of a part of utterances of these lengths, with random digits of these shares."""
    rng, rows = np.random.default_rng(0), []
    for row, own in zip(utterance_rows("train-000000", 0, len(num_samples)), num_samples, strict=True):
        rows.append(row | {"num_samples": own})
    frames = [FORMAT.num_frames(own, RATE) for own in num_samples]
    tokens = [FORMAT.packing.pack(rng.choice(4, (f, 128), p=shares).astype(np.uint8)) for f in frames]
    salience = [rng.integers(0, 256, f).astype(np.uint8) for f in frames]
    metadata = PartMetadata(replace(FORMAT, encoding=encoding), "train-000000", "d" * 64)
    index = pa.Table.from_pylist(rows, schema=INDEX_SCHEMA)
    return token_archive.part_table(index, tokens, salience, metadata)


def with_tokens(lists: list[list[int]]) -> pa.Table:
    """A table of one column of lists, as a part has them."""
    item = pa.field("element", pa.uint16(), nullable=False)
    schema = pa.schema([pa.field("id", pa.int64()), pa.field("tokens", pa.list_(item), nullable=False)])
    return pa.table([pa.array(range(len(lists)), pa.int64()), pa.array(lists, schema.field("tokens").type)], schema)


def written(table: pa.Table, **options: object) -> bytes:
    sink = io.BytesIO()
    own = {"compression": "zstd", "use_dictionary": False, "write_page_checksum": True, "write_statistics": False}
    pq.write_table(table, sink, **own | options)
    return sink.getvalue()


def read(part: bytes) -> pa.Table:
    return pq.ParquetFile(io.BytesIO(part), page_checksum_verification=True).read()


def tokens_column(part: bytes, group: int = 0) -> pq.ColumnChunkMetaData:
    columns = pq.ParquetFile(io.BytesIO(part)).metadata.row_group(group)
    return next(c for c in map(columns.column, range(columns.num_columns)) if c.path_in_schema == TOKENS)


@pytest.mark.parametrize(("shares", "bound"), [((0.25,) * 4, BOUND), ((0.1, 0.4, 0.4, 0.1), 0.97)])
def test_plain_tokens_of_a_default_shard_stay_within_a_tenth_of_their_bits(
    shares: tuple[float, ...], bound: float
) -> None:
    """330 utterances of 8 to 15 s are what a shard of 64 MB holds. The bound is of the seconds there are: that last
    frames are padded and a frame's last token holds 4 of its 14 bits counts against us."""
    num_samples = np.random.default_rng(1).integers(8 * RATE, 15 * RATE, 330).tolist()
    bits = 128 * 2 * sum(num_samples) / 6_400
    assert bits == pytest.approx(640 * sum(num_samples) / RATE)
    size = tokens_column(encode_part(a_part(num_samples, shares))).total_compressed_size
    assert size * 8 < bound * bits
    compact = tokens_column(encode_part(a_part(num_samples, shares, "compact"))).total_compressed_size
    assert size < 1.015 * compact


def test_the_same_rows_give_the_same_bytes() -> None:
    table = a_part([5 * RATE] * 50)
    assert encode_part(table) == encode_part(pa.concat_tables([table.slice(0, 7), table.slice(7)]))


@given(st.integers(1, 65_536))
@settings(max_examples=60, deadline=None)
def test_a_range_is_a_zstd_frame(size: int) -> None:
    frame = zstd_range(size)
    data = np.arange(size, dtype="<i4").tobytes()
    assert pa.Codec("zstd").decompress(frame, len(data)).to_pybytes() == data
    streamed = pa.input_stream(io.BytesIO(frame), compression="zstd").read()  # as readers do that do not trust sizes
    assert streamed == data


@pytest.mark.parametrize("size", [1, 2, 3, 127, 128, 129, 255, 256, 257, 258, 511, 512, 513, 16_384, 65_535, 65_536])
def test_a_range_at_the_edges_of_its_rows(size: int) -> None:
    data = np.arange(size, dtype="<i4").tobytes()
    assert pa.Codec("zstd").decompress(zstd_range(size), len(data)).to_pybytes() == data


def test_a_range_of_all_values_takes_a_kilobyte() -> None:
    assert len(zstd_range(16_384)) < 1_200
    assert len(zstd_range(65_536)) < 4_000


@given(st.integers(1, 16), st.integers(0, 1_300), st.integers(0, 2**32 - 1))
@settings(max_examples=60, deadline=None)
def test_packed_runs_are_bits_from_the_lowest_with_a_byte_before_each_run(width: int, num: int, seed: int) -> None:
    values = np.random.default_rng(seed).integers(0, 1 << width, num).astype(np.uint16)
    data, at, found = packed_runs(values, width), 0, []
    while at < len(data):
        assert data[at] & 1 and data[at] < 128, "a run of packed values, whose header is one byte"
        size = (data[at] >> 1) * width
        bits = int.from_bytes(data[at + 1 : at + 1 + size], "little")
        found += [bits >> i * width & (1 << width) - 1 for i in range((data[at] >> 1) * 8)]
        at += 1 + size
    assert found[:num] == values.tolist()
    assert not any(found[num:]) and len(found) - num < 8


def test_many_runs_are_packed_as_few_are(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(0).integers(0, 1 << 14, 504 * 9 + 77).astype(np.uint16)
    at_once = packed_runs(values, 14)
    monkeypatch.setattr(token_dictionary, "_RUNS_AT_ONCE", 2)
    assert packed_runs(values, 14) == at_once


SHAPES: dict[str, list[list[int]]] = {
    "no rows": [],
    "empty lists": [[], [], []],
    "empty among others": [[], [5, 16_383], [], [7], []],
    "zeros": [[0] * 40, [0]],
    "one value": [[65_535]],
    "rows": [list(range(i, i + 300)) for i in range(50)],
}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("row_group_size", [1, 3, 4096])
def test_any_shape_of_lists_reads_back(shape: str, row_group_size: int) -> None:
    table = with_tokens(SHAPES[shape])
    plain = written(table, row_group_size=row_group_size)
    made = with_token_dictionary(plain, TOKENS, 9)
    assert read(made).equals(table)
    if len(table):
        assert pl.read_parquet(io.BytesIO(made))["tokens"].to_list() == SHAPES[shape]


def test_tokens_of_several_pages_get_one_dictionary() -> None:
    rng = np.random.default_rng(0)
    lists = [rng.integers(0, 16_384, 500).tolist() for _ in range(400)] + [[]]
    table = with_tokens(lists)
    made = with_token_dictionary(written(table, data_page_size=1 << 14, write_batch_size=16), TOKENS, 9)
    assert read(made).equals(table)
    assert pl.read_parquet(io.BytesIO(made))["tokens"].to_list() == lists
    column = tokens_column(made)
    assert column.has_dictionary_page and set(column.encodings) == {"PLAIN", "RLE", "RLE_DICTIONARY"}


def test_metadata_says_where_everything_lies_and_how_much_it_is() -> None:
    """The sums of a file that pyarrow wrote itself hold for ours too, row group by row group."""
    table = a_part([4 * RATE] * 90)
    made = encode_part(table, row_group_size=40)
    metadata = pq.ParquetFile(io.BytesIO(made)).metadata
    at = 4
    for number in range(metadata.num_row_groups):
        group = metadata.row_group(number)
        columns = [group.column(i) for i in range(group.num_columns)]
        for column in columns:
            begin = column.dictionary_page_offset or column.data_page_offset
            assert begin == at, column.path_in_schema
            at += column.total_compressed_size
        assert group.total_byte_size == sum(column.total_uncompressed_size for column in columns)
    footer_size = struct.unpack("<I", made[-8:-4])[0]
    assert len(made) == at + footer_size + 8
    assert tokens_column(made, 1).has_dictionary_page


def test_a_flipped_bit_of_a_page_is_found() -> None:
    made = encode_part(a_part([4 * RATE] * 90))
    column = tokens_column(made)
    for at in (column.dictionary_page_offset + 60, column.data_page_offset + 900):
        broken = bytearray(made)
        broken[at] ^= 4
        with pytest.raises(OSError, match=r"CRC|checksum"):
            read(bytes(broken))


def test_a_struct_that_is_read_and_written_again_has_the_same_bytes() -> None:
    footers = 0
    for options in itertools.product((False, True), ("NONE", "zstd", "brotli"), (["id"], False), (True, False)):
        table = with_tokens(SHAPES["rows"]).append_column("text", pa.array(["x" * 200, None] * 25))
        names = ("write_page_index", "compression", "use_dictionary", "write_statistics")
        data = written(table, **dict(zip(names, options, strict=True)))
        size = struct.unpack("<I", data[-8:-4])[0]
        footer, stop = read_struct(data, len(data) - 8 - size)
        assert stop == len(data) - 8 and write_struct(footer) == data[-8 - size : -8]
        footers += 1
    assert footers == 24


def test_the_smallest_of_the_forms_is_kept() -> None:
    """All values: their range. A few far apart: these alone. A few tokens in all: no dictionary."""
    rng = np.random.default_rng(0)
    rows = pa.Table.from_pylist(utterance_rows("train-000000", 0, 100), schema=INDEX_SCHEMA)
    few = np.sort(rng.choice(16_000, 60, replace=False)).astype(np.uint16)
    for name, tokens, dictionary in (
        ("all", [rng.integers(0, 16_384, (30, 19)).astype(np.uint16) for _ in range(100)], range(16_384)),
        ("few", [few[rng.integers(0, 60, (30, 19))] for _ in range(100)], few.tolist()),
        ("one frame", [rng.integers(0, 16_384, (int(i == 0), 19)).astype(np.uint16) for i in range(100)], None),
    ):
        salience = [np.zeros(len(own), np.uint8) for own in tokens]
        made = encode_part(token_archive.part_table(rows, tokens, salience, PartMetadata(FORMAT, "s", "d")))
        assert read(made)["tokens"].to_pylist() == [own.reshape(-1).tolist() for own in tokens]
        column = tokens_column(made)
        assert column.has_dictionary_page == (dictionary is not None), name
        if dictionary is not None:
            page, at = read_struct(made, column.dictionary_page_offset)
            data = pa.Codec("zstd").decompress(made[at : at + page[3][1]], page[2][1])
            assert sorted(np.frombuffer(data, "<i4").tolist()) == list(dictionary)
    assert encoding.encoding_of(pq.ParquetFile(io.BytesIO(made))) == "plain"
