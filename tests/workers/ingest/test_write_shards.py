"""``python -m syllabary.workers shard`` on Ray: the same bytes on any number of workers, and after a SIGKILL."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
import soundfile

from syllabary.shards.about.origin import Origin
from syllabary.shards.ingest.config import IngestConfig
from syllabary.workers.control.jobs import RESULT_PREFIX, ShardJob
from syllabary.workers.ingest.write_shards import _empty, _tell_origin
from tests.helpers.ingest_testing import RATE, make_tar, tone, tree

OVERRIDES = ("ingest.shard_size_mb=0.4",)


def command(job: ShardJob) -> list[str]:
    return [sys.executable, "-m", "syllabary.workers", "shard", job.model_dump_json()]


def run(job: ShardJob) -> tuple[int, dict[str, Any], str]:
    """(exit status, result, standard error) of the worker."""
    done = subprocess.run(command(job), capture_output=True, text=True, check=False)
    lines = [line for line in done.stdout.splitlines() if line.startswith(RESULT_PREFIX)]
    return done.returncode, json.loads(lines[0].removeprefix(RESULT_PREFIX)) if lines else {}, done.stderr


@pytest.fixture(scope="module")
def on_one_worker(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("one") / "out"
    status, result, errors = run(ShardJob(source=str(corpus), out=str(out), overrides=OVERRIDES, num_workers=1))
    assert status == 0, errors
    assert result["wrote"] == result["num_shards"] >= 8
    assert sum(row["percent"] for row in result["ledger"]) == pytest.approx(100, abs=0.01)
    return out


def test_a_rerun_does_nothing_but_say_so(corpus: Path, on_one_worker: Path) -> None:
    before = tree(on_one_worker)
    status, result, errors = run(ShardJob(source=str(corpus), out=str(on_one_worker), overrides=OVERRIDES))
    assert (status, result["wrote"]) == (0, 0)
    assert "0 of them to write" in errors
    assert tree(on_one_worker) == before


def test_what_is_told_of_the_speech_lies_beside_the_shards_and_later_words_go_over_earlier(tmp_path: Path) -> None:
    told = (("Fables", "", ""), ("", "CC0-1.0", ""), ("", "", "https://example.org"))
    for title, licence, origin in told:
        _tell_origin(ShardJob(source="s", out=str(tmp_path), title=title, licence=licence, origin=origin))
    assert Origin.read(str(tmp_path)) == Origin("Fables", "CC0-1.0", "https://example.org")
    _tell_origin(ShardJob(source="s", out=str(tmp_path / "untold")))
    assert not (tmp_path / "untold").exists()


def test_killed_on_two_workers_and_run_again_gives_the_bytes_of_one(
    corpus: Path, on_one_worker: Path, tmp_path: Path
) -> None:
    job = ShardJob(source=str(corpus), out=str(tmp_path / "out"), overrides=OVERRIDES, num_workers=2)
    process = subprocess.Popen(command(job), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    index = tmp_path / "out" / "index"
    while not index.exists() and process.poll() is None:
        time.sleep(0.02)
    family = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "out" / "done.json").exists(), "killed too late to show anything"
    _end_orphans(family)
    status, result, errors = run(job)
    assert status == 0, errors
    assert 0 < result["wrote"] < result["num_shards"]
    assert tree(tmp_path / "out") == tree(on_one_worker)


def _end_orphans(family: list[psutil.Process]) -> None:
    """Ray's writers end by themselves soon after their driver, its agents after a minute."""
    _, alive = psutil.wait_procs(family, timeout=6)
    for process in alive:
        process.kill()
    psutil.wait_procs(alive, timeout=5)


