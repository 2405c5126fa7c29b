"""Tokenizing without Ray: what one actor writes, what it quarantines, and what the driver refuses."""

from __future__ import annotations

import hashlib
import re
import resource
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from syllabary.shards import audio, dataset, outputs, store
from syllabary.shards.about.origin import Origin
from syllabary.shards.archive.audit import audit_archive
from syllabary.shards.archive.ledger import intact_ledger, read_ledger
from syllabary.shards.archive.parts import PartMetadata, read_format
from syllabary.shards.dataset import ShardWriter, iter_shard
from syllabary.shards.errors import (
    ConflictError,
    DamageError,
    FormatError,
    NotFoundError,
    StorageError,
    UnavailableError,
)
from syllabary.workers.archive import tokenize_shards as tokenize_module
from syllabary.workers.archive.encode_shard import ShardEncoder, archive_format, persist, prefetched
from syllabary.workers.archive.tokenize_shards import tokenize
from syllabary.workers.archive.verify import verify
from syllabary.workers.control.jobs import TokenizeJob, VerifyJob
from syllabary.workers.tokenizer.tokenizer import Tokenizer
from tests.helpers.archive_corpus import RATE, make_shard, make_shards, make_tokenizer


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> str:
    return make_tokenizer(str(tmp_path_factory.mktemp("tokenizer")))


@pytest.fixture
def shards(tmp_path: Path) -> str:
    return make_shards(str(tmp_path / "shards"))


def job_of(shards: str, tokenizer: str, tmp_path: Path) -> TokenizeJob:
    return TokenizeJob(shards=shards, tokenizer=tokenizer, archive=str(tmp_path / "archive"), num_workers=1)


def encode_all(job: TokenizeJob) -> list[dict]:
    """What the actors do, in this process: every shard's part, so that the driver finds nothing left to do."""
    encoder = ShardEncoder(job.shards, job.tokenizer, job.archive, 0.0)
    archive_format(Tokenizer.load(job.tokenizer, decoder=False)).claim(job.archive)
    return [encoder({"shard": shard}) for shard in dataset.committed_shards(job.shards)]


def rewrite_shard(shards: str, shard: str, change) -> None:
    """Write a shard again with ``change(row, flac) -> (row, flac)`` applied, and its index to match."""
    samples = [change(row, flac) for row, flac in iter_shard(shards, shard)]
    rows = []
    with store.publishing(dataset.shard_uri(shards, shard)) as path, ShardWriter(path) as writer:
        for row, flac in samples:
            place = {"offset": writer.add(row["key"], flac, {}), "size_bytes": len(flac)}
            rows.append(row | place | {"sha256": hashlib.sha256(flac).hexdigest()})
    dataset.publish_index(shards, shard, rows)


def test_a_part_holds_the_tokens_that_the_tokenizer_gives_each_utterance_alone(
    shards: str, tokenizer: str, tmp_path: Path
) -> None:
    job = job_of(shards, tokenizer, tmp_path)
    encode_all(job)
    tokens = Tokenizer.load(tokenizer)
    rows = {r["utterance_id"]: r for p in (tmp_path / "archive/parts").iterdir() for r in pq.read_table(p).to_pylist()}
    seen = 0
    for shard in dataset.list_shards(shards):
        for source, flac in iter_shard(shards, shard):
            row, encoded = rows[source["utterance_id"]], tokens.encode(*audio.decode(flac))
            assert row["tokens"] == encoded.tokens.reshape(-1).tolist()
            assert row["salience"] == encoded.salience.tolist()
            assert all(row[name] == source[name] for name in ("num_samples", "start_sample", "speaker", "snr_db"))
            seen += 1
    assert seen == len(rows) == 12
    assert audit_archive(job.archive, shards).findings == []


def test_a_second_run_does_nothing_and_says_the_same(shards: str, tokenizer: str, tmp_path: Path) -> None:
    job = job_of(shards, tokenizer, tmp_path)
    encode_all(job)
    (Path(shards) / "origin.json").write_bytes(Origin("Fables", "CC0-1.0").encode())
    first, second = tokenize(job), tokenize(job.model_copy(update={"with_tokenizer": True}))
    card = (Path(job.archive) / "README.md").read_text()
    assert "# Fables as tokens" in card and "license: cc0-1.0" in card and "12 utterances" in card
    assert (Path(job.archive) / "tokenizer/decoder.safetensors").exists(), "told by the second run"
    assert first == second and first["num_new_parts"] == 0 and first["num_tokenized"] == 12
    (Path(job.archive) / "tokenizer/decoder.safetensors").write_bytes(b"spoiled")
    assert tokenize(job) == second and audit_archive(job.archive).findings == [], "weights stay covered, and are mended"
    assert "tokenizer/decoder.safetensors" in (Path(job.archive) / "about.sha256").read_text()
    done = outputs.read_done(job.archive)
    assert done is not None and done["num_parts"] == 3 and done["quarantined_s"] == 0


