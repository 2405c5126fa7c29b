"""A job on a Ray cluster through its Jobs API: submitted or taken up again, followed line by line, stopped with us.

A submitter that is killed leaves its job running on the cluster. The one that comes next with the very same job takes
that one up instead of starting a second beside it, so that two drivers never work on one output.
"""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, TypeVar

from syllabary.shards.errors import InputError, JobError, UnavailableError
from syllabary.workers.control.jobs import LONGEST_ARGUMENT, Job
from syllabary.workers.control.log import job_environment
from syllabary.workers.control.patience import patiently

T = TypeVar("T")
POLL_S = 1.0
PATIENCE_S = 60.0
_STOP_S = 30.0
_LOG_BYTES_PER_POLL_S = 1 << 20


class RayJob:
    """One job of a cluster.

    Attributes:
        job_id: the submission id; the dashboard shows the job under it.
        taken_up: whether it was running before, left by a submitter that is gone.
    """

    def __init__(self, address: str, job: Job) -> None:
        """Submit ``job`` to the cluster whose dashboard is at ``address``, or find the same job already running there.

        Raises:
            JobError: the cluster cannot be reached; ``may_pass`` is set.
            InputError: the cluster refuses our token, or the job is longer than a command line may be.
        """
        self._address = address
        self._entrypoint = shlex.join(job.command())
        if len(self._entrypoint.encode()) > LONGEST_ARGUMENT:
            what, expected = "a job is too long for a cluster's command line, bytes", f"{LONGEST_ARGUMENT:,} or fewer"
            fix = "name fewer files or ids at once, or unset RAY_API_SERVER_ADDRESS"
            raise InputError(what, value=len(self._entrypoint.encode()), expected=expected, fix=fix)
        self._client = self._reached(lambda: _connect(address))
        self.job_id, self.taken_up = self._reached(self._find_or_submit)

    def lines(self) -> Iterator[str]:
        """The job's log, whole lines as they come, until the job has ended and its log is read out."""
        shown, ended = 0, False
        while not ended:
            ended = self._reached(lambda: self._client.get_job_status(self.job_id)).is_terminal()
            log = self._reached(lambda: self._client.get_job_logs(self.job_id))
            lines = log.split("\n")
            complete = lines if ended else lines[:-1]
            yield from complete[shown:]
            shown = len(complete)
            if not ended:
                time.sleep(POLL_S + len(log) / _LOG_BYTES_PER_POLL_S)  # each poll reads the log from its start

    def outcome(self) -> tuple[bool, int | None, str]:
        """Of an ended job: whether it succeeded, its exit status where the cluster knows it, and its state in words."""
        info = self._reached(lambda: self._client.get_job_info(self.job_id))
        status = str(getattr(info.status, "value", info.status))
        detail = f": {info.message}" if info.message else ""
        return status == "SUCCEEDED", info.driver_exit_code, f"Ray job {self.job_id} {status.lower()}{detail}"

    @contextmanager
    def stopped_with_us(self) -> Iterator[None]:
        """Stop the job when the block is left before the job has ended: cancelled, interrupted, or out of patience."""
        try:
            yield
        except BaseException:
            with suppress(Exception):  # the cluster may be what failed; the first error is the one to report
                self._stop()
            raise

    def _stop(self) -> None:
        self._client.stop_job(self.job_id)
        deadline = time.monotonic() + _STOP_S
        while not self._client.get_job_status(self.job_id).is_terminal() and time.monotonic() < deadline:
            time.sleep(0.2)

    def _find_or_submit(self) -> tuple[str, bool]:
        for submitted in self._client.list_jobs():
            if (
                submitted.submission_id
                and submitted.entrypoint == self._entrypoint
                and not submitted.status.is_terminal()
            ):
                return str(submitted.submission_id), True
        logs = {"env_vars": job_environment()}  # as this process logs, whatever the cluster's default
        return str(self._client.submit_job(entrypoint=self._entrypoint, runtime_env=logs)), False

    def _reached(self, call: Callable[[], T]) -> T:
        """What ``call`` gives, asked again for a minute while the cluster does not answer."""
        try:
            return patiently(
                lambda: self._asked(call), PATIENCE_S, passes=_is_away, wait_s=POLL_S, longest_wait_s=POLL_S
            )
        except UnavailableError as error:
            fix = "start it, or check RAY_API_SERVER_ADDRESS"
            raise JobError(str(error), fix=fix, may_pass=True) from error

    def _asked(self, call: Callable[[], T]) -> T:
        import requests
        from ray.exceptions import AuthenticationError

        try:
            return call()
        except AuthenticationError as error:
            fix = "set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN_PATH to the cluster's token file"
            raise InputError("the Ray cluster refuses us", value=self._address, fix=fix) from error
        except (requests.exceptions.RequestException, OSError, RuntimeError) as error:
            # RuntimeError is how Ray's client reports every other HTTP status
            if isinstance(error, RuntimeError) and ("does not exist" in str(error) or "404" in str(error)):
                what = f"the Ray cluster at {self._address} has lost the job"
                raise JobError(what, fix="run again: it goes on where it was", may_pass=True) from error
            reason = str(error).splitlines()[0][:200]
            raise UnavailableError(f"the Ray cluster at {self._address} does not answer ({reason})") from error


def _is_away(error: Exception) -> bool:
    return isinstance(error, UnavailableError)


def _connect(address: str) -> Any:
    from ray.job_submission import JobSubmissionClient

    return JobSubmissionClient(address)
