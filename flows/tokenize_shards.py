"""A Ray Data job turns shards into Parquet parts, each exactly once."""

from __future__ import annotations

from typing import Any

from prefect import flow

from flows import artifacts
from flows.narration import run_job
from workers.jobs import StatusJob, TokenizeJob


@flow(name="tokenize-shards")
def tokenize_shards(shards: str, tokenizer: str, archive: str, num_workers: int | None = None) -> dict[str, Any]:
    """Tokenize the shards that have no part in ``archive`` yet."""
    result = run_job(TokenizeJob(shards=shards, tokenizer=tokenizer, archive=archive, num_workers=num_workers))
    artifacts.ledger("tokenize", artifacts.archive_rows(result))
    if result["num_quarantined"]:
        artifacts.reasons("tokenize", run_job(StatusJob(uri=archive))["outputs"][0]["failures"])
    artifacts.summary("tokenize", result, {"archive": archive})
    return result
