"""What a pack is asked for: conditions, weights, text beside speech; and what is refused."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers

from syllabary.shards.archive.packing import Packing
from syllabary.shards.archive.parts import ArchiveFormat
from syllabary.shards.dataset import INDEX_SCHEMA
from syllabary.shards.errors import ConflictError, FormatError, InputError, NotFoundError
from syllabary.workers.archive.pack import pack
from syllabary.workers.control.jobs import PackJob
from tests.helpers.archive_corpus import FORMAT, RATE, make_archive, make_part, utterance_rows

WORDS = ("<unk>", "one", "two", "three")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Archives ``a`` and ``b`` of two tokenizers' worth of nothing else in common, and ``told`` with texts."""
    folder = tmp_path_factory.mktemp("options")
    make_archive(str(folder / "a"), ("train-000000", "valid-000001"), 12)
    make_archive(str(folder / "b"), ("train-000002",), 12)
    FORMAT.claim(str(folder / "told"))
    rows = [row | {"text": "one two" if i % 3 else (None if i % 2 else " ")}
            for i, row in enumerate(utterance_rows("train-000000", 0, 12))]  # fmt: skip
    make_part(str(folder / "told"), pa.Table.from_pylist(rows, schema=INDEX_SCHEMA), FORMAT, "train-000000", 0, 16)
    words = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.save(str(folder / "tokenizer.json"))
    return folder


def sources_of(out: Path, split: str = "train") -> list[dict]:
    return [row for part in sorted((out / "sources" / split).iterdir()) for row in pq.read_table(part).to_pylist()]


def ids_of(out: Path, split: str = "train") -> np.ndarray:
    parts = sorted((out / split).iterdir())
    return np.array([ids for part in parts for ids in pq.read_table(part)["input_ids"].to_pylist()])


def test_a_condition_says_which_utterances_are_taken(folder: Path, tmp_path: Path) -> None:
    pack(PackJob(archive=str(folder / "told"), out=str(tmp_path), block_size=64, where="text = 'one two'"))
    taken = {row["utterance_id"] for row in sources_of(tmp_path)}
    assert taken == {row["utterance_id"] for i, row in enumerate(utterance_rows("train-000000", 0, 12)) if i % 3}
    with pytest.raises(NotFoundError, match="no utterance is selected: \"speaker = 'nobody'\""):
        pack(PackJob(archive=str(folder / "a"), out=str(tmp_path / "none"), where="speaker = 'nobody'"))
    with pytest.raises(InputError, match="invalid --where"):
        pack(PackJob(archive=str(folder / "a"), out=str(tmp_path / "bad"), where="nonsense"))


def test_several_archives_come_as_often_as_their_weights_say(folder: Path, tmp_path: Path) -> None:
    archives = (str(folder / "a"), str(folder / "b"))
    job = PackJob(archive=archives, out=str(tmp_path), block_size=64, weights=(1.0, 2.5), document="utterance",
                  part_mb=0.005)  # fmt: skip
    summary = pack(job)
    rows = sources_of(tmp_path)
    counts = Counter((row["archive"], row["utterance_id"]) for row in rows if row["gap_s"] is None)
    tokens = Counter()
    for row in rows:
        tokens[(row["archive"], row["utterance_id"])] += row["num_ids"]
    rows_of_both = utterance_rows("train-000000", 0, 12)
    lengths = {r["utterance_id"]: 19 * FORMAT.num_frames(r["num_samples"], RATE) for r in rows_of_both}
    copies = {key: total / lengths[key[1]] for key, total in tokens.items()}
    assert {copies[key] for key in copies if key[0] == 0} == {1} and {copies[k] for k in copies if k[0] == 1} == {2, 3}
    assert len(counts) == 24 and summary["train"]["num_documents"] == sum(copies.values())
    with pytest.raises(ConflictError):
        pack(job.model_copy(update={"weights": (1.0, 2.0)}))


