"""What `pack` writes, opened by the readers of the trainers that it is for."""

from __future__ import annotations

import json
from pathlib import Path

import lhotse
import mlcroissant
import numpy as np
import pytest
import torch
import webdataset
from datatrove.utils.dataset import DatatroveFolderDataset
from megatron.core.datasets.indexed_dataset import IndexedDataset
from megatron.core.tokenizers.text.libraries.null_tokenizer import NullTokenizer

from syllabary.shards.archive.packing import Packing
from syllabary.shards.blocks.writers import parquet
from syllabary.workers.archive.pack import pack
from syllabary.workers.control.jobs import PackJob
from tests.helpers.archive_corpus import FORMAT, make_archive

SHARDS = ("train-000000", "train-000001", "valid-000000")


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, dict[str, list[int]]]:
    """An archive without a test split, and the tokens of each utterance."""
    folder = str(tmp_path_factory.mktemp("writers"))
    truth = make_archive(folder, SHARDS)
    return folder, {name: FORMAT.packing.pack(digits).reshape(-1).tolist() for name, digits in truth.items()}


def packed(archive: str, out: Path, output_format: str, **values) -> dict:
    return pack(PackJob(archive=archive, out=str(out), output_format=output_format, document="utterance", **values))


@pytest.mark.parametrize("packing", [Packing(128, 4, 7), Packing(128, 4, 8)])
def test_megatron_reads_every_document_and_knows_its_end(tmp_path: Path, packing: Packing) -> None:
    truth = make_archive(str(tmp_path / "a"), ("train-000000", "valid-000000"), packing=packing)
    packed(str(tmp_path / "a"), tmp_path / "m", "megatron")
    told = json.loads((tmp_path / "m/blocks.json").read_bytes())
    eod = NullTokenizer(told["megatron_flags"][-1])._eod_id
    assert eod == told["end_of_document"] == told["separator"] and told["vocabulary_size"] == eod + 1
    datasets = [IndexedDataset(str(tmp_path / "m" / split)) for split in ("train", "valid")]  # views of them are read
    assert sorted(own.tolist() for dataset in datasets for own in dataset) == sorted(
        [*packing.pack(digits).reshape(-1).tolist(), eod] for digits in truth.values()
    )
    assert datasets[0].document_indices.tolist() == list(range(41))


def test_megatron_has_no_file_of_an_empty_split(archive, tmp_path: Path) -> None:
    summary = packed(archive[0], tmp_path, "megatron", ends="begin_end")
    assert summary["test"] == {"num_documents": 0, "num_tokens": 0, "num_ids": 0}
    assert not list(tmp_path.glob("test.*")) and all(path.stat().st_size for path in tmp_path.glob("*.bin"))
    told = json.loads((tmp_path / "blocks.json").read_bytes())
    valid = IndexedDataset(str(tmp_path / "valid"))
    first = valid[0].tolist()
    assert first[0] == told["begin"] and first[-2:] == [told["end"], told["separator"]]


@pytest.mark.parametrize(
    ("output_format", "commits"),
    [("parquet", "*.parquet"), ("datatrove", "*.ds"), ("webdataset", "*.tar"), ("lhotse", "cuts.*")],
)
def test_a_run_cut_short_keeps_the_parts_that_are_there_and_makes_the_others(
    archive, tmp_path: Path, output_format: str, commits: str
) -> None:
    """A file that is published again would be another file of the same name, with another inode number."""
    packed(archive[0], tmp_path, output_format, part_mb=0.004)
    parts = sorted((tmp_path / "train").glob(commits))
    assert len(parts) > 1
    before = {path: (path.stat().st_ino, path.read_bytes()) for path in (tmp_path / "train").iterdir()}
    (tmp_path / "done.json").unlink()
    parts[-1].unlink()
    packed(archive[0], tmp_path, output_format, part_mb=0.004)
    after = {path: path.read_bytes() for path in (tmp_path / "train").iterdir()}
    assert after == {path: data for path, (_, data) in before.items()}
    assert [path.stat().st_ino for path in parts[:-1]] == [before[path][0] for path in parts[:-1]]


