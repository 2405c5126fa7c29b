"""Stage 2: a Ray Train job trains FSQ and decoder, then the tokenizer directory is written."""

from __future__ import annotations

from typing import Any

from prefect import flow

from flows import artifacts
from flows.narration import run_job
from shards import store
from workers.jobs import ExportJob, TrainCodecJob


@flow(name="train-tokenizer")
def train_tokenizer(
    shards: str,
    encoder: str,
    out: str,
    tokenizer: str,
    recipe: str = "tiny",
    config: str | None = None,
    overrides: tuple[str, ...] = (),
) -> dict[str, Any]:
    """Train the codec for the stage-1 run at ``encoder`` and export it to the directory ``tokenizer``."""
    training = run_job(
        TrainCodecJob(shards=shards, encoder=encoder, out=out, recipe=recipe, config=config, overrides=overrides)
    )
    exported = run_job(ExportJob(codec=out, out=tokenizer))
    artifacts.picture("train-codec", "mrstft", store.join(out, "curves", "mrstft.png"))
    artifacts.samples("train-codec", store.join(out, "samples"))
    artifacts.summary("train-codec", {**training, **exported}, {"run": out, "tokenizer": tokenizer})
    return {"training": training, "tokenizer": exported}
