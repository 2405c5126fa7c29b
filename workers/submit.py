"""Submitting a job: as a subprocess, or to a Ray cluster through its Jobs API. Free of torch; ray only to submit.

A job runs as ``python -m workers.<module> '<json>'`` either way and hands back the one result line it prints. The
cluster is named by RAY_API_SERVER_ADDRESS (Ray's own variable, ``http://host:8265``); unset, the job is a subprocess
with an embedded Ray, and dies with its submitter.
"""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

from shards.errors import JobError
from workers.jobs import RESULT_PREFIX, Job
from workers.lifetime import parent_environment

OnLine = Callable[[str], None]
_KEPT_LINES = 30
_ERROR_PREFIX = "error: "


def submit(job: Job, on_line: OnLine | None = None) -> dict[str, Any]:
    """Run a job to its end and return its result; each line it prints goes to ``on_line`` (default: standard error).

    Raises:
        JobError: the job failed; the message is the job's own error line, with its last lines attached.
    """
    on_line = on_line or _print_line
    if address := os.environ.get("RAY_API_SERVER_ADDRESS"):
        return _run_on_cluster(job, address, on_line)
    return _run_as_subprocess(job, on_line)


def _print_line(line: str) -> None:
    sys.stderr.write(line + "\n")
    sys.stderr.flush()


def _run_as_subprocess(job: Job, on_line: OnLine) -> dict[str, Any]:
    command = [sys.executable, "-m", f"workers.{job.module}", job.model_dump_json()]
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=parent_environment(),
        text=True,
        errors="replace",
    )
    assert process.stdout is not None
    with _ended_with_us(process):
        result, last_lines = _follow((line.rstrip("\n") for line in process.stdout), on_line)
        status = process.wait()
    if status != 0 or result is None:
        raise _failure(job, f"exit status {status}", last_lines, status)
    return result


@contextlib.contextmanager
def _ended_with_us(process: subprocess.Popen[str]) -> Iterator[None]:
    """Leave no job behind when the submitter is interrupted or cancelled."""
    try:
        yield
    except BaseException:
        process.terminate()
        try:
            process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        raise


def _run_on_cluster(job: Job, address: str, on_line: OnLine) -> dict[str, Any]:
    from ray.job_submission import JobStatus, JobSubmissionClient

    client = JobSubmissionClient(address)
    entrypoint = shlex.join(["python", "-m", f"workers.{job.module}", job.model_dump_json()])
    job_id = client.submit_job(entrypoint=entrypoint)
    result, last_lines = None, deque[str](maxlen=_KEPT_LINES)
    try:
        result, last_lines = _follow(_cluster_lines(client, job_id), on_line)
    finally:
        if not client.get_job_status(job_id).is_terminal():
            client.stop_job(job_id)
    status = client.get_job_status(job_id)
    if status != JobStatus.SUCCEEDED or result is None:
        raise _failure(job, f"Ray job {job_id} {status.value.lower()}", last_lines, 1)
    return result


def _cluster_lines(client: Any, job_id: str, every_s: float = 1.0) -> Iterator[str]:
    """The job's log, whole lines as they come, until the job has ended and its log is read out."""
    shown, ended = 0, False
    while not ended:
        ended = client.get_job_status(job_id).is_terminal()
        lines = client.get_job_logs(job_id).split("\n")
        complete = lines if ended else lines[:-1]
        yield from complete[shown:]
        shown = len(complete)
        if not ended:
            time.sleep(every_s)


def _follow(lines: Iterator[str], on_line: OnLine) -> tuple[dict[str, Any] | None, deque[str]]:
    """Pass lines on, keep the last ones, and pick out the result."""
    result, last_lines = None, deque[str](maxlen=_KEPT_LINES)
    for line in lines:
        if line.startswith(RESULT_PREFIX):
            result = json.loads(line.removeprefix(RESULT_PREFIX))
            continue
        last_lines.append(line)
        if not line.startswith(_ERROR_PREFIX):
            on_line(line)
    return result, last_lines


def _failure(job: Job, how: str, last_lines: deque[str], exit_code: int) -> JobError:
    """The job's own error line where it has one, else how it ended and its last line."""
    lines = tuple(line for line in last_lines if line.strip())
    own = [line.removeprefix(_ERROR_PREFIX) for line in lines if line.startswith(_ERROR_PREFIX)]
    last = lines[-1] if lines else "it printed nothing"
    error = JobError(own[-1] if own else f"job {job.module} failed ({how}): {last}", lines)
    error.exit_code = exit_code if own and exit_code > 0 else 1
    return error
