"""Stage 2: a Ray Train job trains FSQ and decoder, then the tokenizer directory is written."""

from __future__ import annotations

from typing import Any

from prefect import flow

from syllabary.flows import artifacts
from syllabary.flows.narration import run_job
from syllabary.flows.output_lock import output_lock
from syllabary.flows.parameters import ConfigFile, EncoderRun, Out, Overrides, RecipeName, Shards, Tokenizer
from syllabary.shards import store
from syllabary.workers.control.jobs import ExportJob, TrainCodecJob


@flow(name="train-tokenizer")
def train_tokenizer(
    shards: Shards,
    encoder: EncoderRun,
    out: Out,
    tokenizer: Tokenizer,
    recipe: RecipeName = "tiny",
    config: ConfigFile | None = None,
    overrides: Overrides = (),
) -> dict[str, Any]:
    """Train the codec for the stage-1 run at ``encoder`` and export it to the directory ``tokenizer``.

    Args:
        shards: URI of the WebDataset shards.
        encoder: URI of the stage-1 run.
        out: URI that receives the output; an output of another run is refused.
        tokenizer: URI that receives the tokenizer directory.
        recipe: A named configuration; `syllabary show NAME` says what it is and costs.
        config: URI of a YAML file laid over the recipe.
        overrides: key=value, over recipe and file.
    """
    job = TrainCodecJob(shards=shards, encoder=encoder, out=out, recipe=recipe, config=config, overrides=overrides)
    with output_lock(out, tokenizer):
        training = run_job(job)
        exported = run_job(ExportJob(codec=out, out=tokenizer))
    artifacts.picture("train-codec", "mrstft", store.join(out, "curves", "mrstft.png"))
    artifacts.samples("train-codec", store.join(out, "samples"))
    artifacts.summary("train-codec", {**training, **exported}, {"run": out, "tokenizer": tokenizer})
    return {"training": training, "tokenizer": exported}