def test_what_cannot_be_encoded_is_quarantined_with_its_reason_and_the_rest_is_kept(
    shards: str, tokenizer: str, tmp_path: Path
) -> None:
    def change(row: dict, flac: bytes) -> tuple[dict, bytes]:
        if row["key"] == "000000":
            return row, flac[:100]
        return (row | {"num_samples": row["num_samples"] + 1}, flac) if row["key"] == "000002" else (row, flac)

    rewrite_shard(shards, "train-000000", change)
    job = job_of(shards, tokenizer, tmp_path)
    encode_all(job)
    rows = read_ledger(job.archive, "train-000000").rows.to_pylist()
    assert [row["status"] for row in rows] == ["quarantined", "tokenized", "quarantined", "tokenized"]
    assert "audio" in rows[0]["reason"] and "decodes to" in rows[2]["reason"]
    assert pq.read_metadata(tmp_path / "archive/parts/train-000000.parquet").num_rows == 2
    assert audit_archive(job.archive, shards).findings == []
    with pytest.raises(FormatError, match=r"% of the audio \(2 utterances\) is quarantined; expected at most 5.0 %"):
        tokenize(job)
    assert outputs.read_done(job.archive) is None
    summary = tokenize(job.model_copy(update={"max_quarantined_percent": 50.0}))
    assert summary["num_quarantined"] == 2 and summary["num_tokenized"] == 10
    total_s = sum(r["num_samples"] / r["sample_rate"] for r in dataset.read_index(shards).to_pylist())
    assert summary["tokenized_s"] + summary["quarantined_s"] == pytest.approx(total_s, abs=2e-3)


def test_zero_samples_are_zero_frames_and_an_hour_is_quarantined(shards: str, tokenizer: str, tmp_path: Path) -> None:
    rows = dataset.read_index_part(shards, "train-000000").to_pylist()
    rows[0]["num_samples"] = 0
    rows[1]["num_samples"] = 3601 * RATE
    dataset.publish_index(shards, "train-000000", rows)
    encoder = ShardEncoder(shards, tokenizer, str(tmp_path / "archive"), 0.0)
    assert encoder({"shard": "train-000000"})["num_quarantined"] == 2
    reasons = read_ledger(str(tmp_path / "archive"), "train-000000").rows["reason"].to_pylist()
    assert "expected 0 at 16000 Hz" in reasons[0] and "longer than 3600 s" in reasons[1]
    from syllabary.workers.archive.encode_shard import Utterance, encode_utterance

    empty = encode_utterance(Tokenizer.load(tokenizer), Utterance(np.zeros(0, np.float32)))
    assert empty.tokens.shape == (0, 19) and empty.salience.shape == (0,) and not empty.error
    refused = encode_utterance(Tokenizer.load(tokenizer), Utterance(np.full(100, np.nan, np.float32)))
    assert "finite" in refused.error


def test_a_damaged_shard_is_named_and_nothing_of_it_is_published(shards: str, tokenizer: str, tmp_path: Path) -> None:
    tar = Path(dataset.shard_uri(shards, "train-000001"))
    data = bytearray(tar.read_bytes())
    data[2000] ^= 1
    tar.write_bytes(bytes(data))
    results = encode_all(job_of(shards, tokenizer, tmp_path))
    errors = [r["error"] for r in results if r["error"]]
    assert len(errors) == 1 and "shard train-000001 is damaged at utterance" in errors[0]
    assert sorted(p.stem for p in (tmp_path / "archive/parts").iterdir()) == ["train-000000", "valid-000000"]


def test_another_encoder_is_refused_and_another_decoder_is_not(shards: str, tokenizer: str, tmp_path: Path) -> None:
    job = job_of(shards, tokenizer, tmp_path)
    encode_all(job)
    other = make_tokenizer(str(tmp_path / "other"), seed=1)
    with pytest.raises(ConflictError, match=r"inputs\.encoder_digest was"):
        tokenize(job.model_copy(update={"tokenizer": other}))
    sibling = make_tokenizer(str(tmp_path / "sibling"), decoder_seed=2)
    assert tokenize(job.model_copy(update={"tokenizer": sibling}))["num_new_parts"] == 0


