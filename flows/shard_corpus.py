"""Speech becomes WebDataset shards with an index and a ledger."""

from __future__ import annotations

from typing import Any

from prefect import flow

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
) -> dict[str, Any]:
    """Shard the speech at ``source`` into ``out``; what is there already stays as it is."""
    return run_job(
        ShardJob(source=source, out=out, recipe=recipe, config=config, overrides=overrides, num_workers=num_workers)
    )
