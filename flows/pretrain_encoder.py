"""Stage 1: a Ray Train job trains the JEPA encoder."""

from __future__ import annotations

from typing import Any

from syllabary.flows import artifacts
from syllabary.flows.job_flow import job_flow
from syllabary.flows.narration import run_job
from syllabary.flows.output_lock import output_lock
from syllabary.shards import store
from syllabary.workers.control.jobs import PretrainJob


@job_flow
def pretrain_encoder(job: PretrainJob) -> dict[str, Any]:
    """Train the encoder on ``shards``; a run cut short goes on from its newest whole checkpoint."""
    with output_lock(job.out):
        result = run_job(job)
    artifacts.picture("pretrain", "loss", store.join(job.out, "curves", "loss.png"))
    artifacts.summary("pretrain", result, {"run": job.out})
    return result
