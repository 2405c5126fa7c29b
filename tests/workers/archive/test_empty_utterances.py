"""An utterance of zero samples is a row like any other, in every verb that reads an archive."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile

from syllabary.shards.archive.audit import audit_archive
from syllabary.shards.dataset import INDEX_SCHEMA
from syllabary.workers.archive.encode_shard import archive_format
from syllabary.workers.archive.pack import pack
from syllabary.workers.archive.repack import repack
from syllabary.workers.archive.restore import restore
from syllabary.workers.archive.salient import salient
from syllabary.workers.control.jobs import PackJob, RepackJob, RestoreJob, SalientJob
from syllabary.workers.tokenizer.tokenizer import Tokenizer
from tests.helpers.archive_corpus import make_part, make_tokenizer, utterance_rows

EMPTY = {"train-000000": {1, 3}, "train-000001": {0, 1}}  # numbers of the empty utterances: some of a part, and all


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("empty")
    form = archive_format(Tokenizer.load(make_tokenizer(str(folder / "tokenizer")), decoder=False))
    form.claim(str(folder / "archive"))
    for seed, (shard, empty) in enumerate(EMPTY.items()):
        rows = utterance_rows(shard, seed, 4 if seed == 0 else 2)
        rows = [row | {"num_samples": 0} if number in empty else row for number, row in enumerate(rows)]
        make_part(str(folder / "archive"), pa.Table.from_pylist(rows, schema=INDEX_SCHEMA), form, shard, seed, 16)
    return folder


def test_they_pass_the_scrub_and_are_repacked_without_loss(base: Path, tmp_path: Path) -> None:
    assert audit_archive(str(base / "archive")).findings == []
    repack(RepackJob(archive=str(base / "archive"), out=str(tmp_path / "out"), group_size=4))
    assert audit_archive(str(tmp_path / "out")).findings == []
    frames = [
        pq.read_table(folder / "parts", columns=["num_frames"]) for folder in (base / "archive", tmp_path / "out")
    ]
    assert frames[0].equals(frames[1]) and frames[0]["num_frames"].to_pylist().count(0) == 4


@pytest.mark.parametrize("audio_format", ["flac", "wav"])
@pytest.mark.parametrize("join", [False, True])
def test_they_are_told_of_in_the_manifest_and_have_no_file(
    base: Path, tmp_path: Path, join: bool, audio_format: str
) -> None:
    values = {"archive": str(base / "archive"), "tokenizer": str(base / "tokenizer"), "out": str(tmp_path)}
    result = restore(RestoreJob(**values, join=join, audio_format=audio_format))
    rows = pq.read_table(tmp_path / "manifest.parquet").to_pylist()
    assert result["num_utterances"] == len(rows) == 6 and result["num_files"] == len([*tmp_path.rglob("*.*a[cv]")]) == 2
    ends: dict[str, int] = {}
    for row in (row for row in rows if row["file"]):
        ends[row["file"]] = max(ends.get(row["file"], 0), row["offset_in_file"] + row["num_samples"])
    assert {file: soundfile.info(tmp_path / file).frames for file in ends} == ends
    assert sum(row["file"] is None for row in rows) == (2 if join else 4)


def test_they_are_documents_of_a_separator_alone_and_never_salient(base: Path, tmp_path: Path) -> None:
    job = PackJob(archive=str(base / "archive"), out=str(tmp_path), document="utterance", block_size=50)
    found = pack(job)["train"]
    rows = pq.read_table(base / "archive/parts").to_pylist()
    assert (found["num_documents"], found["num_tokens"]) == (6, sum(len(row["tokens"]) for row in rows))
    spans = salient(SalientJob(archive=str(base / "archive"), top_percent=100.0, limit=10))["spans"]
    assert {span["utterance_id"] for span in spans} == {row["utterance_id"] for row in rows if row["num_frames"]}
