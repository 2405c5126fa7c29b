"""``status``: what a folder holds, how far it is, what failed; on folders and on S3, whole, half made and damaged."""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import get_args

import pytest

from infra.stack.object_store import ObjectStore
from syllabary.shards import outputs, store
from syllabary.shards.archive.ledger import read_ledger
from syllabary.shards.errors import NotFoundError
from syllabary.workers.control.declaration import option_of, shown
from syllabary.workers.control.jobs import PipelineParameters, StatusJob, declared_jobs
from syllabary.workers.control.run_layout import POINTER
from syllabary.workers.evaluation.utterance import result_uri
from syllabary.workers.operate.status import look, status
from syllabary.workers.operate.status_table import (
    COMPLETE,
    DAMAGED,
    UNFINISHED,
    Failure,
    Status,
    as_table,
    next_step,
    print_table,
)
from syllabary.workers.report.card import REPORT
from syllabary.workers.training.checkpoints import CheckpointStore, Manifest
from tests.helpers.archive_corpus import make_archive, make_tokenizer
from tests.helpers.ingest_testing import config, shard, tone, tree, write_audio


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    """Complete shards of four recordings, one of which is no audio."""
    source = tmp_path / "source"
    for number in range(3):
        write_audio(source / f"s{number}" / "a.flac", tone(4.0, seed=number))
    (source / "s9").mkdir()
    (source / "s9" / "broken.flac").write_bytes(b"no sound at all")
    shard(source, tmp_path / "shards", config(max_quarantined_percent=60))
    return tmp_path / "shards"


def one(uri: str | Path) -> Status:
    (found,) = look(str(uri))
    return found


def test_complete_shards(shards: Path) -> None:
    found = one(shards)
    assert (found.holds, found.state) == ("shards", COMPLETE)
    assert found.done == found.total == len(list((shards / "index").iterdir()))
    assert found.size_bytes == sum(len(data) for data in tree(shards).values())
    assert found.duration_s == store.read_json(str(shards / "done.json"))["stored_s"] > 0
    (failure,) = found.failures
    assert failure.reason.startswith("quarantined: ") and failure.count == 1


def test_half_made_shards_tell_what_is_committed(shards: Path) -> None:
    (shards / "done.json").unlink()
    whole = one(shards)
    sorted((shards / "index").iterdir())[0].unlink()
    found = one(shards)
    assert whole.total is not None and found.state == whole.state == UNFINISHED
    assert (found.done, found.total) == (whole.total - 1, whole.total)
    assert found.duration_s is not None and whole.duration_s is not None and found.duration_s < whole.duration_s


def test_a_damaged_ledger_is_a_state_and_not_a_failed_command(shards: Path) -> None:
    (shards / "done.json").unlink()
    for part in (shards / "ledger").iterdir():
        part.write_bytes(b"x")
    found = one(shards)
    assert found.state == DAMAGED and "damaged ledger part" in found.failures[0].reason


