"""The whole pipeline: shards, both trainings, tokens, verification, some sound back, and a summary."""

from __future__ import annotations

from typing import Any

from prefect import flow

from flows import artifacts
from flows.narration import run_job
from flows.pretrain_encoder import pretrain_encoder
from flows.restore_audio import restore_audio
from flows.shard_corpus import shard_corpus
from flows.tokenize_shards import tokenize_shards
from flows.train_tokenizer import train_tokenizer
from flows.verify_archive import verify_archive
from shards import outputs, store
from workers.jobs import FetchDemoJob, ReportJob
from workers.pipeline_layout import PipelineLayout, claim_run
from workers.recipes import resolve


@flow(name="run-pipeline")
def run_pipeline(
    source: str | None = None,
    out: str = "runs/demo",
    recipe: str = "tiny",
    config: str | None = None,
    overrides: tuple[str, ...] = (),
    num_restored: int = 8,
) -> dict[str, Any]:
    """Run every stage that is not done yet below ``out``; without ``source`` the demo speech is fetched.

    Idempotent: a finished stage only says so, and a killed one goes on where it was.
    """
    layout = PipelineLayout(out)
    claim_run(layout, source, resolve(recipe, config_uri=config, overrides=overrides))
    if source is None:
        run_job(FetchDemoJob(out=layout.corpus))
        source = layout.corpus
    choice: dict[str, Any] = {"recipe": recipe, "config": config, "overrides": overrides}
    shard_corpus(source, layout.shards, hold_out="recordings_if_no_speaker", **choice)
    pretrain_encoder(layout.shards, layout.pretrain, **choice)
    train_tokenizer(layout.shards, layout.pretrain, layout.codec, layout.tokenizer, **choice)
    tokenize_shards(layout.shards, layout.tokenizer, layout.archive)
    verify_archive(layout.archive, layout.shards)
    restore_audio(layout.archive, layout.tokenizer, layout.restored, where="split = 'valid'", limit=num_restored)
    summary = run_job(ReportJob(run=store.normalize(out), **layout.stages()))
    outputs.mark_done(store.normalize(out), summary)
    artifacts.summary("pipeline", summary["headline"], {"run": out, **layout.stages()})
    return summary
