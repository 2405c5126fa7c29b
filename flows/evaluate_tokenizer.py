"""A report card of a tokenizer on held-out speech."""

from __future__ import annotations

from typing import Any

from prefect import flow

from flows.narration import run_job
from workers.jobs import EvaluateJob


@flow(name="evaluate-tokenizer")
def evaluate_tokenizer(
    tokenizer: str,
    shards: str,
    out: str,
    limit: int | None = None,
    metrics: tuple[str, ...] = (),
    transcripts: str | None = None,
    num_workers: int | None = None,
) -> dict[str, Any]:
    """Score ``tokenizer`` beside baselines on the held-out splits of ``shards``; what is scored already stays."""
    return run_job(
        EvaluateJob(
            tokenizer=tokenizer,
            shards=shards,
            out=out,
            limit=limit,
            metrics=metrics,
            transcripts=transcripts,
            num_workers=num_workers,
        )
    )
