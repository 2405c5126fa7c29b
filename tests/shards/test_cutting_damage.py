"""What a recording that turns out damaged leaves behind: nothing in the tar, and seconds that can be true."""

from __future__ import annotations

import tarfile
from pathlib import Path

import pytest

from syllabary.shards.audio import decode
from syllabary.shards.dataset import read_index, read_utterance
from tests.helpers.ingest_testing import RATE, config, flac_bytes, ledger_of, shard, tone


def write_source(root: Path, data: bytes) -> Path:
    """``b.flac`` of that data between two sound recordings of 9 s."""
    root.mkdir()
    for seed, name in enumerate(("a", "c")):
        (root / f"{name}.flac").write_bytes(flac_bytes(tone(9, seed=seed)))
    (root / "b.flac").write_bytes(data)
    return root


def truncated(seconds: float, share: float) -> bytes:
    data = flac_bytes(tone(seconds, seed=7))
    return data[: int(len(data) * share)]


def members(out: Path) -> list[str]:
    (tar,) = (out / "shards").glob("*.tar")
    with tarfile.open(tar) as opened:
        return opened.getnames()


def test_a_recording_damaged_half_way_leaves_nothing_in_the_tar(tmp_path: Path) -> None:
    source = write_source(tmp_path / "in", truncated(40, 0.6))
    shard(source, tmp_path / "out", config(coverage="all", valid_percent=0, test_percent=0, shard_size_mb=100))
    rows = read_index(str(tmp_path / "out")).to_pylist()
    assert {row["recording_id"] for row in rows} == {"a", "c"}
    assert members(tmp_path / "out") == [f"{row['key']}.{suffix}" for row in rows for suffix in ("flac", "json")]
    for row in rows:  # offsets are those of the tar as it is
        stored, _ = decode(read_utterance(str(tmp_path / "out"), row))
        assert len(stored) == row["num_samples"]


def test_the_tar_is_that_of_a_source_without_the_damaged_recording(tmp_path: Path) -> None:
    settings = config(coverage="all", valid_percent=0, test_percent=0, shard_size_mb=100)
    source = write_source(tmp_path / "in", truncated(40, 0.6))
    shard(source, tmp_path / "out", settings)
    (source / "b.flac").unlink()
    shard(source, tmp_path / "without", settings)
    one, other = ((tmp_path / out / "shards/train-000000.tar").read_bytes() for out in ("out", "without"))
    assert one == other


def promising(num_samples: int) -> bytes:
    """A FLAC of 3 s whose header promises that many samples: the low 36 bits of bytes 21 to 25."""
    data = bytearray(flac_bytes(tone(3)))
    told = int.from_bytes(data[21:26]) & (1 << 36) - 1
    assert data[:4] == b"fLaC" and told == 3 * RATE
    data[21:26] = (int.from_bytes(data[21:26]) - told + num_samples).to_bytes(5)
    return bytes(data)


@pytest.mark.parametrize("promised", [5 * RATE, (1 << 36) - 1])
def test_a_length_that_cannot_be_true_is_not_believed(tmp_path: Path, promised: int) -> None:
    """2^36 - 1 samples would be 49 days in some 50 kB. The MD5 fits the three seconds that are there."""
    source = write_source(tmp_path / "in", promising(promised))
    shard(source, tmp_path / "out", config(coverage="all", valid_percent=0, test_percent=0))
    (row,) = [row for row in ledger_of(tmp_path / "out") if row["recording_id"] == "b"]
    assert (row["status"], row["num_samples"], row["promised_samples"]) == ("shard", 3 * RATE, promised)
    assert row["note"] == f"header promises {promised:,} samples, 48,000 are there, and their MD5 is right"
