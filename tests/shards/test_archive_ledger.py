"""The order in which a shard's files appear, and what makes its ledger believed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from syllabary.shards import store
from syllabary.shards.archive.audit import audit_archive
from syllabary.shards.archive.ledger import intact_ledger, publish_part, read_ledger, sha256
from tests.helpers.archive_corpus import FORMAT, make_archive

SHARD = "train-000000"


def archive_of_one(folder: Path) -> Path:
    make_archive(str(folder), shards=(SHARD,), num_utterances=6)
    return folder


@pytest.mark.parametrize("after", [0, 1, 2])
def test_a_part_is_there_only_with_its_ledger_and_checksums(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    """However many files are written before the store fails, none of them is a part that nobody accounts for."""
    source = archive_of_one(tmp_path / "source")
    part, ledger = (source / f"parts/{SHARD}.parquet").read_bytes(), read_ledger(str(source), SHARD)
    written: list[str] = []
    publish = store.publish_bytes

    def failing(uri: str, data: bytes) -> None:
        if len(written) == after:
            raise OSError("no space left")
        written.append(uri)
        publish(uri, data)

    monkeypatch.setattr(store, "publish_bytes", failing)
    with pytest.raises(OSError, match="no space"):
        publish_part(str(tmp_path / "out"), part, ledger)
    assert [Path(uri).parent.name for uri in written] == ["ledger", "sums"][:after]


def test_published_files_are_intact_and_sha256sum_agrees(tmp_path: Path) -> None:
    archive = archive_of_one(tmp_path)
    ledger = intact_ledger(str(archive), SHARD, FORMAT)
    assert ledger is not None and ledger.count("tokenized") == 6
    lines = (archive / f"sums/{SHARD}.sha256").read_text().splitlines()
    for line in lines:
        digest, name = line.split("  ")
        assert sha256((archive / name).read_bytes()) == digest
    assert [line.split("  ")[1] for line in lines] == [f"parts/{SHARD}.parquet", f"ledger/{SHARD}.parquet"]


def test_a_ledger_of_another_part_is_not_believed_even_when_the_checksums_are(tmp_path: Path) -> None:
    """Part and ledger pass their checksums, but the ledger says that it was written for other bytes."""
    archive = archive_of_one(tmp_path)
    part = (archive / f"parts/{SHARD}.parquet").read_bytes()
    encoded = replace(read_ledger(str(archive), SHARD), part_sha256=sha256(b"another part")).encode()
    (archive / f"ledger/{SHARD}.parquet").write_bytes(encoded)
    sums = f"{sha256(part)}  parts/{SHARD}.parquet\n{sha256(encoded)}  ledger/{SHARD}.parquet\n"
    (archive / f"sums/{SHARD}.sha256").write_text(sums)
    assert intact_ledger(str(archive), SHARD, FORMAT) is None
    assert [str(f) for f in audit_archive(str(archive)).findings] == [f"ledger/{SHARD}.parquet: sha256 differs"]


@pytest.mark.parametrize("name", ["parts/{}.parquet", "ledger/{}.parquet", "sums/{}.sha256"])
def test_any_changed_file_makes_the_shard_not_intact(tmp_path: Path, name: str) -> None:
    path = archive_of_one(tmp_path) / name.format(SHARD)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))
    assert intact_ledger(str(tmp_path), SHARD, FORMAT) is None


def test_seconds_are_samples_over_each_ones_own_rate(tmp_path: Path) -> None:
    ledger = read_ledger(str(archive_of_one(tmp_path)), SHARD)
    rows = ledger.rows.slice(0, 3).to_pylist()
    for row, (status, num_samples, rate) in zip(
        rows,
        [("tokenized", 8_000, 16_000), ("quarantined", 48_000, 48_000), ("tokenized", 11_025, 44_100)],
        strict=True,
    ):
        row |= {"status": status, "num_samples": num_samples, "sample_rate": rate}
    known = replace(ledger, rows=type(ledger.rows).from_pylist(rows, schema=ledger.rows.schema))
    assert (known.seconds("tokenized"), known.seconds("quarantined")) == (0.75, 1.0)
    assert (known.count("tokenized"), known.count("quarantined")) == (2, 1)
