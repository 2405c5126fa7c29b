"""A Ray Data job turns shards into Parquet parts, each exactly once."""

from __future__ import annotations

from typing import Any

from prefect import flow

from syllabary.flows import artifacts
from syllabary.flows.narration import run_job
from syllabary.flows.output_lock import output_lock
from syllabary.flows.parameters import Archive, NumWorkers, Shards, Tokenizer
from syllabary.workers.control.jobs import StatusJob, TokenizeJob


@flow(name="tokenize-shards")
def tokenize_shards(
    shards: Shards, tokenizer: Tokenizer, archive: Archive, num_workers: NumWorkers = None
) -> dict[str, Any]:
    """Tokenize the shards that have no part in ``archive`` yet.

    Args:
        shards: URI of the WebDataset shards.
        tokenizer: URI of a tokenizer directory.
        archive: URI that receives the tokens, or holds a part of them already.
        num_workers: At most so many processes at once; empty for all that the cluster has.
    """
    with output_lock(archive):
        result = run_job(TokenizeJob(shards=shards, tokenizer=tokenizer, archive=archive, num_workers=num_workers))
    artifacts.ledger("tokenize", artifacts.archive_rows(result))
    if result["num_quarantined"]:
        artifacts.reasons("tokenize", run_job(StatusJob(uri=archive))["outputs"][0]["failures"])
    artifacts.summary("tokenize", result, {"archive": archive})
    return result
