"""Shards opened by other people's libraries."""

from __future__ import annotations

from pathlib import Path

import pytest

from syllabary.shards.dataset import list_shards, read_index, shard_uri
from tests.helpers.ingest_testing import shard


def test_hugging_face_datasets_opens_the_shards(corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the features named: left to guess, it would want torchcodec for anything called .flac."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    import datasets
    from datasets import Features, Value

    text, number = Value("string"), Value("int64")
    sample = dict.fromkeys(
        ("utterance_id", "recording_id", "speaker", "split", "source", "language", "text", "gender", "extra"), text
    )
    sample |= dict.fromkeys(("sample_rate", "num_samples", "start_sample"), number) | {"snr_db": Value("float64")}
    features = Features({"__key__": text, "__url__": text, "flac": Value("binary"), "json": sample})
    shard(corpus, tmp_path / "out")
    urls = [shard_uri(str(tmp_path / "out"), name) for name in list_shards(str(tmp_path / "out"))]
    found = datasets.load_dataset(
        "webdataset", data_files=urls, split="train", features=features, cache_dir=str(tmp_path / "cache")
    )
    rows = read_index(str(tmp_path / "out")).to_pylist()
    assert [row["__key__"] for row in found] == [row["key"] for row in rows]
    assert [len(row["flac"]) for row in found] == [row["size_bytes"] for row in rows]
    assert [row["json"]["utterance_id"] for row in found] == [row["utterance_id"] for row in rows]