def test_datatrove_reads_every_id_and_where_documents_begin(archive, tmp_path: Path) -> None:
    packed(archive[0], tmp_path, "datatrove", part_mb=0.02)
    length = 127
    dataset = DatatroveFolderDataset(str(tmp_path / "train"), length, token_size=2, return_positions=True)
    parts = sorted((tmp_path / "train").glob("*.ds"))
    assert len(parts) > 1 and len(dataset) == sum(len(np.fromfile(p, "<u2")) // (length + 1) for p in parts)
    separator = json.loads((tmp_path / "blocks.json").read_bytes())["separator"]
    for item in range(0, len(dataset), 3):
        ids, positions = dataset[item]["input_ids"], dataset[item]["positions"]
        assert torch.equal(positions[1:] == 0, ids[:-1] == separator)
    ids = np.concatenate([np.fromfile(p, "<u2") for p in parts])
    found = sorted(own.tolist() for own in np.split(ids, np.flatnonzero(ids == separator) + 1)[:-1])
    expected = [tokens for name, tokens in archive[1].items() if not name.startswith("102/")]
    assert found == sorted([*tokens, separator] for tokens in expected)
    for part in parts:
        tokenizer, count, _ = Path(f"{part}.metadata").read_text().splitlines()
        assert tokenizer.endswith("|2") and int(count) == len(np.fromfile(part, "<u2"))
    packed(archive[0], tmp_path / "wide", "datatrove", id_offset=100_000)
    wide = DatatroveFolderDataset(str(tmp_path / "wide/train"), length, token_size=4)
    assert wide[0]["input_ids"].min() >= 100_000


@pytest.mark.parametrize("row_group_size", [1024, 4])
def test_webdataset_reads_the_blocks_that_parquet_has(
    archive, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, row_group_size: int
) -> None:
    """Also where they fill several row groups: sources name blocks by their number in the file."""
    import pyarrow.parquet as pq

    monkeypatch.setattr(parquet, "_ROW_GROUP_SIZE", row_group_size)
    for output_format in ("webdataset", "parquet"):
        packed(archive[0], tmp_path / output_format, output_format, block_size=64, layout="whole")
    rows = pq.read_table(tmp_path / "parquet/train/part-00000.parquet").to_pylist()
    sources = pq.read_table(tmp_path / "parquet/sources/train/part-00000.parquet").to_pylist()
    tar = str(tmp_path / "webdataset/train/part-00000.tar")
    samples = list(webdataset.WebDataset(tar, shardshuffle=False).decode())
    assert len(samples) == len(rows) > 10
    for number, (sample, row) in enumerate(zip(samples, rows, strict=True)):
        for column, values in row.items():
            assert np.array_equal(sample[f"{column}.npy"], values), column
        own = [{key: value for key, value in s.items() if key != "block"} for s in sources if s["block"] == number]
        assert sample["json"]["sources"] == own


def test_lhotse_reads_every_utterance_with_its_speaker(archive, tmp_path: Path) -> None:
    packed(archive[0], tmp_path, "lhotse", part_mb=0.02, id_offset=70_000)
    cuts = [cut for split in ("train", "valid") for cut in lhotse.CutSet.from_shar(in_dir=tmp_path / split)]
    assert len(cuts) == 120 and len(list((tmp_path / "train").glob("cuts.*"))) > 1
    for cut in cuts:
        (supervision,) = cut.supervisions
        tokens = cut.load_tokens()
        assert tokens.shape[1] == 19 and tokens.reshape(-1).tolist() == archive[1][supervision.id]
        assert supervision.speaker == supervision.id.partition("/")[0]
        assert len(tokens) == np.ceil(round(cut.duration / 0.4, 6))


def test_blocks_explain_themselves_to_hugging_face_and_croissant(
    archive, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    import datasets

    summary = packed(archive[0], tmp_path / "out", "parquet", block_size=96)
    blocks = datasets.load_dataset(str(tmp_path / "out"), cache_dir=str(tmp_path / "cache"))
    assert {split: len(own) for split, own in blocks.items()} == {
        split: summary[split]["num_blocks"] for split in ("train", "valid")
    }
    assert all(blocks["train"].features[name].length == 96 for name in blocks["train"].column_names)
    sources = datasets.load_dataset(str(tmp_path / "out"), name="sources", cache_dir=str(tmp_path / "cache"))
    assert sum(sources["train"]["num_ids"]) == summary["train"]["num_tokens"]
    dataset = mlcroissant.Dataset(jsonld=tmp_path / "out/croissant.json")
    assert not dataset.metadata.ctx.issues.errors
    first = next(iter(dataset.records("blocks")))
    assert len(first["blocks/input_ids"]) == 96
    card = (tmp_path / "out/README.md").read_text()
    assert "| block size | 96 |" in card and "not told to the ingest" in card
