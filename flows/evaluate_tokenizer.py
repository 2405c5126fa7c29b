"""A report card of a tokenizer on held-out speech."""

from __future__ import annotations

from typing import Annotated, Any

from prefect import flow
from pydantic import Field

from syllabary.flows import artifacts
from syllabary.flows.narration import run_job
from syllabary.flows.output_lock import output_lock
from syllabary.flows.parameters import NumWorkers, Out, Shards, Tokenizer, Transcripts
from syllabary.shards import store
from syllabary.workers.control.jobs import EvaluateJob

Limit = Annotated[int | None, Field(ge=1)]
Metrics = Annotated[tuple[str, ...], Field(examples=[["estoi", "wer_self"]])]


@flow(name="evaluate-tokenizer")
def evaluate_tokenizer(
    tokenizer: Tokenizer,
    shards: Shards,
    out: Out,
    limit: Limit = None,
    metrics: Metrics = (),
    transcripts: Transcripts | None = None,
    num_workers: NumWorkers = None,
) -> dict[str, Any]:
    """Score ``tokenizer`` beside baselines on the held-out splits of ``shards``; what is scored already stays.

    Args:
        tokenizer: URI of a tokenizer directory.
        shards: URI of the WebDataset shards.
        out: URI that receives the report; an output of another evaluation is refused.
        limit: At most so many utterances, spread over the speakers; empty for all.
        metrics: Only these metrics; empty for all.
        transcripts: URI of a table of what is said; empty for none.
        num_workers: At most so many processes at once; empty for all that the cluster has.
    """
    job = EvaluateJob(
        tokenizer=tokenizer,
        shards=shards,
        out=out,
        limit=limit,
        metrics=metrics,
        transcripts=transcripts,
        num_workers=num_workers,
    )
    with output_lock(out):
        result = run_job(job)
    artifacts.summary("evaluate", result, {"report": store.join(out, str(result["report"]))})
    return result
