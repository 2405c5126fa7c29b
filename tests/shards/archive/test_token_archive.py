"""Archive parts: deterministic bytes, readable by others, lengths and metadata exact."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from syllabary.shards.archive import parts as token_archive
from syllabary.shards.archive.encoding import PLAIN, encoding_of, encodings_of
from syllabary.shards.archive.packing import Packing
from syllabary.shards.archive.parts import ArchiveFormat, PartMetadata, open_part
from syllabary.shards.archive.thrift import read_struct
from syllabary.shards.archive.where import parse_where
from syllabary.shards.dataset import INDEX_SCHEMA
from syllabary.shards.errors import ConflictError, DamageError, FormatError, VersionError
from tests.helpers.archive_corpus import FORMAT, RATE, make_archive, utterance_rows


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, np.ndarray]]:
    folder = tmp_path_factory.mktemp("archive")
    return folder, make_archive(str(folder))


def test_equal_rows_give_equal_bytes(archive: tuple[Path, dict], tmp_path: Path) -> None:
    make_archive(str(tmp_path))
    files = sorted(p.relative_to(tmp_path) for p in tmp_path.rglob("*") if p.is_file())
    assert len(files) == 10
    for name in files:
        assert (archive[0] / name).read_bytes() == (tmp_path / name).read_bytes()


def test_plain_pyarrow_reads_rows_that_unpack_to_the_digits(archive: tuple[Path, dict]) -> None:
    folder, truth = archive
    table = pa.concat_tables([pq.read_table(p) for p in sorted((folder / "parts").iterdir())])
    assert table["utterance_id"].to_pylist() == list(truth)
    for row in table.to_pylist():
        digits = FORMAT.packing.unpack(np.array(row["tokens"]).reshape(-1, 19))
        assert np.array_equal(digits, truth[row["utterance_id"]])
        assert row["num_frames"] * 19 == len(row["tokens"]) and row["num_frames"] == len(row["salience"])
        assert row["num_frames"] == -(-row["num_samples"] // 6_400)


def test_duckdb_counts_tokens_and_sees_the_source_columns(archive: tuple[Path, dict]) -> None:
    folder, truth = archive
    parts = f"read_parquet('{folder}/parts/*.parquet')"
    counts = duckdb.sql(f"select count(*), sum(len(tokens)), count(distinct snr_db) from {parts}").fetchall()
    assert counts == [(len(truth), sum(19 * len(d) for d in truth.values()), 3)]
    metadata = duckdb.sql(
        f"select value from parquet_kv_metadata('{folder}/parts/train-000000.parquet') where key = 'syllabary'"
    ).fetchall()
    assert json.loads(metadata[0][0])["radices"][18] == [4, 4, 1, 1, 1, 1, 1]


@pytest.mark.parametrize("encoding", ["plain", "compact"])
def test_a_part_is_written_as_its_archive_says_and_its_pages_are_checksummed(encoding: str, tmp_path: Path) -> None:
    make_archive(str(tmp_path), ("train-000000",), form=replace(FORMAT, encoding=encoding))
    part = tmp_path / "parts/train-000000.parquet"
    file = pq.ParquetFile(part)
    columns = {file.metadata.row_group(0).column(i).path_in_schema: i for i in range(file.metadata.num_columns)}
    tokens = file.metadata.row_group(0).column(columns["tokens.list.element"])
    assert encoding_of(file) == encoding and not tokens.has_dictionary_page
    assert tokens.compression == {"plain": "ZSTD", "compact": "BROTLI"}[encoding]
    assert ("BYTE_STREAM_SPLIT" in tokens.encodings) == (encoding == "compact")
    assert encodings_of(pq.ParquetFile(tmp_path / "ledger/train-000000.parquet")) <= PLAIN
    data = bytearray(part.read_bytes())
    data[tokens.data_page_offset + tokens.total_compressed_size // 2] ^= 1
    with pytest.raises(OSError, match="CRC checksum"):
        open_part(io.BytesIO(bytes(data)), "part").read_row_group(0, columns=["tokens"])


@pytest.mark.parametrize(("column", "level"), [("tokens.list.element", 4), ("utterance_id", 10)])
def test_pages_of_a_compact_part_are_compressed_as_hard_as_decided(tmp_path: Path, column: str, level: int) -> None:
    """As pyarrow's own codec does it at that level (decision 0007)."""
    make_archive(str(tmp_path), ("train-000000",), form=replace(FORMAT, encoding="compact"))
    path = tmp_path / "parts/train-000000.parquet"
    group = pq.ParquetFile(path).metadata.row_group(0)
    chunk = next(c for c in map(group.column, range(group.num_columns)) if c.path_in_schema == column)
    header, at = read_struct(path.read_bytes(), chunk.data_page_offset)
    (_, num_bytes), (_, num_compressed) = header[2], header[3]
    page = path.read_bytes()[at : at + num_compressed]
    content = pa.Codec("brotli").decompress(page, num_bytes)
    assert page == pa.Codec("brotli", compression_level=level).compress(content, asbytes=True)
    assert page != pa.Codec("brotli", compression_level=level + 1).compress(content, asbytes=True)


