"""Speech becomes WebDataset shards with an index and a ledger."""

from __future__ import annotations

from typing import Any

from syllabary.flows import artifacts
from syllabary.flows.job_flow import job_flow
from syllabary.flows.narration import run_job
from syllabary.flows.output_lock import output_lock
from syllabary.workers.control.jobs import ShardJob


@job_flow
def shard_corpus(job: ShardJob) -> dict[str, Any]:
    """Shard the speech at ``source`` into ``out``; what is there already stays as it is."""
    with output_lock(job.out):
        result = run_job(job)
    artifacts.ledger("shard", result["ledger"])
    artifacts.summary("shard", result, {"shards": job.out})
    return result
