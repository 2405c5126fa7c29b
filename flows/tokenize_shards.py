"""A Ray Data job turns shards into Parquet parts, each exactly once."""

from __future__ import annotations

from typing import Any

from syllabary.flows import artifacts
from syllabary.flows.job_flow import job_flow
from syllabary.flows.narration import run_job
from syllabary.flows.output_lock import output_lock
from syllabary.workers.control.jobs import StatusJob, TokenizeJob


@job_flow
def tokenize_shards(job: TokenizeJob) -> dict[str, Any]:
    """Tokenize the shards that have no part in ``archive`` yet."""
    with output_lock(job.archive):
        result = run_job(job)
    artifacts.ledger("tokenize", artifacts.archive_rows(result))
    if result["num_quarantined"]:
        artifacts.reasons("tokenize", run_job(StatusJob(uri=job.archive))["outputs"][0]["failures"])
    artifacts.summary("tokenize", result, {"archive": job.archive})
    return result
