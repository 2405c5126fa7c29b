"""A report card of a tokenizer on held-out speech."""

from __future__ import annotations

from typing import Any

from syllabary.flows import artifacts
from syllabary.flows.job_flow import job_flow
from syllabary.flows.narration import run_job
from syllabary.flows.output_lock import output_lock
from syllabary.shards import store
from syllabary.workers.control.jobs import EvaluateJob


@job_flow
def evaluate_tokenizer(job: EvaluateJob) -> dict[str, Any]:
    """Score ``tokenizer`` beside baselines on the held-out splits of ``shards``; what is scored already stays."""
    with output_lock(job.out):
        result = run_job(job)
    artifacts.summary("evaluate", result, {"report": store.join(job.out, str(result["report"]))})
    return result