def test_a_tar_on_ray_with_a_bad_md5_then_without(corpus: Path, tmp_path: Path) -> None:
    """One Ray session each: the refused run must leave nothing made from the tar."""
    paths = sorted(path for path in corpus.rglob("*") if path.is_file())
    tar = make_tar(tmp_path / "small.tar", {str(p.relative_to(corpus)): p.read_bytes() for p in paths})
    bad = ShardJob(source=str(tar), out=str(tmp_path / "bad"), overrides=(*OVERRIDES, f"ingest.tar_md5={'f' * 32}"))
    status, result, errors = run(bad)
    assert (status, result) == (2, {})
    assert "error: wrong md5 of the tar" in errors
    assert {path.name for path in (tmp_path / "bad").iterdir()} == {"output.json"}
    job = ShardJob(source=str(tar), out=str(tmp_path / "out"), overrides=OVERRIDES)
    status, result, errors = run(job)
    assert status == 0, errors
    assert result["source_size_bytes"] == tar.stat().st_size
    assert (run(job)[0], run(job)[1]["wrote"]) == (0, 0)


@pytest.mark.parametrize(
    ("source", "message"),
    [("nowhere", "no such folder"), ("silent", "no audio found"), ("list.jsonl", "no such folder")],
)
def test_a_source_that_does_not_do_is_one_line(tmp_path: Path, source: str, message: str) -> None:
    (tmp_path / "silent").mkdir()
    status, result, errors = run(ShardJob(source=str(tmp_path / source), out=str(tmp_path / "out")))
    assert (status, result) == (2, {})
    (line,) = [line for line in errors.splitlines() if line.startswith("error: ")]
    assert message in line
    assert "Traceback" not in errors
    assert not (tmp_path / "out").exists()


def _summary(ledger: dict[str, float], **utterances: int) -> dict[str, Any]:
    rows = [{"status": name, "detail": "", "percent": percent} for name, percent in ledger.items()]
    return {"splits": {name: {"num_utterances": count} for name, count in utterances.items()}, "ledger": rows}


def test_a_corpus_that_gives_no_utterance_is_told_once_with_what_became_of_it() -> None:
    """Not that other percentages would fill each split: of silence nothing would."""
    silent = _summary({"shard": 0.0, "silence": 96.0, "too_short": 4.0}, train=0, valid=0, test=0)
    assert list(_empty(silent)) == [
        "warning: no utterance at all: there is nothing to learn from (96 % silence, 4 % too_short); check the corpus"
    ]
    assert list(_empty(_summary({}, train=0))) == [
        "warning: no utterance at all: there is nothing to learn from (no audio); check the corpus"
    ]
    (line,) = _empty(_summary({"shard": 100.0}, train=3, valid=0))
    assert line.startswith("note: valid is empty; ingest.split_by=recording")
    assert list(_empty(_summary({"shard": 100.0}, train=3, valid=1))) == []


def test_storage_that_fails_inside_a_task_is_one_line(corpus: Path, tmp_path: Path) -> None:
    """``shards`` is a file where a folder must be: the first publish of a task fails."""
    out = tmp_path / "out"
    out.mkdir()
    (out / "shards").write_text("in the way")
    status, _, errors = run(ShardJob(source=str(corpus), out=str(out), overrides=OVERRIDES))
    assert status == 2
    (line,) = [line for line in errors.splitlines() if line.startswith("error: ")]
    assert str(out / "shards") in line
    assert "Traceback" not in errors
    assert (out / "shards").is_file()


def test_a_corpus_of_one_speaker_is_split_by_recording_only_when_asked(tmp_path: Path) -> None:
    from syllabary.shards.ingest.sources.folder import list_recordings
    from syllabary.shards.ingest.splits import split_of
    from syllabary.workers.ingest.write_shards import with_held_out

    for number in range(30):
        soundfile.write(tmp_path / f"{number}.wav", tone(1, seed=number), RATE)
    config = IngestConfig(valid_percent=10, test_percent=10)
    recordings = list_recordings(str(tmp_path), config)
    assert {split_of(r.speaker, r.recording_id, config) for r in recordings} == {"train"}
    by_recording = with_held_out(config, recordings)
    assert {split_of(r.speaker, r.recording_id, by_recording) for r in recordings} >= {"train", "valid"}
    assert with_held_out(by_recording, recordings) == by_recording