def test_a_shard_changed_since_is_refused(shards: str, tokenizer: str, tmp_path: Path) -> None:
    job = job_of(shards, tokenizer, tmp_path)
    encode_all(job)
    make_shard(shards, "train-000001", seed=9)
    with pytest.raises(ConflictError, match="the shard has changed since it was tokenized: 'train-000001'"):
        tokenize(job)
    assert "the shard has changed" in audit_archive(job.archive, shards).findings[0].what


def test_a_foreign_part_is_refused(shards: str, tokenizer: str, tmp_path: Path) -> None:
    job = job_of(shards, tokenizer, tmp_path)
    encode_all(job)
    part = tmp_path / "archive/parts/train-000000.parquet"
    (tmp_path / "archive/parts/train-000077.parquet").write_bytes(part.read_bytes())
    with pytest.raises(ConflictError, match=r"a part of no shard: .*train-000077"):
        tokenize(job)


def test_a_part_of_another_encoder_with_checksums_of_its_own_is_refused_and_kept(
    shards: str, tokenizer: str, tmp_path: Path
) -> None:
    job = job_of(shards, tokenizer, tmp_path)
    encode_all(job)
    other = make_tokenizer(str(tmp_path / "other"), seed=1)
    foreign = job.model_copy(update={"tokenizer": other, "archive": str(tmp_path / "foreign")})
    encode_all(foreign)
    names = ("parts/train-000000.parquet", "ledger/train-000000.parquet", "sums/train-000000.sha256")
    for name in names:
        shutil.copy(tmp_path / "foreign" / name, tmp_path / "archive" / name)
    assert "its metadata is not this archive's" in audit_archive(job.archive).findings[0].what
    with pytest.raises(ConflictError, match=r"a foreign part: .*parts/train-000000.*move it away with its ledger"):
        tokenize(job)
    for name in names:
        assert (tmp_path / "archive" / name).read_bytes() == (tmp_path / "foreign" / name).read_bytes()


def test_a_part_tells_what_computed_its_tokens_and_verify_tells_of_all(
    shards: str, tokenizer: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    job = job_of(shards, tokenizer, tmp_path)
    encode_all(job)
    kind = f"torch {torch.__version__}, cpu {torch.backends.cpu.get_cpu_capability()}"
    part = tmp_path / "archive/parts/train-000001.parquet"
    assert PartMetadata.of(pq.read_metadata(part).metadata, "part").encoded_on == kind
    assert verify(VerifyJob(archive=job.archive))["encoded_on"] == {kind: 3}
    assert f"3 parts encoded on {kind!r}" in capsys.readouterr().err


def test_a_later_run_tokenizes_the_shards_that_are_new_and_leaves_the_others_as_they_are(
    shards: str, tokenizer: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = actors_in_this_process(monkeypatch)
    job = job_of(shards, tokenizer, tmp_path)
    assert tokenize(job)["num_new_parts"] == 3 and len(asked) == 3
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "archive/parts").iterdir()}
    make_shard(shards, "train-000002", seed=7)
    summary = tokenize(job)
    assert (summary["num_new_parts"], summary["num_parts"], summary["num_tokenized"]) == (1, 4, 16)
    assert asked[3:] == ["train-000002"] and all(path.stat().st_mtime_ns == at for path, at in before.items())
    assert outputs.read_done(job.archive) == {k: v for k, v in summary.items() if k != "num_new_parts"}
    assert audit_archive(job.archive, shards).findings == []
    assert re.search(
        r"tokenize +[\d,]+/[\d,]+ s of audio · [\d.,]+/s · 0:00:00 left · 1/1 shards", capsys.readouterr().err
    )


