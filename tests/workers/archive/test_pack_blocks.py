"""pack: every token once, speaker-disjoint, the same bytes again, read by a DataLoader and by Hugging Face."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from syllabary.shards.errors import ConflictError, InputError, NotFoundError
from syllabary.workers.archive.pack import pack
from syllabary.workers.control.jobs import PackJob
from tests.helpers.archive_corpus import FORMAT, make_archive, utterance_rows

SHARDS = ("test-000000", "train-000000", "train-000001", "valid-000000")


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, dict[str, np.ndarray]]:
    folder = tmp_path_factory.mktemp("pack")
    return str(folder), make_archive(str(folder), SHARDS)


def recordings(truth: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Tokens of every recording, its utterances in time."""
    rows = [row for seed, shard in enumerate(SHARDS) for row in utterance_rows(shard, seed, 40)]
    rows.sort(key=lambda row: (row["recording_id"], row["start_sample"]))
    tokens: dict[str, list[np.ndarray]] = {}
    for row in rows:
        packed = FORMAT.packing.pack(truth[row["utterance_id"]]).reshape(-1)
        tokens.setdefault(row["recording_id"], []).append(packed)
    return {name: np.concatenate(own) for name, own in tokens.items()}


def read_documents(out: Path, split: str) -> dict[str, list[int]]:
    """Ids of every document by place in it, as the sources of its blocks tell."""
    documents: dict[str, dict[tuple, list[int]]] = {}
    for part in sorted((out / split).iterdir()):
        blocks = pq.read_table(part).to_pylist()
        for piece in pq.read_table(out / "sources" / split / part.name).to_pylist():
            ids = blocks[piece["block"]]["input_ids"][piece["first"] : piece["first"] + piece["num_ids"]]
            own = documents.setdefault(piece["document_id"], {})
            at = piece["utterance_id"], piece["start_s"], piece["end_s"], piece["first"]
            assert at not in own, "a piece twice"
            own[at] = ids
    return {name: [one for at in sorted(own, key=lambda k: (k[1], k[2], -k[3])) for one in own[at]]
            for name, own in documents.items()}  # fmt: skip


@pytest.mark.parametrize("part_mb", [32.0, 0.02])
def test_every_token_is_in_one_block_of_the_right_split(archive, tmp_path: Path, part_mb: float) -> None:
    uri, truth = archive
    job = PackJob(archive=uri, out=str(tmp_path), block_size=128, part_mb=part_mb)
    summary = pack(job)
    expected = recordings(truth)
    found = {split: read_documents(tmp_path, split) for split in ("train", "valid", "test")}
    assert {split: len(own) for split, own in found.items()} == {"train": 4, "valid": 2, "test": 2}
    for name, tokens in expected.items():
        (own,) = [documents[name] for documents in found.values() if name in documents]
        assert own == tokens.tolist()
    assert sum(s["num_tokens"] for s in summary.values()) == sum(map(len, expected.values()))
    assert pack(job) == summary


def test_where_no_document_is_cut_the_totals_say_0_of_every_split(archive, tmp_path: Path) -> None:
    summary = pack(PackJob(archive=archive[0], out=str(tmp_path), block_size=100_000))
    assert {split: own["num_cut_documents"] for split, own in summary.items()} == {"train": 0, "valid": 0, "test": 0}
    assert json.loads((tmp_path / "done.json").read_bytes()) == summary


def test_the_same_seed_gives_the_same_bytes_and_another_another_order(archive, tmp_path: Path) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        pack(PackJob(archive=archive[0], out=str(tmp_path / name), block_size=64, seed=seed, document="utterance"))
    first, second, third = ((tmp_path / name / "train/part-00000.parquet").read_bytes() for name in ("a", "b", "c"))
    assert first == second != third
    with pytest.raises(ConflictError, match=r"config\.seed was 2 and is now 1"):
        pack(PackJob(archive=archive[0], out=str(tmp_path / "c"), block_size=64, seed=1, document="utterance"))


def test_new_splits_are_disjoint_by_speaker(archive, tmp_path: Path) -> None:
    pack(PackJob(archive=archive[0], out=str(tmp_path), block_size=64, splits="speaker", valid_percent=30,
                 test_percent=30, seed=3))  # fmt: skip
    speakers = [
        {name.split("/")[0] for name in read_documents(tmp_path, split)}
        for split in ("train", "valid", "test")
        if (tmp_path / split).exists()
    ]
    assert len(speakers) >= 2 and sum(map(len, speakers)) == len(set.union(*speakers)) == 4


