"""What jobs tell: lines for people, JSON lines for a log store, and progress as an event."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest

from syllabary.workers.control import log as job_log
from syllabary.workers.control.jobs import ShardJob
from syllabary.workers.control.log import Progress, Reached, Told, read_line, say, tell


@pytest.fixture
def json_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(job_log.MODE_VARIABLE, "json")
    monkeypatch.setenv(job_log.CONTEXT_VARIABLE, "{}")


def told(capsys: pytest.CaptureFixture[str]) -> list[dict]:
    return [json.loads(line) for line in capsys.readouterr().err.splitlines()]


def test_lines_are_for_people_unless_asked(capsys: pytest.CaptureFixture[str]) -> None:
    say("tokenize", "3 shards", shard="train-000000")
    job_log.record("tokenize", "not for people")
    assert capsys.readouterr().err == "tokenize  3 shards\n"


def test_a_json_line_names_run_recipe_and_shard(json_lines: None, capsys: pytest.CaptureFixture[str]) -> None:
    job_log.begin(job="tokenize", run="s3://b/archive", recipe="tiny", absent=None)
    say("tokenize", "trying again", shard="train-000000")
    (line,) = told(capsys)
    assert line.pop("time").endswith("+00:00")
    assert line == {
        "level": "info", "stage": "tokenize", "message": "trying again", "job": "tokenize",
        "run": "s3://b/archive", "recipe": "tiny", "shard": "train-000000",
    }  # fmt: skip


def test_the_context_travels_in_the_environment_without_the_mode(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv(job_log.MODE_VARIABLE, raising=False)
    monkeypatch.setenv(job_log.CONTEXT_VARIABLE, '{"run": "r"}')
    say("x", "y")
    assert told(capsys)[0]["run"] == "r" and job_log.worker_environment() == {job_log.CONTEXT_VARIABLE: '{"run": "r"}'}


def test_progress_is_counted_and_told_as_an_event(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in (job_log.MODE_VARIABLE, job_log.CONTEXT_VARIABLE, job_log.EVENTS_VARIABLE):
        monkeypatch.delenv(name, raising=False)
    now = [100.0]
    monkeypatch.setattr(job_log.time, "monotonic", lambda: now[0])
    progress = Progress("tokenize", total=3600, unit="s of audio", every_s=2)
    now[0] = 101.0
    progress.add(200, "too soon")
    now[0] = 104.0
    progress.add(1000, "1/3 shards")
    assert capsys.readouterr().err == "tokenize  1,200/3,600 s of audio · 300/s · 0:00:08 left · 1/3 shards\n"
    monkeypatch.setenv(job_log.EVENTS_VARIABLE, "1")
    progress.finish()
    (line,) = capsys.readouterr().err.splitlines()
    told = read_line(line)
    assert told.line == "tokenize  1,200/3,600 s of audio · 300/s · 0:00:08 left"
    assert told.reached == Reached("tokenize", "s of audio", 1200, 3600, 300, 8)
    progress.finish()
    assert not capsys.readouterr().err, "the same again"
    progress.add(200)
    progress.finish()
    assert "1,400/3,600" in capsys.readouterr().err


def test_a_json_line_of_progress_has_its_fields(json_lines: None, capsys: pytest.CaptureFixture[str]) -> None:
    reached = Reached("pretrain", "steps", 12, 400, 0.5, 776.0, {"loss": 0.3})
    tell(reached)
    text = capsys.readouterr().err
    assert {"done": 12, "total": 400, "unit": "steps", "figures": {"loss": 0.3}}.items() <= json.loads(text).items()
    assert read_line(text) == Told(text, reached)


@pytest.mark.parametrize(
    "line",
    [
        "shard  3 recordings", "", "{", '{"a": 1}', "[1]", "pretrain  step 3: 1/2", "a\x1fb", "a\x1f{}",
        "tokenize  60/240 s of audio · 12/s · 0:00:15 left",  # words are never read
    ],
)  # fmt: skip
def test_other_lines_are_no_progress(line: str) -> None:
    assert read_line(line) == Told(line)


@pytest.mark.parametrize(
    "prefix",
    ["(ShardEncoder pid=12) ", "\x1b[36m(MapWorker(Map(f)) pid=1, ip=10.0.0.2)\x1b[0m ", ""],
)
def test_a_worker_line_loses_rays_prefix(prefix: str) -> None:
    assert job_log.without_ray_prefix(prefix + '{"a": "(b pid=1) {"}') == '{"a": "(b pid=1) {"}'
    assert job_log.without_ray_prefix("(a pid=1) text") == "(a pid=1) text"


def test_library_warnings_have_the_same_form(json_lines: None) -> None:
    formatter = job_log.JsonFormatter()
    try:
        raise ValueError("why")
    except ValueError:
        record = logging.LogRecord("lib", logging.WARNING, "f", 1, "broke %s", ("x",), sys.exc_info())
    line = json.loads(formatter.format(record))
    assert (line["level"], line["stage"], line["message"]) == ("warning", "lib", "broke x")
    assert "ValueError: why" in line["exception"]


def test_a_whole_job_tells_json_and_still_its_error_line(tmp_path: Path) -> None:
    job = ShardJob(source=str(tmp_path / "absent"), out=str(tmp_path / "out"))
    finished = subprocess.run(
        [sys.executable, "-m", "syllabary.workers", "shard", job.model_dump_json()],
        env={**os.environ, job_log.MODE_VARIABLE: "json"}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    *lines, last = finished.stderr.splitlines()
    records = [json.loads(line) for line in lines]
    assert records and all(r["run"] == str(tmp_path / "out") and r["recipe"] == "tiny" for r in records)
    assert records[-1]["level"] == "error" and records[-1]["exit_code"] == finished.returncode == 2
    assert last == f"error: {records[-1]['message']}"
