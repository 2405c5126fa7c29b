"""An archive explains itself: to Hugging Face, to Croissant, to a stranger with pyarrow, and `verify` covers it all."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import mlcroissant
import numpy as np
import pyarrow.parquet as pq
import pytest

from syllabary.shards import outputs
from syllabary.shards.about.events import read_events
from syllabary.shards.about.origin import Origin
from syllabary.shards.errors import DamageError, FormatError, NotFoundError
from syllabary.workers.archive.describe import describe
from syllabary.workers.archive.repack import repack
from syllabary.workers.archive.verify import verify
from syllabary.workers.control.jobs import RepackJob, VerifyJob
from tests.helpers.archive_corpus import make_base

TOTALS = {"num_parts": 3, "num_tokenized": 12, "tokenized_s": 12.5, "num_quarantined": 0}
TOLD = Origin("Fables", "CC-BY-4.0", "https://example.org/fables")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = make_base(tmp_path_factory.mktemp("base"))
    archive, tokenizer = str(folder / "archive"), str(folder / "tokenizer")
    describe("tokenize", archive, TOTALS, TOLD, tokenizer, with_weights=True)
    outputs.mark_done(archive, TOTALS)
    return folder


@pytest.fixture
def archive(base: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(base / "archive", tmp_path / "archive"))


def test_hugging_face_gives_the_tokens_and_by_name_the_ledger(
    archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    import datasets

    rows = pq.read_table(archive / "parts/valid-000000.parquet").to_pylist()
    tokens = datasets.load_dataset(str(archive), cache_dir=str(tmp_path / "cache"))
    assert {split: len(own) for split, own in tokens.items()} == {"train": 8, "valid": 4}
    assert [row["tokens"] for row in tokens["valid"]] == [row["tokens"] for row in rows]
    ledger = datasets.load_dataset(str(archive), name="ledger", cache_dir=str(tmp_path / "cache"))
    assert set(ledger["train"]["status"]) == {"tokenized"} and len(ledger["train"]) == 8
    # to its end: a stream left early can end the process (docs/troubleshooting.md), and a test's worker with it
    streamed = list(datasets.load_dataset(str(archive), split="valid", streaming=True))
    assert [(row["utterance_id"], row["tokens"]) for row in streamed] == [
        (row["utterance_id"], row["tokens"]) for row in rows
    ]


def test_croissant_is_valid_and_its_records_are_the_tokens(archive: Path) -> None:
    dataset = mlcroissant.Dataset(jsonld=archive / "croissant.json")
    assert not dataset.metadata.ctx.issues.errors
    assert dataset.metadata.name == "Fables as tokens" and dataset.metadata.license == ["CC-BY-4.0"]
    rows = pq.read_table(archive / "parts/train-000000.parquet").to_pylist()
    found = {r["tokens/utterance_id"].decode(): r["tokens/tokens"] for r in dataset.records("tokens")}
    assert len(found) == 12
    for row in rows:
        assert np.array_equal(found[row["utterance_id"]], row["tokens"])
    assert len(list(dataset.records("ledger"))) == 12


def test_the_reader_beside_the_tokens_needs_pyarrow_alone(archive: Path) -> None:
    source = (archive / "read_tokens.py").read_text()
    assert len(source.splitlines()) <= 30 and "syllabary." not in source
    row = pq.read_table(archive / "parts/train-000000.parquet").to_pylist()[1]
    command = [sys.executable, "-I", "read_tokens.py", "parts/train-000000.parquet", row["utterance_id"]]
    finished = subprocess.run(command, cwd=archive, capture_output=True, text=True, check=True)
    frames = [json.loads(line) for line in finished.stdout.splitlines()]
    packed = np.array(row["tokens"]).reshape(-1, 19)
    assert len(frames) == len(packed) and all(len(frame) == 128 for frame in frames)
    assert sum(digit * 4 ** (6 - k) for k, digit in enumerate(frames[0][:7])) == packed[0, 0]


def test_what_is_told_stands_in_the_card_and_the_weights_lie_beside(archive: Path, base: Path) -> None:
    card = (archive / "README.md").read_text()
    for text in ("license: cc-by-4.0", "https://example.org/fables", "12 utterances", "# Fables as tokens", "0.00 h"):
        assert text in card, text
    for name in ("README.md", "config.json", "encoder.safetensors", "decoder.safetensors"):
        assert (archive / "tokenizer" / name).read_bytes() == (base / "tokenizer" / name).read_bytes()
    assert (archive / "FORMAT.md").read_text().startswith("# Formats")
    describe("tokenize", str(archive), TOTALS, Origin(), str(base / "tokenizer"), with_weights=False)
    untold = (archive / "README.md").read_text()
    assert "not told to the ingest" in untold and "license: unknown" in untold and str(base / "tokenizer") in untold


def test_verify_covers_them_and_logs_each_check(archive: Path) -> None:
    verify(VerifyJob(archive=str(archive)))
    (archive / "README.md").write_text("what people know better")
    assert verify(VerifyJob(archive=str(archive)))["num_findings"] == 0, "an edited card is told and no damage"
    (archive / "croissant.json").write_text("{}")
    (archive / "tokenizer/decoder.safetensors").unlink()
    with pytest.raises(DamageError, match="2 damages"):
        verify(VerifyJob(archive=str(archive)))
    events = list(read_events(str(archive)))
    outcomes = [event["eventOutcomeInformation"][0] for event in events]
    assert [outcome["eventOutcome"] for outcome in outcomes] == ["pass", "pass", "fail"]
    assert [note["eventOutcomeDetailNote"] for note in outcomes[1]["eventOutcomeDetail"]] == [
        "README.md has been edited since it was written"
    ]
    assert "croissant.json: sha256 differs" in str(outcomes[2]) and "decoder.safetensors: is missing" in str(
        outcomes[2]
    )
    verify_quietly = VerifyJob(archive=str(archive), log_event=False)
    with pytest.raises(DamageError):
        verify(verify_quietly)
    assert len(list(read_events(str(archive)))) == 3


def test_an_archive_that_cannot_be_written_is_verified_all_the_same(
    archive: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (archive / "events").write_text("a file where the folder should be")
    assert verify(VerifyJob(archive=str(archive)))["num_findings"] == 0
    assert "the check is not in the archive's log" in "".join(capsys.readouterr())


def test_repacking_carries_the_description_on(archive: Path, tmp_path: Path) -> None:
    repack(RepackJob(archive=str(archive), out=str(tmp_path / "out"), group_size=4, encoding="compact"))
    card = (tmp_path / "out/README.md").read_text()
    assert "128 dims of 4, 4 a token" in card and "| encoding of the parts | compact |" in card and "cc-by-4.0" in card
    assert (tmp_path / "out/tokenizer/decoder.safetensors").exists()
    assert verify(VerifyJob(archive=str(tmp_path / "out")))["num_findings"] == 0


def test_another_tokenizer_or_none_is_refused(archive: Path, tmp_path: Path) -> None:
    with pytest.raises(NotFoundError):
        describe("tokenize", str(archive), TOTALS, TOLD, str(tmp_path / "none"), with_weights=False)
    (tmp_path / "other").mkdir()
    (tmp_path / "other/config.json").write_text(json.dumps({"encoder_digest": "f" * 64}))
    with pytest.raises(FormatError, match="encoder digest of the tokenizer"):
        describe("tokenize", str(archive), TOTALS, TOLD, str(tmp_path / "other"), with_weights=False)