@pytest.mark.parametrize("order", ["text_to_speech", "speech_to_text", "both"])
def test_text_and_speech_stand_in_the_order_that_is_asked_for(folder: Path, tmp_path: Path, order: str) -> None:
    job = PackJob(archive=str(folder / "told"), out=str(tmp_path), block_size=4096, interleave=order,
                  text_tokenizer=str(folder / "tokenizer.json"), document="utterance")  # fmt: skip
    pack(job)
    told = json.loads((tmp_path / "blocks.json").read_bytes())
    assert told["id_offset"] == told["text_vocabulary_size"] == len(WORDS)
    (ids,) = ids_of(tmp_path)
    ids = ids[ids != told["padding"]]
    found = [own.tolist() for own in np.split(ids, np.flatnonzero(ids == told["separator"]))[1:]]
    table = pq.read_table(folder / "told/parts/train-000000.parquet").to_pylist()
    text, expected = [told["text"], 1, 2], []
    for row in table:
        if row["text"] == "one two":
            speech = [told["speech"], *(len(WORDS) + token for token in row["tokens"])]
            expected += [[told["separator"], *text, *speech]] * (order != "speech_to_text")
            expected += [[told["separator"], *speech, *text]] * (order != "text_to_speech")
    assert sorted(found) == sorted(expected) and len(expected) == (16 if order == "both" else 8)
    pack(job.model_copy(update={"out": str(tmp_path / "offset"), "id_offset": 1000}))
    assert json.loads((tmp_path / "offset/blocks.json").read_bytes())["padding"] == 1000 + 16_384


@pytest.mark.parametrize(
    ("values", "error", "message"),
    [
        ({"weights": (0.0, 0.0)}, InputError, "weights that sum to nothing"),
        ({"weights": (1.0,)}, InputError, "weights of the archives: 1; expected 2"),
        ({"weights": (1.0, -1.0)}, InputError, "weight of an archive: -1.0"),
        ({"weights": (1.0, float("nan"))}, InputError, "weight of an archive: nan"),
        ({"block_size": 19}, InputError, "smaller than a frame"),
        ({"interleave": "both"}, InputError, "text and speech need a tokenizer and an order"),
        ({"text_tokenizer": "T"}, InputError, "text and speech need a tokenizer and an order: 'none'"),
        ({"interleave": "both", "text_tokenizer": "T", "id_offset": 3}, InputError, "collides with the 4 ids.*: 3;"),
        ({"interleave": "both", "text_tokenizer": "T"}, InputError, "where none has a text"),
        ({"interleave": "both", "text_tokenizer": "a/output.json"}, FormatError, "not a tokenizer.json"),
    ],
)
def test_what_cannot_be_packed_is_refused(folder: Path, tmp_path: Path, values: dict, error, message: str) -> None:
    if "text_tokenizer" in values:
        name = values["text_tokenizer"].replace("T", "tokenizer.json")
        values = values | {"text_tokenizer": str(folder / name)}
    with pytest.raises(error, match=message):
        pack(PackJob(archive=(str(folder / "a"), str(folder / "b")), out=str(tmp_path / "out"), **values))
    assert not list(tmp_path.rglob("*.parquet"))


@pytest.mark.parametrize(
    ("form", "message"),
    [
        (ArchiveFormat("f" * 64, "c" * 64, Packing(128, 4, 7), RATE, 6_400), "archives of two tokenizers"),
        (
            ArchiveFormat("e" * 64, "c" * 64, Packing(128, 4, 4), RATE, 6_400),
            "archives of two packings.*repack",
        ),
    ],
)
def test_archives_whose_tokens_mean_different_things_are_refused(folder: Path, tmp_path: Path, form, message) -> None:
    make_archive(str(tmp_path / "other"), ("train-000002",), form=form)
    with pytest.raises(ConflictError, match=message):
        pack(PackJob(archive=(str(folder / "a"), str(tmp_path / "other")), out=str(tmp_path / "out")))
