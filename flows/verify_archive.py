"""The scrub: every byte of an archive against its checksums."""

from __future__ import annotations

from typing import Any

from syllabary.flows import artifacts
from syllabary.flows.job_flow import job_flow
from syllabary.flows.narration import run_job
from syllabary.flows.output_lock import output_lock
from syllabary.shards import store
from syllabary.shards.archive.verified import RECORD
from syllabary.workers.control.jobs import VerifyJob


@job_flow
def verify_archive(job: VerifyJob) -> dict[str, Any]:
    """Verify ``archive``, and its coverage of ``shards`` when given; damage fails the flow and is named."""
    with output_lock(store.join(job.archive, RECORD)):  # all it writes: others may go on with the archive itself
        result = run_job(job)
    artifacts.summary("verify", result, {"archive": job.archive})
    return result