def test_a_speaker_in_two_splits_is_refused(tmp_path: Path) -> None:
    make_archive(str(tmp_path / "a"), ("train-000000",))
    make_archive(str(tmp_path / "b"), ("valid-000000",))
    for path in (tmp_path / "b").rglob("valid*"):
        path.rename(tmp_path / "a" / path.relative_to(tmp_path / "b"))
    with pytest.raises(InputError, match=r"a speaker in two splits of the archive, train and valid: '100'"):
        pack(PackJob(archive=str(tmp_path / "a"), out=str(tmp_path / "out")))
    with pytest.raises(NotFoundError, match="no utterance is selected"):
        pack(PackJob(archive=str(tmp_path / "a"), out=str(tmp_path / "out"), where="speaker = 'nobody'"))
    pack(PackJob(archive=str(tmp_path / "a"), out=str(tmp_path / "out"), splits="speaker"))  # as the first line says
    with pytest.raises(NotFoundError):
        pack(PackJob(archive=str(tmp_path / "nothing"), out=str(tmp_path / "out2")))


def test_any_collator_feeds_a_language_model_loss(archive, tmp_path: Path) -> None:
    pack(PackJob(archive=archive[0], out=str(tmp_path), block_size=96))
    file = pq.ParquetFile(tmp_path / "train/part-00000.parquet")
    metadata = json.loads(file.metadata.metadata[b"syllabary_blocks"])
    rows = file.read().to_pylist()
    for collate in (torch.utils.data.default_collate, transformers_collate):
        batch = {name: torch.as_tensor(np.array(values)) for name, values in collated(collate, rows[:4]).items()}
        assert {tuple(values.shape) for values in batch.values()} == {(4, 96)}
    limits = torch.tensor(metadata["position_sizes"])[batch["place"]]
    told = batch["labels"] >= 0
    assert (batch["labels"] < limits)[told].all() and told.any()
    possible = torch.arange(metadata["vocabulary_size"]) < limits[..., None]
    logits = torch.zeros(possible.shape).masked_fill(~possible, -torch.inf)
    loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), batch["labels"].long().flatten(), ignore_index=-100)
    assert 0 < loss < np.log(16_384)  # below uniform over the vocabulary: the mask knows the last place's 16 ids


def transformers_collate(rows: list[dict]) -> dict:
    from transformers import default_data_collator

    return default_data_collator(rows)


def collated(collate, rows: list[dict]) -> dict:
    """What a collator makes of rows of lists; torch's has the columns of each first."""
    made = collate(rows)
    return {n: np.stack([np.asarray(one) for one in v], -1) if isinstance(v, list) else v for n, v in made.items()}


def test_a_quick_look_with_arrow_datasets_reads_fixed_length_lists(archive, tmp_path: Path) -> None:
    import pyarrow.dataset as pds

    pack(PackJob(archive=archive[0], out=str(tmp_path), block_size=50))
    dataset = pds.dataset(tmp_path / "train", format="parquet")
    assert pa.types.is_fixed_size_list(dataset.schema.field("input_ids").type)
    assert dataset.schema.field("input_ids").type.list_size == 50


def test_huggingface_datasets_feed_a_dataloader_with_every_token_once(
    archive, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    import datasets

    pack(PackJob(archive=archive[0], out=str(tmp_path / "out"), block_size=96, part_mb=0.02))
    parts = [str(part) for part in sorted((tmp_path / "out/train").iterdir())]
    blocks = datasets.load_dataset("parquet", data_files={"train": parts}, cache_dir=str(tmp_path / "cache"))["train"]
    assert blocks.features["input_ids"].length == 96 and len(parts) > 1
    loader = torch.utils.data.DataLoader(blocks.with_format("torch"), batch_size=5, num_workers=0)
    batches = list(loader)
    assert [len(batch["input_ids"]) for batch in batches[:-1]] == [5] * (len(batches) - 1)
    ids, documents = (torch.cat([batch[name] for batch in batches]).long() for name in ("input_ids", "document_ids"))
    assert ids.shape == (len(blocks), 96) and (ids[documents < 0] == 16_384).all(), "the padding id"
    train = {name for name in recordings(archive[1]) if name.split("/")[0] in ("101", "102")}
    expected = np.sort(np.concatenate([tokens for name, tokens in recordings(archive[1]).items() if name in train]))
    assert np.array_equal(np.sort(ids[ids < 16_384].numpy()), expected)


def test_huggingface_datasets_open_the_archive_itself(archive, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    import datasets

    rows = datasets.Dataset.from_parquet(f"{archive[0]}/parts/train-000000.parquet", cache_dir=str(tmp_path / "cache"))
    packed = FORMAT.packing.pack(archive[1][rows[7]["utterance_id"]]).reshape(-1)
    assert rows[7]["tokens"] == packed.tolist() and rows.features["tokens"].feature.dtype == "uint16"
