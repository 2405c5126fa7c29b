"""How a flow tells what its job prints: every line goes to the flow run's log, and to the terminal when one asked."""

from __future__ import annotations

import os
import sys
from typing import Any

from prefect.logging import get_run_logger

from workers.jobs import Job
from workers.submit import submit

ECHO_VARIABLE = "SYLLABARY_ECHO"


def run_job(job: Job) -> dict[str, Any]:
    """Submit a job from inside a flow and return its result.

    Raises:
        JobError: the job failed; its last lines are in the flow run's log and its own error line is the message.
    """
    logger = get_run_logger()
    logger.info("job %s %s", job.module, job.model_dump_json())

    def tell(line: str) -> None:
        logger.info("%s", line)
        if os.environ.get(ECHO_VARIABLE):
            sys.stderr.write(line + "\n")
            sys.stderr.flush()

    return submit(job, tell)
