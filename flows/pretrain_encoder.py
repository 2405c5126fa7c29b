"""Stage 1: a Ray Train job trains the JEPA encoder."""

from __future__ import annotations

from typing import Any

from prefect import flow

from flows import artifacts
from flows.narration import run_job
from shards import store
from workers.jobs import PretrainJob


@flow(name="pretrain-encoder")
def pretrain_encoder(
    shards: str, out: str, recipe: str = "tiny", config: str | None = None, overrides: tuple[str, ...] = ()
) -> dict[str, Any]:
    """Train the encoder on ``shards``; a run cut short goes on from its newest whole checkpoint."""
    result = run_job(PretrainJob(shards=shards, out=out, recipe=recipe, config=config, overrides=overrides))
    artifacts.picture("pretrain", "loss", store.join(out, "curves", "loss.png"))
    artifacts.summary("pretrain", result, {"run": out})
    return result
