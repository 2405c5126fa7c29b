"""Shards as WebDataset tars, and their index."""

from __future__ import annotations

import hashlib
import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import webdataset

from syllabary.shards import store
from syllabary.shards.audio import encode_flac
from syllabary.shards.dataset import (
    INDEX_SCHEMA,
    ShardWriter,
    committed_shards,
    find_utterance,
    iter_shard,
    list_shards,
    publish_index,
    read_index,
    read_utterance,
    shard_uri,
)
from syllabary.shards.errors import DamageError, FormatError, InputError, NotFoundError, VersionError


def write_shard(root: Path, shard: str, num_utterances: int) -> list[bytes]:
    rows: list[dict[str, Any]] = []
    flacs = []
    with store.publishing(shard_uri(str(root), shard)) as path, ShardWriter(path) as tar:
        for number in range(num_utterances):
            flac = encode_flac(np.linspace(-0.5, 0.5, 100 + number, dtype=np.float32), 16_000)
            key = f"{shard}-{number:06d}"
            offset = tar.add(key, flac, {"number": number})
            flacs.append(flac)
            rows.append(
                {
                    "utterance_id": f"r-{number}",
                    "recording_id": "r",
                    "speaker": "s",
                    "split": shard.split("-")[0],
                    "shard": shard,
                    "key": key,
                    "offset": offset,
                    "size_bytes": len(flac),
                    "sample_rate": 16_000,
                    "num_samples": 100 + number,
                    "start_sample": 0,
                    "sha256": hashlib.sha256(flac).hexdigest(),
                    "source": "r.flac",
                    "language": None,
                    "snr_db": None,
                }
            )
    publish_index(str(root), shard, rows)
    return flacs


def test_every_utterance_is_read_in_order_and_alone(tmp_path: Path) -> None:
    flacs = write_shard(tmp_path, "train-000000", 5)
    assert [flac for _, flac in iter_shard(str(tmp_path), "train-000000")] == flacs
    rows = read_index(str(tmp_path)).to_pylist()
    assert [read_utterance(str(tmp_path), row) for row in rows] == flacs


def test_one_utterance_is_one_range_request(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_shard(tmp_path, "train-000000", 3)
    row = read_index(str(tmp_path)).to_pylist()[1]
    requests = []
    real = store.read_range
    monkeypatch.setattr(store, "read_range", lambda *args: requests.append(args) or real(*args))
    monkeypatch.setattr(store, "read_bytes", lambda uri: pytest.fail("reads a whole file"))
    read_utterance(str(tmp_path), row)
    assert requests == [(shard_uri(str(tmp_path), "train-000000"), row["offset"], row["size_bytes"])]


def test_an_utterance_is_found_by_its_id(tmp_path: Path) -> None:
    flacs = write_shard(tmp_path, "train-000000", 3)
    assert read_utterance(str(tmp_path), find_utterance(str(tmp_path), "r-2")) == flacs[2]
    with pytest.raises(NotFoundError, match="no such utterance: 'r-9'"):
        find_utterance(str(tmp_path), "r-9")


def test_plain_webdataset_opens_the_shard(tmp_path: Path) -> None:
    flacs = write_shard(tmp_path, "valid-000000", 3)
    tar = shard_uri(str(tmp_path), "valid-000000")
    samples = list(webdataset.WebDataset(tar, shardshuffle=False))
    assert [sample["__key__"] for sample in samples] == [f"valid-000000-{n:06d}" for n in range(3)]
    assert [sample["flac"] for sample in samples] == flacs
    assert json.loads(samples[2]["json"]) == {"number": 2}


def test_tar_carries_no_time_and_no_owner(tmp_path: Path) -> None:
    write_shard(tmp_path, "train-000000", 2)
    with tarfile.open(shard_uri(str(tmp_path), "train-000000")) as tar:
        members = tar.getmembers()
    assert len(members) == 4
    assert {(m.mtime, m.uid, m.gid, m.uname, m.gname, m.mode) for m in members} == {(0, 0, 0, "", "", 0o644)}


def test_rollback_leaves_no_trace(tmp_path: Path) -> None:
    plain, rolled = tmp_path / "plain.tar", tmp_path / "rolled.tar"
    with ShardWriter(plain) as tar:
        tar.add("a", b"1" * 600, {})
    with ShardWriter(rolled) as tar:
        tar.add("a", b"1" * 600, {})
        mark = tar.mark()
        tar.add("b", b"2" * 5000, {})
        tar.rollback(mark)
    assert plain.read_bytes() == rolled.read_bytes()


def test_splits_select_shards_and_empty_shards_are_not_listed(tmp_path: Path) -> None:
    for shard, count in (("train-000000", 2), ("train-000001", 0), ("valid-000000", 1)):
        write_shard(tmp_path, shard, count)
    assert committed_shards(str(tmp_path)) == ["train-000000", "train-000001", "valid-000000"]
    assert list_shards(str(tmp_path)) == ["train-000000", "valid-000000"]
    assert read_index(str(tmp_path), splits=["valid"]).num_rows == 1
    assert read_index(str(tmp_path), splits=["test"]).num_rows == 0
    assert list(iter_shard(str(tmp_path), "train-000001")) == []


def test_unknown_split_and_missing_index_are_refused(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="no index"):
        read_index(str(tmp_path))
    with pytest.raises(InputError, match="unknown split"):
        read_index(str(tmp_path), splits=["dev"])


def test_changed_bytes_are_found(tmp_path: Path) -> None:
    write_shard(tmp_path, "train-000000", 2)
    row = read_index(str(tmp_path)).to_pylist()[1]
    tar = Path(shard_uri(str(tmp_path), "train-000000"))
    data = bytearray(tar.read_bytes())
    data[row["offset"] + 50] ^= 1
    tar.write_bytes(data)
    with pytest.raises(DamageError, match="r-1"):
        read_utterance(str(tmp_path), row)
    with pytest.raises(DamageError, match="r-1"):
        list(iter_shard(str(tmp_path), "train-000000"))


def test_damaged_or_foreign_index_is_refused(tmp_path: Path) -> None:
    write_shard(tmp_path, "train-000000", 1)
    part = tmp_path / "index" / "train-000000.parquet"
    pq.write_table(pq.read_table(part).replace_schema_metadata({"syllabary.index_version": "9"}), part)
    with pytest.raises(VersionError, match="'9'"):
        read_index(str(tmp_path))
    part.write_bytes(part.read_bytes()[:-20])
    with pytest.raises(FormatError, match="damaged index"):
        read_index(str(tmp_path))


def test_index_is_plain_parquet(tmp_path: Path) -> None:
    write_shard(tmp_path, "train-000000", 2)
    table = pq.read_table(tmp_path / "index" / "train-000000.parquet")
    assert table.schema.equals(INDEX_SCHEMA)
