"""Submission as a subprocess: the result, the error line, the last lines, and no orphan."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

import psutil
import pytest

from syllabary.shards.errors import InputError, JobError
from syllabary.workers.control import submit as submit_module
from syllabary.workers.control.jobs import EncodeJob, Job, ListenJob, VerifyJob
from syllabary.workers.control.log import MODE_VARIABLE, Reached, Told
from syllabary.workers.control.submit import submit

WORKER = """
import os, sys, time
from typing import ClassVar
from syllabary.shards.errors import InputError, UnavailableError
from syllabary.workers.control.log import say
from syllabary.workers.control.log import Reached, tell
from syllabary.workers.control.jobs import Job

class ProbeJob(Job):
    verb: ClassVar[str] = "probe_for_tests"
    runs: ClassVar[str] = "probe_for_tests:probe"
    how: str
    note: str = ""

def probe(job):
    print("chatter of a library")
    say("probe", "working")
    if job.how == "progress":
        tell(Reached("probe", "s of audio", 60, 240, 12.5, 14.4, {"loss": 0.25}, "a\\x1f{}/b"))
    if job.how == "refuse":
        raise InputError("no speech: 'x'; expected a folder")
    if job.how == "away":
        raise UnavailableError("cannot read")
    if job.how == "killed":
        os.kill(os.getpid(), 9)
    if job.how == "crash":
        raise RuntimeError("boom")
    if job.how == "sleep":
        open(job.note, "w").write(str(os.getpid()))
        time.sleep(600)
    return {"how": job.how}
"""


class ProbeJob(Job):
    verb: ClassVar[str] = "probe_for_tests"
    runs: ClassVar[str] = "probe_for_tests:probe"
    how: str
    note: str = ""


@pytest.fixture
def probe(add_worker: Callable[[str, str], None], tmp_path: Path) -> Path:
    """A worker module of the tests' own, found beside the real ones."""
    add_worker("probe_for_tests", WORKER)
    return tmp_path


def test_the_result_comes_back_and_the_chatter_is_passed_on(probe: Path) -> None:
    told: list[Told] = []
    assert submit(ProbeJob(how="work"), told.append) == {"how": "work"}
    assert told == [Told("chatter of a library"), Told("probe  working")]


@pytest.mark.parametrize("mode", ["text", "json"])
def test_progress_comes_back_as_an_event_beside_its_line(
    mode: str, probe: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(MODE_VARIABLE, mode)
    told: list[Told] = []
    submit(ProbeJob(how="progress"), told.append)
    (one,) = [one for one in told if one.reached]
    assert one.reached == Reached("probe", "s of audio", 60, 240, 12.5, 14.4, {"loss": 0.25}, "a\x1f{}/b")
    shown = json.loads(one.line)["message"] if mode == "json" else one.line.removeprefix("probe  ")
    assert shown == "60/240 s of audio · loss 0.2500 · 12/s · 0:00:14 left · a\x1f{}/b"


def test_a_job_too_long_for_an_argument_is_read_from_standard_input(probe: Path) -> None:
    assert submit(ProbeJob(how="work", note="é" * 150_000), lambda told: None) == {"how": "work"}


def test_a_name_that_json_cannot_say_is_refused_before_anything_runs() -> None:
    with pytest.raises(
        InputError, match=r"a name that is not UTF-8: 'b\\udcff.wav'; rename the file, or give the folder"
    ):
        submit(EncodeJob(files=("a.wav", os.fsdecode(b"b\xff.wav"))), lambda told: None)


def test_a_refusal_is_the_jobs_own_line_and_exit_code(probe: Path) -> None:
    with pytest.raises(JobError) as caught:
        submit(ProbeJob(how="refuse"), lambda told: None)
    assert str(caught.value) == "no speech: 'x'; expected a folder"
    assert caught.value.exit_code == 2


def test_a_crash_names_the_job_and_keeps_its_last_lines(probe: Path) -> None:
    with pytest.raises(JobError, match=r"job probe_for_tests failed \(exit status 1\): RuntimeError: boom") as caught:
        submit(ProbeJob(how="crash"), lambda told: None)
    assert "probe  working" in caught.value.last_lines
    assert caught.value.exit_code == 1


@pytest.mark.parametrize(("how", "may_pass"), [("refuse", False), ("crash", False), ("away", True), ("killed", True)])
def test_only_what_may_pass_is_worth_another_try(probe: Path, how: str, may_pass: bool) -> None:
    with pytest.raises(JobError) as caught:
        submit(ProbeJob(how=how), lambda told: None)
    assert caught.value.may_pass == may_pass


def test_a_job_dies_with_its_submitter(probe: Path) -> None:
    pid_file = probe / "pid"
    code = (
        "from tests_probe import ProbeJob; from syllabary.workers.control.submit import submit; "
        f"submit(ProbeJob(how='sleep', note={str(pid_file)!r}))"
    )
    (probe / "tests_probe.py").write_text(
        "from typing import ClassVar\nfrom syllabary.workers.control.jobs import Job\n"
        "class ProbeJob(Job):\n    verb: ClassVar[str] = 'probe_for_tests'\n    how: str\n    note: str = ''\n"
    )
    submitter = subprocess.Popen([sys.executable, "-c", code], env=os.environ)
    job = _wait_for_pid(pid_file)
    submitter.send_signal(signal.SIGKILL)
    submitter.wait()
    _, alive = psutil.wait_procs([job], timeout=10)
    assert not alive


def _wait_for_pid(path: Path) -> psutil.Process:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        if path.exists() and path.read_text():
            return psutil.Process(int(path.read_text()))
        time.sleep(0.05)
    raise AssertionError("the job never started")


def test_a_job_that_serves_the_person_here_never_goes_to_a_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", "http://10.0.0.1:8265")
    monkeypatch.setattr(submit_module, "_run_as_subprocess", lambda job, on_told: {"ran": "here"})
    monkeypatch.setattr(submit_module, "_run_on_cluster", lambda job, address, on_told: {"ran": address})
    assert submit_module.submit(ListenJob(archive="a")) == {"ran": "here"}
    assert submit_module.submit(VerifyJob(archive="a")) == {"ran": "http://10.0.0.1:8265"}
