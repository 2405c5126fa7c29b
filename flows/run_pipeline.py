"""The whole pipeline: shards, both trainings, tokens, verification, some sound back, and a summary."""

from __future__ import annotations

from typing import Annotated, Any

from prefect import flow
from pydantic import Field

from syllabary.flows import artifacts
from syllabary.flows.narration import run_job
from syllabary.flows.output_lock import output_lock
from syllabary.flows.parameters import ConfigFile, Out, Overrides, RecipeName, Source
from syllabary.flows.pretrain_encoder import pretrain_encoder
from syllabary.flows.restore_audio import restore_audio
from syllabary.flows.shard_corpus import shard_corpus
from syllabary.flows.tokenize_shards import tokenize_shards
from syllabary.flows.train_tokenizer import train_tokenizer
from syllabary.flows.verify_archive import verify_archive
from syllabary.shards import outputs, store
from syllabary.workers.control.jobs import FetchDemoJob, ReportJob
from syllabary.workers.control.run_layout import PipelineLayout, claim_run
from syllabary.workers.control.timings import timed
from syllabary.workers.recipes.recipe import resolve


@flow(name="run-pipeline")
def run_pipeline(
    source: Source | None = None,
    out: Out = "runs/demo",
    recipe: RecipeName = "tiny",
    config: ConfigFile | None = None,
    overrides: Overrides = (),
    num_restored: Annotated[int, Field(ge=1)] = 8,
) -> dict[str, Any]:
    """Run every stage that is not done yet below ``out``; without ``source`` the demo speech is fetched.

    Idempotent: a finished stage only says so, and a killed one goes on where it was.

    Args:
        source: Folder or URI of speech; empty for the demo speech.
        out: Folder or URI that receives every stage.
        recipe: A named configuration; `syllabary show NAME` says what it is and costs.
        config: URI of a YAML file laid over the recipe.
        overrides: key=value, over recipe and file.
        num_restored: How many held-out utterances are restored to listen to.
    """
    with output_lock(out):
        return _run_stages(source, PipelineLayout(out), num_restored, recipe=recipe, config=config, overrides=overrides)


def _run_stages(source: str | None, layout: PipelineLayout, num_restored: int, **choice: Any) -> dict[str, Any]:
    claim_run(layout, source, resolve(choice["recipe"], config_uri=choice["config"], overrides=choice["overrides"]))
    if source is None:
        run_job(FetchDemoJob(out=layout.corpus))
        source = layout.corpus
    with timed(layout.root, "shard", layout.shards):
        shard_corpus(source, layout.shards, hold_out="recordings_if_no_speaker", **choice)
    pretrain_encoder(layout.shards, layout.pretrain, **choice)
    train_tokenizer(layout.shards, layout.pretrain, layout.codec, layout.tokenizer, **choice)
    with timed(layout.root, "tokenize", layout.archive):
        tokenize_shards(layout.shards, layout.tokenizer, layout.archive)
    verify_archive(layout.archive, layout.shards)
    with timed(layout.root, "restore", layout.restored):
        restore_audio(layout.archive, layout.tokenizer, layout.restored, where="split = 'valid'", limit=num_restored)
    summary = run_job(ReportJob(run=store.normalize(layout.root), **layout.stages()))
    outputs.mark_done(store.normalize(layout.root), summary)
    artifacts.summary("pipeline", summary["headline"], {"run": layout.root, **layout.stages()})
    return summary