def test_storage_places_of_the_shard_are_not_carried_and_the_rest_is(archive: tuple[Path, dict]) -> None:
    names = pq.read_schema(archive[0] / "parts/train-000000.parquet").names
    assert names[:12] == [f.name for f in token_archive.COLUMNS]
    assert set(names[12:]) == {"source", "language", "snr_db", "text", "gender", "extra"}


def test_a_source_is_stored_where_the_recording_id_does_not_tell_it_and_found_either_way() -> None:
    rows = utterance_rows("train-000000", 0, 4)
    rows[3]["source"] = "elsewhere/tape 7.wav"
    index = pa.Table.from_pylist(rows, schema=INDEX_SCHEMA)
    frames = [FORMAT.num_frames(row["num_samples"], RATE) for row in rows]
    tokens, salience = [np.zeros((f, 19), np.uint16) for f in frames], [np.zeros(f, np.uint8) for f in frames]
    table = token_archive.part_table(index, tokens, salience, PartMetadata(FORMAT, "train-000000", "d" * 64))
    assert table["source"].to_pylist() == [None, None, None, "elsewhere/tape 7.wav"]
    for text, places in (
        (f"source = '{rows[0]['source']}'", [0, 1]),
        ("source like '%.wav'", [3]),
        ("not source like '%.wav'", [0, 1, 2]),
        ("source is null", []),
    ):
        found = table.filter(parse_where(text, table.schema).expression)
        assert found["utterance_id"].to_pylist() == [rows[place]["utterance_id"] for place in places], text
    again = token_archive.part_table(table, tokens, salience, PartMetadata(FORMAT, "train-000000", "d" * 64))
    assert again["source"].equals(table["source"]), "repack carries it on"


def test_statistics_are_those_of_the_columns_that_rows_are_looked_for_by(archive: tuple[Path, dict]) -> None:
    group = pq.ParquetFile(archive[0] / "parts/train-000000.parquet").metadata.row_group(0)
    columns = [group.column(number) for number in range(group.num_columns)]
    with_minimum = {c.path_in_schema for c in columns if c.statistics is not None and c.statistics.has_min_max}
    assert with_minimum == {"utterance_id", "recording_id", "speaker", "split"}, "source and language are null here"


def test_row_crc32c_covers_what_the_specification_says(archive: tuple[Path, dict]) -> None:
    from crc32c import crc32c

    row = pq.read_table(archive[0] / "parts/valid-000000.parquet").to_pylist()[3]
    data = np.array(row["tokens"], "<u2").tobytes() + bytes(row["salience"]) + row["utterance_id"].encode()
    data += np.array([row["start_sample"], row["num_samples"], row["sample_rate"]], "<i8").tobytes()
    data += b"128 dims of 4, 7 a token, first_most_significant"
    assert row["crc32c"] == crc32c(data)
    assert crc32c(b"123456789") == 0xE3069283  # the polynomial's published check value


@pytest.mark.parametrize(
    ("num_samples", "rate", "frames"),
    [(0, RATE, 0), (1, RATE, 1), (6_400, RATE, 1), (6_401, RATE, 2), (17_640, 44_100, 1), (17_641, 44_100, 2)],
)
def test_frames_are_those_of_the_resampled_length(num_samples: int, rate: int, frames: int) -> None:
    assert FORMAT.num_frames(num_samples, rate) == frames


def test_another_version_is_refused_naming_found_and_expected() -> None:
    with pytest.raises(VersionError, match=r"99; expected 1"):
        ArchiveFormat.from_json(FORMAT.to_json() | {"format_version": 99}, "part")


@pytest.mark.parametrize("broken", [{"levels": 1}, {"encoding": "tight"}, {"group_size": None}, {"radices": [[4, 4]]}])
def test_metadata_that_does_not_do_is_refused(broken: dict) -> None:
    with pytest.raises(FormatError):
        ArchiveFormat.from_json(FORMAT.to_json() | broken, "part")
    with pytest.raises(FormatError, match="hop_length"):
        ArchiveFormat.from_json({k: v for k, v in FORMAT.to_json().items() if k != "hop_length"}, "part")


def test_a_foreign_parquet_file_and_garbage_are_refused(tmp_path: Path) -> None:
    pq.write_table(pa.table({"a": [1]}), tmp_path / "foreign.parquet")
    metadata = open_part(tmp_path / "foreign.parquet", "foreign").metadata.metadata
    with pytest.raises(FormatError, match="not a part of a token archive"):
        PartMetadata.of(metadata, "foreign")
    with pytest.raises(DamageError, match="footer does not parse"):
        open_part(io.BytesIO(b"PAR1 not really PAR1"), "garbage")


def test_an_archive_of_another_encoder_or_packing_is_refused(archive: tuple[Path, dict]) -> None:
    for other in (
        ArchiveFormat("f" * 64, "c" * 64, Packing(128, 4, 7), RATE, 6_400),
        ArchiveFormat("e" * 64, "c" * 64, Packing(128, 4, 8), RATE, 6_400),
    ):
        with pytest.raises(ConflictError, match=r"belongs to another run: (inputs\.encoder_digest|config\.group_size)"):
            other.claim(str(archive[0]))
