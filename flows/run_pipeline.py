"""The whole pipeline: shards, both trainings, tokens, verification, some sound back, and a summary."""

from __future__ import annotations

from typing import Any

from syllabary.flows import artifacts
from syllabary.flows.job_flow import job_flow
from syllabary.flows.narration import run_job
from syllabary.flows.output_lock import output_lock
from syllabary.flows.pretrain_encoder import pretrain_encoder
from syllabary.flows.restore_audio import restore_audio
from syllabary.flows.shard_corpus import shard_corpus
from syllabary.flows.tokenize_shards import tokenize_shards
from syllabary.flows.train_tokenizer import train_tokenizer
from syllabary.flows.verify_archive import verify_archive
from syllabary.shards import outputs, store
from syllabary.workers.control.jobs import FetchDemoJob, PipelineParameters, RecipeParameters, SummaryJob
from syllabary.workers.control.run_layout import PipelineLayout, claim_run
from syllabary.workers.control.timings import timed
from syllabary.workers.recipes.recipe import resolve


@job_flow
def run_pipeline(parameters: PipelineParameters) -> dict[str, Any]:
    """Run every stage that is not done yet below ``out``; without ``source`` the demo speech is fetched.

    Idempotent: a finished stage only says so, and a killed one goes on where it was.
    """
    choice = parameters.model_dump(include={*RecipeParameters.model_fields})
    with output_lock(parameters.out):
        return _run_stages(parameters.source, PipelineLayout(parameters.out), parameters.num_restored, **choice)


def _run_stages(source: str | None, layout: PipelineLayout, num_restored: int, **choice: Any) -> dict[str, Any]:
    claim_run(layout, source, resolve(choice["recipe"], config_uri=choice["config"], overrides=choice["overrides"]))
    if source is None:
        run_job(FetchDemoJob(out=layout.corpus))
        source = layout.corpus
    with timed(layout.root, "shard", layout.shards):
        shard_corpus(source, layout.shards, hold_out="recordings_if_no_speaker", **choice)
    pretrain_encoder(layout.shards, layout.pretrain, **choice)
    train_tokenizer(
        shards=layout.shards, encoder=layout.pretrain, out=layout.codec, tokenizer=layout.tokenizer, **choice
    )
    with timed(layout.root, "tokenize", layout.archive):
        tokenize_shards(layout.shards, layout.tokenizer, layout.archive)
    verify_archive(layout.archive, shards=layout.shards)
    with timed(layout.root, "restore", layout.restored):
        restore_audio(layout.archive, layout.tokenizer, layout.restored, where="split = 'valid'", limit=num_restored)
    summary = run_job(SummaryJob(run=layout.root))
    outputs.mark_done(store.normalize(layout.root), summary)
    artifacts.summary("pipeline", summary["headline"], {"run": layout.root, **layout.stages()})
    return summary
