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
from syllabary.workers.recipes.beginning import described
from syllabary.workers.recipes.named import resolve
from syllabary.workers.recipes.shipped import NOTHING


@job_flow
def run_pipeline(parameters: PipelineParameters) -> dict[str, Any]:
    """Run every stage that is not done yet below ``out``; without ``source`` the demo speech is fetched.

    Idempotent: a finished stage only says so, and a killed one goes on where it was.
    """
    choice = parameters.model_dump(include={*RecipeParameters.model_fields})
    with output_lock(parameters.out):
        return _run_stages(parameters, PipelineLayout(parameters.out), **choice)


def _run_stages(parameters: PipelineParameters, layout: PipelineLayout, **choice: Any) -> dict[str, Any]:
    source, init = parameters.source, parameters.begins_with
    recipe = resolve(choice["recipe"], config_uri=choice["config"], overrides=choice["overrides"])
    claim_run(layout, source, recipe, init)
    if source is None:
        run_job(FetchDemoJob(out=layout.corpus))
        source = layout.corpus
    with timed(layout.root, "shard", layout.shards):
        shard_corpus(source, layout.shards, hold_out="recordings_if_no_speaker", **choice)
    pretrain_encoder(layout.shards, layout.pretrain, init=init, **choice)
    begun = beginning_of_stage_2(layout, init)
    train_tokenizer(shards=layout.shards, out=layout.codec, tokenizer=layout.tokenizer, **begun, **choice)
    with timed(layout.root, "tokenize", layout.archive):
        tokenize_shards(layout.shards, layout.tokenizer, layout.archive)
    verify_archive(layout.archive, shards=layout.shards)
    with timed(layout.root, "restore", layout.restored):
        limit = parameters.num_restored
        restore_audio(layout.archive, layout.tokenizer, layout.restored, where="split = 'valid'", limit=limit)
    summary = run_job(SummaryJob(run=layout.root))
    outputs.mark_done(store.normalize(layout.root), summary)
    artifacts.summary("pipeline", summary["headline"], {"run": layout.root, **layout.stages()})
    return summary


def beginning_of_stage_2(layout: PipelineLayout, init: str) -> dict[str, str]:
    """Encoder and init of stage 2.

    A beginning with a decoder is begun with as a whole, because its decoder understands its own encoder's latents and
    no other's: such a stage 1 shows what it learns, and stage 2 does not take it. Otherwise stage 1's encoder is taken.
    """
    if init == NOTHING or described(init)[0] == "pretrain":
        return {"encoder": layout.pretrain, "init": NOTHING}
    return {"encoder": NOTHING, "init": init}
