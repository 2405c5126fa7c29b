"""Submitting a job: as a subprocess, or to a Ray cluster through its Jobs API. Free of torch; ray only to submit.

A job runs as ``python -m syllabary.workers VERB '<json>'`` either way and hands back the one result line it prints. The
cluster is named by RAY_API_SERVER_ADDRESS (Ray's own variable, ``http://host:8265``); unset, the job is a subprocess
with an embedded Ray, and dies with its submitter. Either way a submitter that is cancelled takes its job with it.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
from collections import deque
from collections.abc import Callable, Iterator
from typing import IO, Any

from syllabary.shards.errors import JobError, UnavailableError
from syllabary.workers.control.jobs import LONGEST_ARGUMENT, ON_STANDARD_INPUT, RESULT_PREFIX, Job
from syllabary.workers.control.log import Told, job_environment, read_line, without_ray_prefix
from syllabary.workers.control.processes import parent_environment
from syllabary.workers.control.screen import on_screen

OnTold = Callable[[Told], None]
_KEPT_LINES = 30
_ERROR_PREFIX = "error: "
_HIGHEST_OWN_STATUS = 128  # above it a shell reports the signal that ended a command


def submit(job: Job, on_told: OnTold | None = None) -> dict[str, Any]:
    """Run a job to its end and return its result.

    Each line that it prints goes to ``on_told``; by default to standard error, with a bar per stage on a terminal.

    Raises:
        JobError: the job failed; the message is the job's own error line, with its last lines attached.
    """
    if on_told is None:
        with on_screen() as show:
            return submit(job, show)
    address = os.environ.get("RAY_API_SERVER_ADDRESS")
    if address and not job.stays_here:
        return _run_on_cluster(job, address, on_told)
    return _run_as_subprocess(job, on_told)


def _run_as_subprocess(job: Job, on_told: OnTold) -> dict[str, Any]:
    with _given(job) as (command, stdin):
        process = subprocess.Popen(
            command,
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=parent_environment() | job_environment(),
            text=True,
            errors="replace",
        )
    assert process.stdout is not None
    with _ended_with_us(process):
        result, last_lines = _follow((line.rstrip("\n") for line in process.stdout), on_told)
        status = process.wait()
    if status != 0 or result is None:
        raise _failure(job, f"exit status {status}", last_lines, status)
    return result


@contextlib.contextmanager
def _given(job: Job) -> Iterator[tuple[list[str], IO[bytes] | int]]:
    """A job's command line and standard input: it reads from there what is too long for an argument, many files say."""
    command = job.command(sys.executable)
    text = command[-1].encode()
    if len(text) <= LONGEST_ARGUMENT:
        yield command, subprocess.DEVNULL
        return
    with tempfile.TemporaryFile() as file:
        file.write(text)
        file.seek(0)
        yield [*command[:-1], ON_STANDARD_INPUT], file


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


def _run_on_cluster(job: Job, address: str, on_told: OnTold) -> dict[str, Any]:
    from syllabary.workers.control.cluster_job import RayJob

    running = RayJob(address, job)
    on_told(Told(f"{job.verb}  is Ray job {running.job_id}{', still running from before' if running.taken_up else ''}"))
    with running.stopped_with_us():
        result, last_lines = _follow(running.lines(), on_told)
    succeeded, status, how = running.outcome()
    if not succeeded or result is None:
        raise _failure(job, how, last_lines, status)
    return result


def _follow(lines: Iterator[str], on_told: OnTold) -> tuple[dict[str, Any] | None, deque[str]]:
    """Pass lines on, keep the last ones, and pick out the result."""
    result, last_lines = None, deque[str](maxlen=_KEPT_LINES)
    for line in lines:
        if line.startswith(RESULT_PREFIX):
            result = json.loads(line.removeprefix(RESULT_PREFIX))
            continue
        told = read_line(without_ray_prefix(line))
        last_lines.append(told.line)
        if not line.startswith(_ERROR_PREFIX):
            on_told(told)
    return result, last_lines


def _failure(job: Job, how: str, last_lines: deque[str], status: int | None) -> JobError:
    """The job's own error line where it has one, else how it ended and its last line.

    ``status`` is None where a cluster does not know it: the job was stopped, or its node is gone.
    """
    lines = tuple(line for line in last_lines if line.strip())
    own = [line.removeprefix(_ERROR_PREFIX) for line in lines if line.startswith(_ERROR_PREFIX)]
    last = lines[-1] if lines else "it printed nothing"
    was_killed = status is None or status < 0 or status > _HIGHEST_OWN_STATUS
    error = JobError(
        own[-1] if own else f"job {job.verb} failed ({how}): {last}",
        lines,
        may_pass=status == UnavailableError.exit_code or (was_killed and not own),
    )
    error.exit_code = status if own and status is not None and status > 0 else 1
    return error