def test_an_archive_alone_and_beside_its_shards(shards: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(shards, run / "shards")
    make_archive(str(run / "archive"))
    outputs.claim(str(run), "run", inputs={}, config={})
    alone = one(run / "archive")
    assert (alone.holds, alone.state, alone.done, alone.total) == ("archive", UNFINISHED, 3, None)
    ledgers = [read_ledger(str(run / "archive"), p.stem) for p in (run / "archive" / "parts").iterdir()]
    assert alone.duration_s == pytest.approx(sum(ledger.seconds("tokenized") for ledger in ledgers), abs=0.01)
    own, first, second = look(str(run))
    assert (own.holds, own.state) == ("run", UNFINISHED) and own.size_bytes > first.size_bytes + second.size_bytes
    assert (first.holds, second.holds) == ("shards", "archive") and second.total == first.total


def test_the_reasons_of_an_archives_quarantine_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import pyarrow as pa

    from syllabary.workers.operate import status as output_status

    make_archive(str(tmp_path))

    def with_quarantine(uri: str, name: str) -> object:
        found = read_ledger(uri, name)
        status_column = pa.array(["quarantined"] + ["tokenized"] * (len(found.rows) - 1))
        reasons = pa.array(["too long", *[None] * (len(found.rows) - 1)], pa.string())
        rows = found.rows.set_column(5, "status", status_column).set_column(6, "reason", reasons)
        return type("Found", (), {"rows": rows})

    monkeypatch.setattr(output_status, "read_ledger", with_quarantine)
    (failure,) = one(tmp_path).failures
    assert (failure.reason, failure.count) == ("quarantined: too long", 3)


def test_a_training_tells_its_steps_and_losses(tmp_path: Path) -> None:
    uri = str(tmp_path / "pretrain")
    outputs.claim(uri, "pretrain", inputs={}, config={"train": {"num_steps": 100}})
    assert one(uri).progress == "0/100 steps checkpointed"
    CheckpointStore(uri).commit(Manifest(40, 1, {"position": 0, "best": None, "quarantined": {"u1": "bad"}}, ()))
    found = one(uri)
    assert (found.done, found.total, found.state) == (40, 100, UNFINISHED)
    assert found.failures == (Failure("quarantined u1: bad", 1),)
    outputs.mark_done(uri, {"steps": 100, "first_valid_loss": 2.0, "final_valid_loss": 1.5, "quarantined": {}})
    assert one(uri).progress == "100/100 steps, loss 2.0000 → 1.5000" and one(uri).state == COMPLETE
    told = [{"name": name, "first_step": 0, "last_step": last, "text": ""} for name, last in (("a", 50), ("b", 100))]
    outputs.mark_done(uri, {**(outputs.read_done(uri) or {}), "warnings": told})
    assert one(uri).progress == "100/100 steps, loss 2.0000 → 1.5000, warns: b"


def test_a_tokenizer_with_and_without_its_decoder(tmp_path: Path) -> None:
    uri = make_tokenizer(str(tmp_path / "tokenizer"))
    assert (one(uri).holds, one(uri).state) == ("tokenizer", COMPLETE)
    (tmp_path / "tokenizer" / "decoder.safetensors").unlink()
    assert one(uri).failures == (Failure("missing decoder.safetensors", 1),) and one(uri).state == UNFINISHED


def test_restored_audio_tells_its_files_and_then_the_numbers_of_its_summary(tmp_path: Path) -> None:
    uri = str(tmp_path)
    outputs.claim(uri, "restored", inputs={}, config={})
    store.publish_bytes(store.join(uri, "audio", "a.flac"), b"x")
    assert (one(uri).state, one(uri).progress, one(uri).done) == (UNFINISHED, "1 files so far", 1)
    outputs.mark_done(uri, {"num_utterances": 8, "num_files": 8, "duration_s": 22.5})
    assert (one(uri).progress, one(uri).duration_s) == ("8 files, 8 utterances", 22.5)


def test_an_evaluation_tells_what_is_scored_and_then_what_was_not(tmp_path: Path) -> None:
    uri = str(tmp_path)
    outputs.claim(uri, "evaluation", inputs={}, config={})
    for number in range(3):
        store.publish_bytes(result_uri(uri, number), b"{}")
    assert (one(uri).state, one(uri).progress) == (UNFINISHED, "3 utterances scored so far")
    failed = [{"utterance_id": f"u{n}", "system": "ours", "metric": "pesq", "reason": "too short"} for n in range(2)]
    store.publish_bytes(store.join(uri, REPORT), store.pretty_json({"failures": failed}))
    outputs.mark_done(uri, {"num_utterances": 3, "estoi": 0.5})
    assert (one(uri).state, one(uri).progress) == (COMPLETE, "3 utterances")
    assert one(uri).failures == (Failure("ours pesq: too short", 2),)


def test_blocks_spans_and_a_registry_tell_what_they_hold(tmp_path: Path) -> None:
    packed, spans, registry = (str(tmp_path / name) for name in ("packed", "spans", "registry"))
    outputs.claim(packed, "packed", inputs={}, config={})
    assert (one(packed).state, one(packed).progress) == (UNFINISHED, "")
    outputs.mark_done(packed, {"train": {"num_documents": 1200}, "valid": {"num_documents": 3}})
    assert (one(packed).state, one(packed).progress) == (COMPLETE, "train 1,200 documents, valid 3 documents")
    outputs.claim(spans, "report", inputs={}, config={})
    assert one(spans).state == UNFINISHED
    store.publish_bytes(store.join(spans, "spans.parquet"), b"x")
    assert (one(spans).state, one(spans).progress) == (COMPLETE, "salient spans")
    store.publish_bytes(store.join(registry, POINTER), store.pretty_json({"tokenizer": "s3://b/t"}))
    assert (one(registry).holds, one(registry).progress) == ("registry", "in use: s3://b/t")


def test_every_kind_of_output_has_a_description_of_its_own() -> None:
    from syllabary.workers.operate import status as output_status

    assert set(get_args(outputs.Kind)) - {"run"} <= set(output_status._DESCRIBERS)


def test_a_language_model_tells_its_steps_and_its_bits(tmp_path: Path) -> None:
    uri = str(tmp_path / "lm")
    outputs.claim(uri, "language_model", inputs={}, config={"num_steps": 1200})
    assert (one(uri).state, one(uri).progress) == (UNFINISHED, "0/1,200 steps checkpointed")
    outputs.mark_done(uri, {"num_steps": 1200, "valid_bits_per_token": 12.3456})
    found = one(uri)
    assert (found.state, found.done, found.total) == (COMPLETE, 1200, 1200)
    assert found.progress == "1,200/1,200 steps, 12.346 bits per token held out"


def test_figures_and_samples_of_a_language_model_are_no_spans(tmp_path: Path) -> None:
    figures, samples = str(tmp_path / "figures"), str(tmp_path / "samples")
    for uri in (figures, samples):
        outputs.claim(uri, "report", inputs={}, config={})
        assert one(uri).state == UNFINISHED
    store.publish_bytes(store.join(figures, "lm.json"), b'{"bits_per_s": 612.34}')
    assert (one(figures).state, one(figures).progress) == (COMPLETE, "a language model's 612.3 bit/s")
    outputs.mark_done(samples, {"files": ["samples/000.flac"], "duration_s": 8.0})
    assert (one(samples).state, one(samples).duration_s) == (COMPLETE, 8.0)


def test_the_same_on_s3(s3: ObjectStore, shards: Path) -> None:
    uri = s3.bucket() + "/shards"
    for name, data in tree(shards).items():
        store.publish_bytes(store.join(uri, name), data)
    there, here = one(uri), one(shards)
    assert (there.done, there.total, there.duration_s, there.size_bytes, there.failures) == (
        here.done, here.total, here.duration_s, here.size_bytes, here.failures
    )  # fmt: skip


def test_a_folder_of_something_else_and_nothing_are_one_line(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="nothing there: "):
        look(str(tmp_path / "absent"))
    (tmp_path / "config.json").write_text('{"a": 1}')
    with pytest.raises(
        NotFoundError, match=r"no output of syllabary: .*; expected a folder with output.json.*; give the"
    ):
        look(str(tmp_path))
    (tmp_path / "bagit.txt").write_text("BagIt-Version: 1.0")
    with pytest.raises(NotFoundError, match=rf"no output of syllabary: .*; it is a bag, so give {tmp_path}/data$"):
        look(str(tmp_path))


def test_the_table_has_a_line_per_output_and_one_per_reason() -> None:
    failures = tuple(Failure(f"reason {n}", 2, 3661.0) for n in range(25))
    found = [Status("s3://b/run", "run"), Status("s3://b/run/archive", "archive", duration_s=90.0, failures=failures)]
    lines = as_table(found).splitlines()
    assert len(lines) == 3 + 20 + 1 and lines[2].startswith("  archive") and "0:01:30" in lines[2]
    assert lines[3].strip() == "failed: 2 x reason 0, 1:01:01" and "5 other reasons" in lines[-1]


def test_the_command_prints_a_table_or_json(shards: Path) -> None:
    command = [str(Path(sys.executable).parent / "syllabary"), "status", str(shards)]
    table = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert table.rstrip("\n") == status(StatusJob(uri=str(shards)))["text"]
    (found,) = json.loads(subprocess.run([*command, "--json"], capture_output=True, text=True, check=True).stdout)
    assert (found["holds"], found["state"], found["uri"]) == ("shards", "complete", str(shards))


@pytest.mark.parametrize("state", [COMPLETE, UNFINISHED, DAMAGED])
@pytest.mark.parametrize("kind", [*get_args(outputs.Kind), "registry"])
def test_what_to_do_next_is_a_command_that_there_is(kind: str, state: str) -> None:
    told = next_step(Status("s3://b/my run", kind, state))
    assert told or (kind, state) in {("report", COMPLETE), ("report", UNFINISHED), ("registry", COMPLETE),
                                     ("registry", UNFINISHED)}  # fmt: skip
    if not told.startswith("syllabary "):
        return
    _, verb, *words = shlex.split(told.partition(", as before")[0].partition(" names what")[0])
    job = PipelineParameters if verb == "run" else {job.verb: job for job in declared_jobs()}[verb]
    options = {shown(field).option or option_of(job, name): field for name, field in job.model_fields.items()}
    given = {word for word in words if word.startswith("--")}
    needed = {option for option, field in options.items() if field.is_required() and not shown(field).positional}
    assert needed <= given <= set(options), told
    assert any(word.startswith("s3://b/my run") for word in words), told


def test_a_run_goes_on_by_itself_and_its_stages_say_nothing_until_it_is_complete() -> None:
    run, done = Status("r", "run"), Status("r", "run", COMPLETE)
    assert next_step(run) == "syllabary run SOURCE --out r, as before: it goes on"
    assert next_step(Status("r/shards", "shards"), run) == next_step(Status("r/shards", "shards", COMPLETE), done) == ""
    assert next_step(done) == "syllabary listen r/archive"
    assert next_step(Status("r/archive", "archive", COMPLETE), done) == "syllabary verify --archive r/archive"
    assert next_step(Status("r/archive", "archive", DAMAGED), run).startswith("syllabary verify --archive r/archive ")


def test_the_table_of_a_terminal_has_every_column_and_no_markup_of_a_reason(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "150")
    failures = (Failure("[red]bad[/red]", 2, 61.0),)
    print_table([
        Status("run", "run", next_step="syllabary run SOURCE --out run, as before: it goes on"),
        Status("run/archive", "archive", COMPLETE, "3/3 parts", duration_s=90.0, size_bytes=1234, failures=failures),
    ])  # fmt: skip
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["output", "holds", "state", "audio", "bytes", "progress", "next"]
    assert "unfinished" in lines[1] and "syllabary run SOURCE --out run" in lines[1]
    assert {"complete", "0:01:30", "1,234", "3/3"} <= set("".join(lines[2:]).split())
    assert "failed: 2 x [red]bad[/red], 0:01:01" in "".join(lines)
    told = Status("u", "archive", failures=failures)
    assert Status.read(json.loads(json.dumps(asdict(told)))) == told
