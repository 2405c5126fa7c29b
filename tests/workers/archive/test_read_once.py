"""On its way from shards to an archive and from there to sound or blocks, nothing is read or parsed twice."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from syllabary.shards import dataset, store
from syllabary.shards.archive import where
from syllabary.workers.archive import tokenize_shards
from syllabary.workers.archive.encode_shard import ShardEncoder
from syllabary.workers.archive.pack import pack
from syllabary.workers.archive.restore import restore
from syllabary.workers.archive.tokenize_shards import tokenize
from syllabary.workers.archive.verify import verify
from syllabary.workers.control.jobs import PackJob, RestoreJob, TokenizeJob, VerifyJob
from tests.helpers.archive_corpus import make_base, make_shard

SHARDS = ("train-000000", "train-000001", "valid-000000")


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """Shards, a tokenizer and their archive, made without Ray."""
    return make_base(tmp_path, SHARDS)


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often each file of an index is read whole, and each folder listed, by the last two parts of its URI."""
    count: Counter[str] = Counter()

    def counting(name: str, wanted: str) -> None:
        function = getattr(store, name)

        def call(uri: str, **options: object) -> object:
            if wanted in uri:
                count["/".join(uri.split("/")[-2:])] += 1
            return function(uri, **options)

        monkeypatch.setattr(store, name, call)

    counting("read_bytes", "/index/")
    counting("list_files", "/archive/parts")
    return count


@pytest.fixture
def parsed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every text that is parsed as a condition."""
    texts: list[str] = []

    class Recording(where._Parser):
        def __init__(self, text: str, schema: object) -> None:
            texts.append(text)
            super().__init__(text, schema)

    monkeypatch.setattr(where, "_Parser", Recording)
    return texts


def indexes(*shards: str) -> dict[str, int]:
    return {f"index/{shard}.parquet": 1 for shard in shards}


def test_tokenize_reads_the_index_of_a_shard_once_in_the_driver_and_once_where_it_is_encoded(
    base: Path, read: Counter[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    job = TokenizeJob(**{name: str(base / name) for name in ("shards", "tokenizer", "archive")})
    encoder = ShardEncoder(job.shards, job.tokenizer, job.archive, 0.0)
    assert tokenize(job)["num_new_parts"] == 0
    assert {name: count for name, count in read.items() if "index" in name} == indexes(*SHARDS)
    read.clear()
    make_shard(job.shards, "train-000002", seed=7)

    def encoded_here(job: TokenizeJob, todo: list[str]) -> list[dict[str, object]]:
        assert {name: count for name, count in read.items() if "index" in name} == indexes(*SHARDS, *todo)
        read.clear()
        return [encoder({"shard": shard}) for shard in todo]

    monkeypatch.setattr(tokenize_shards, "_encoded_shards", encoded_here)
    assert tokenize(job)["num_new_parts"] == 1
    assert {name: count for name, count in read.items() if "index" in name} == indexes("train-000002")


def test_verify_reads_the_index_of_a_shard_once(base: Path, read: Counter[str]) -> None:
    verify(VerifyJob(archive=str(base / "archive"), shards=str(base / "shards")))
    assert {name: count for name, count in read.items() if "index" in name} == indexes(*SHARDS)


def test_restore_parses_a_selection_once_and_lists_the_parts_once(
    base: Path, read: Counter[str], parsed: list[str]
) -> None:
    ids = tuple(dataset.read_index(str(base / "shards"), splits=["valid"])["utterance_id"].to_pylist())
    read.clear()
    job = RestoreJob(archive=str(base / "archive"), tokenizer=str(base / "tokenizer"), out=str(base / "out"),
                     where="duration_s >= 0 or speaker = 'x'", ids=ids[:2], num_workers=1)  # fmt: skip
    assert restore(job)["num_utterances"] == 2
    assert parsed == [job.where, f"utterance_id in ('{ids[0]}', '{ids[1]}')"]
    assert read == {"archive/parts": 1}


def test_pack_parses_a_condition_once_per_archive_and_lists_its_parts_once(
    base: Path, read: Counter[str], parsed: list[str]
) -> None:
    pack(PackJob(archive=str(base / "archive"), out=str(base / "blocks"), block_size=64, where="duration_s > 0"))
    assert parsed == ["duration_s > 0"] and read == {"archive/parts": 1}


def test_some_utterances_are_found_in_one_reading_of_the_index(base: Path, read: Counter[str]) -> None:
    uri = str(base / "shards")
    ids = dataset.read_index(uri)["utterance_id"].to_pylist()
    read.clear()
    found = dataset.find_utterances(uri, [ids[7], ids[2]])
    assert {name: row["utterance_id"] for name, row in found.items()} == {ids[7]: ids[7], ids[2]: ids[2]}
    assert read == indexes(*SHARDS)
