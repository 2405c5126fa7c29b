"""Speech becomes WebDataset shards with an index and a ledger."""

from __future__ import annotations

from typing import Any, Literal

from prefect import flow

from flows import artifacts
from flows.narration import run_job
from workers.jobs import ShardJob


@flow(name="shard-corpus")
def shard_corpus(
    source: str,
    out: str,
    recipe: str = "tiny",
    config: str | None = None,
    overrides: tuple[str, ...] = (),
    num_workers: int | None = None,
    hold_out: Literal["as_configured", "recordings_if_no_speaker"] = "as_configured",
) -> dict[str, Any]:
    """Shard the speech at ``source`` into ``out``; what is there already stays as it is."""
    result = run_job(
        ShardJob(
            source=source,
            out=out,
            recipe=recipe,
            config=config,
            overrides=overrides,
            num_workers=num_workers,
            hold_out=hold_out,
        )
    )
    artifacts.ledger("shard", result["ledger"])
    artifacts.summary("shard", result, {"shards": out})
    return result
