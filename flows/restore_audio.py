"""Audio back from an archive."""

from __future__ import annotations

from typing import Any

from syllabary.flows import artifacts
from syllabary.flows.job_flow import job_flow
from syllabary.flows.narration import run_job
from syllabary.flows.output_lock import output_lock
from syllabary.shards import store
from syllabary.workers.control.jobs import RestoreJob


@job_flow
def restore_audio(job: RestoreJob) -> dict[str, Any]:
    """Restore what is selected (all without a selection) into ``out``; a time range needs a recording."""
    with output_lock(job.out):
        result = run_job(job)
    artifacts.samples("restore", store.join(job.out, "audio"))
    artifacts.summary("restore", result, {"audio": job.out})
    return result
