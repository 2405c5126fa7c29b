"""The bytes of one tar, one index and one ledger: a change of the format, or of what is written, shows here.

libFLAC comes with the pinned soundfile; another version of it may encode the same samples into other bytes.
"""

from __future__ import annotations

import hashlib
import io
import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from syllabary.shards.audio import encode_flac
from tests.helpers.ingest_testing import config, librilight_json, shard

GOLDEN_TAR = "a31e3ac791f7862bf6f18d0d04c7e97baffcf7aa6f3b7889fefb649f0474e2ea"
GOLDEN_INDEX_ROW = {
    "utterance_id": "19/book/a@0000008000",
    "recording_id": "19/book/a",
    "speaker": "19",
    "split": "train",
    "shard": "train-000000",
    "key": "train-000000-000000",
    "offset": 512,
    "sample_rate": 16_000,
    "num_samples": 24_000,
    "start_sample": 8000,
    "source": "19/book/a.flac",
    "language": "English",
    "snr_db": 20.0,
}


def golden_corpus(root: Path) -> Path:
    """Integers only, so that no library's floating point is part of the golden bytes."""
    ramp = (np.arange(32_000, dtype=np.int64) * 7919 % 2001 - 1000).astype(np.int16)
    folder = root / "19" / "book"
    folder.mkdir(parents=True)
    (folder / "a.flac").write_bytes(encode_flac(ramp.astype(np.float32) / 32768, 16_000))
    (folder / "a.json").write_text(json.dumps(librilight_json([[0.5, 2.0]], speaker="19")))
    return root


def test_the_bytes_of_a_tar(tmp_path: Path) -> None:
    shard(golden_corpus(tmp_path / "in"), tmp_path / "out")
    tar = (tmp_path / "out" / "shards" / "train-000000.tar").read_bytes()
    assert hashlib.sha256(tar).hexdigest() == GOLDEN_TAR


def test_the_worked_example_of_the_format(tmp_path: Path) -> None:
    shard(golden_corpus(tmp_path / "in"), tmp_path / "out")
    (row,) = pq.read_table(tmp_path / "out" / "index" / "train-000000.parquet").to_pylist()
    assert {key: row[key] for key in GOLDEN_INDEX_ROW} == GOLDEN_INDEX_ROW
    ledger = pq.read_table(tmp_path / "out" / "ledger" / "train-000000.parquet").to_pylist()
    assert [(r["status"], r["detail"], r["start_sample"], r["num_samples"]) for r in ledger] == [
        ("silence", "", 0, 8000),
        ("shard", "train-000000", 8000, 24_000),
    ]


def test_the_plan_of_a_corpus_does_not_move() -> None:
    from syllabary.shards.ingest.planning import plan_shards
    from syllabary.shards.ingest.recordings import Recording

    recordings = [Recording(f"{n}/b/c", f"{n}/b/c.flac", "", 400_000, "", str(n)) for n in range(40)]
    plans = plan_shards(recordings, config(shard_size_mb=4, valid_percent=10, test_percent=10))
    told = json.dumps([[plan.shard, [r.recording_id for r in plan.recordings]] for plan in plans])
    assert hashlib.sha256(told.encode()).hexdigest() == (
        "6c73e03ccf1e1fccf92e59145982f671d79a6508a796ed08aec2aa40b907c1c7"
    )


def test_which_columns_of_index_and_ledger_may_be_empty(tmp_path: Path) -> None:
    """By the files themselves: readers take a column that is required for one without a mark of what is missing."""
    shard(golden_corpus(tmp_path / "in"), tmp_path / "out")
    optional = {}
    for name in ("index", "ledger"):
        schema = pq.ParquetFile(tmp_path / "out" / name / "train-000000.parquet").schema
        columns = [schema.column(number) for number in range(len(schema.names))]
        optional[name] = [column.name for column in columns if column.max_definition_level]
    assert optional == {
        "index": ["language", "snr_db", "text", "gender", "extra"],
        "ledger": ["promised_samples", "note"],
    }


@pytest.mark.parametrize("name", ["index/train-000000", "ledger/train-000000", "plan/000000"])
def test_every_page_has_a_checksum(tmp_path: Path, name: str) -> None:
    """By a reader that asks for it: a bit that flips behind the compression's own header does not pass."""
    shard(golden_corpus(tmp_path / "in"), tmp_path / "out")
    path = tmp_path / "out" / f"{name}.parquet"
    column = pq.ParquetFile(path).metadata.row_group(0).column(0)
    data = bytearray(path.read_bytes())
    begin = column.dictionary_page_offset if column.has_dictionary_page else column.data_page_offset
    data[begin + column.total_compressed_size - 1] ^= 1  # the last byte of the column's last page
    with pytest.raises(OSError, match="CRC"):
        pq.read_table(io.BytesIO(bytes(data)), page_checksum_verification=True)