def actors_in_this_process(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Let the driver's shards be encoded here, without Ray; returns the list of those it asks for."""
    asked: list[str] = []

    def encoded(job: TokenizeJob, todo: list[str]) -> Iterator[dict]:
        encoder = ShardEncoder(job.shards, job.tokenizer, job.archive, 0.0)
        for shard in todo:
            asked.append(shard)
            yield encoder({"shard": shard})

    monkeypatch.setattr("syllabary.workers.archive.tokenize_shards._encoded_shards", encoded)
    return asked


def test_shards_without_index_and_no_shards_are_refused(shards: str, tokenizer: str, tmp_path: Path) -> None:
    for part in (Path(shards) / "index").iterdir():
        part.unlink()
    with pytest.raises(NotFoundError, match="no index of shards"):
        tokenize(job_of(shards, tokenizer, tmp_path))
    with pytest.raises(NotFoundError):
        tokenize(job_of(str(tmp_path / "nothing"), tokenizer, tmp_path))
    assert not (tmp_path / "archive").exists()


def test_damage_is_not_skipped(shards: str, tokenizer: str, tmp_path: Path) -> None:
    job = job_of(shards, tokenizer, tmp_path)
    encode_all(job)
    for name in ("parts/train-000000.parquet", "ledger/train-000000.parquet", "sums/train-000000.sha256"):
        path = tmp_path / "archive" / name
        original = path.read_bytes()
        path.write_bytes(original[:40] + bytes([original[40] ^ 1]) + original[41:])
        assert intact_ledger(job.archive, "train-000000", read_format(job.archive)) is None
        path.write_bytes(original)
    assert intact_ledger(job.archive, "train-000000", read_format(job.archive)) is not None


def test_a_disk_that_takes_no_more_is_one_line_and_leaves_nothing_half_written(
    shards: str, tokenizer: str, tmp_path: Path
) -> None:
    archive = str(tmp_path / "archive")
    encoder, form = ShardEncoder(shards, tokenizer, archive, 0.0), archive_format(Tokenizer.load(tokenizer))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (3_000, hard))  # room for ledger and checksums, not for the part
    try:
        result = encoder({"shard": "train-000000"})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert result["kind"] == "StorageError" and "cannot write" in result["error"] and "\n" not in result["error"]
    assert [p for p in (tmp_path / "archive").rglob("*") if p.is_file() and p.parent.name == "parts"] == []
    assert not encoder({"shard": "train-000000"})["error"]
    assert intact_ledger(archive, "train-000000", form) is not None


def test_a_store_that_comes_back_is_waited_for_and_one_that_does_not_raises() -> None:
    tries: list[int] = []

    def flaky() -> str:
        tries.append(1)
        if len(tries) < 3:
            raise StorageError("away")
        return "back"

    assert persist(flaky, 60.0, "test") == "back" and len(tries) == 3
    with pytest.raises(StorageError, match="away"):
        persist(lambda: (_ for _ in ()).throw(StorageError("away")), 0.0, "test")

    def missing() -> None:
        tries.append(1)
        raise NotFoundError("gone")

    before = len(tries)
    with pytest.raises(NotFoundError):
        persist(missing, 60.0, "test")
    assert len(tries) == before + 1


@pytest.mark.parametrize("kind", [StorageError, UnavailableError])
def test_a_store_that_fails_ends_the_run_at_once_and_as_what_it_is(
    shards: str, tokenizer: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: type[StorageError]
) -> None:
    def publish(archive: str, part: bytes, ledger: object) -> None:
        raise kind("the store is away")

    asked = actors_in_this_process(monkeypatch)
    monkeypatch.setattr("syllabary.workers.archive.encode_shard.publish_part", publish)
    with pytest.raises(kind, match="the store is away") as caught:
        tokenize(job_of(shards, tokenizer, tmp_path))
    assert type(caught.value) is kind and asked == ["train-000000"]


def test_prefetching_keeps_order_passes_errors_on_and_stops_with_its_consumer() -> None:
    assert list(prefetched(iter(range(100)), 3)) == list(range(100))

    def broken():
        yield 1
        raise DamageError("bad")

    stream = prefetched(broken(), 3)
    assert next(stream) == 1
    with pytest.raises(DamageError, match="bad"):
        next(stream)
    produced: list[int] = []
    endless = prefetched((produced.append(i) or i for i in range(10**6)), 2)
    assert next(endless) == 0
    endless.close()
    assert len(produced) < 10


def test_an_archive_of_only_quarantined_utterances_is_still_a_part(shards: str, tokenizer: str, tmp_path: Path) -> None:
    rewrite_shard(shards, "valid-000000", lambda row, flac: (row, flac[:60]))
    job = job_of(shards, tokenizer, tmp_path)
    encode_all(job)
    table = pq.read_table(tmp_path / "archive/parts/valid-000000.parquet")
    assert len(table) == 0 and table.schema.field("tokens").type.value_type == pa.uint16()
    assert audit_archive(job.archive, shards).findings == []


@pytest.mark.parametrize(
    ("values", "total"),
    [([], 0), ([1, 2, 3], 6), ([0.1] * 10, 1.0), ([1.0004, 2.00005], 3.0), ([1.0004, 2.0002], 3.001), ([1, 0.5], 1.5)],
)
def test_counts_are_added_exactly_and_seconds_to_the_millisecond(values: list[float], total: float) -> None:
    found = tokenize_module._total(values)
    assert found == total and type(found) is (int if all(type(one) is int for one in values) else float)
