"""How a flow tells what its job prints: every line goes to the flow run's log, and to the terminal when one asked."""

from __future__ import annotations

import os
import sys
from typing import Any

from prefect.logging import get_run_logger

from flows import artifacts
from shards.errors import JobError
from workers.job_log import without_ray_prefix
from workers.jobs import Job
from workers.submit import submit

ECHO_VARIABLE = "SYLLABARY_ECHO"


def run_job(job: Job) -> dict[str, Any]:
    """Submit a job from inside a flow and return its result; its progress is an artifact of the flow run.

    Raises:
        JobError: the job failed; its last lines are in the flow run's log and its own error line is the message.
    """
    logger = get_run_logger()
    logger.info("job %s %s", job.module, job.model_dump_json())
    bars = artifacts.ProgressBars()

    def tell(line: str) -> None:
        line = without_ray_prefix(line)
        logger.info("%s", line)
        bars.tell(line)
        if os.environ.get(ECHO_VARIABLE):
            sys.stderr.write(line + "\n")
            sys.stderr.flush()

    try:
        result = submit(job, tell)
    except JobError as error:
        artifacts.failure(job.module, error)
        raise
    bars.finish()
    return result
