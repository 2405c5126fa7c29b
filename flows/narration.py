"""Run a job inside a flow: each line it prints goes to the run's log, and to the terminal where one follows.

A job is a Prefect task. It is tried again where that may help (storage or the cluster was away, the job was killed) and
only there: a refused input, damaged data or a bug fails at once.
"""

from __future__ import annotations

import os
from contextlib import nullcontext
from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.logging import get_run_logger

from syllabary.flows import artifacts
from syllabary.shards.errors import JobError
from syllabary.workers.control.jobs import Job
from syllabary.workers.control.log import Told
from syllabary.workers.control.screen import on_screen
from syllabary.workers.control.submit import submit

ECHO_VARIABLE = "SYLLABARY_ECHO"
RETRY_DELAYS_S = [10.0, 60.0]
_SHOWN_LINES = 12


def run_job(job: Job) -> dict[str, Any]:
    """Submit a job from inside a flow and return its result; its progress is an artifact of the flow run.

    Raises:
        JobError: the job failed, also when it was tried again; the message is its own error line and, where nobody saw
            them on a terminal, its last lines: Prefect shows it as the state's message.
    """
    try:
        return _submit(job)
    except JobError as error:
        if os.environ.get(ECHO_VARIABLE):
            raise
        raise _with_last_lines(error) from error


def _may_pass(_task: object, _run: object, state: Any) -> bool:
    error = state.result(raise_on_failure=False)
    return isinstance(error, JobError) and error.may_pass


@task(
    name="job",
    task_run_name="{job.verb}",
    cache_policy=NO_CACHE,
    retries=len(RETRY_DELAYS_S),
    retry_delay_seconds=RETRY_DELAYS_S,
    retry_condition_fn=_may_pass,
)
def _submit(job: Job) -> dict[str, Any]:
    logger = get_run_logger()
    logger.info("job %s %s", job.verb, job.model_dump_json())
    bars = artifacts.ProgressBars()
    echoed = on_screen() if os.environ.get(ECHO_VARIABLE) else nullcontext()
    with echoed as echo:

        def tell(told: Told) -> None:
            logger.info("%s", told.line)
            if told.reached:
                bars.tell(told.reached)
            if echo:
                echo(told)

        try:
            result = submit(job, tell)
        except JobError as error:
            artifacts.failure(job.verb, error)
            if error.may_pass:
                tell(Told(f"{job.verb}  {error}"))
            raise
    bars.finish()
    return result


def _with_last_lines(error: JobError) -> JobError:
    last = "\n".join(error.last_lines[-_SHOWN_LINES:])
    told = JobError(f"{error}\n\nThe job's last lines:\n{last}" if last else str(error), error.last_lines)
    told.exit_code, told.may_pass = error.exit_code, error.may_pass
    return told
