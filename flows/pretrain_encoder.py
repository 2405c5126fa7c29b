"""Stage 1: a Ray Train job trains the JEPA encoder."""

from __future__ import annotations

from typing import Any

from prefect import flow

from syllabary.flows import artifacts
from syllabary.flows.narration import run_job
from syllabary.flows.output_lock import output_lock
from syllabary.flows.parameters import ConfigFile, Out, Overrides, RecipeName, Shards
from syllabary.shards import store
from syllabary.workers.control.jobs import PretrainJob


@flow(name="pretrain-encoder")
def pretrain_encoder(
    shards: Shards, out: Out, recipe: RecipeName = "tiny", config: ConfigFile | None = None, overrides: Overrides = ()
) -> dict[str, Any]:
    """Train the encoder on ``shards``; a run cut short goes on from its newest whole checkpoint.

    Args:
        shards: URI of the WebDataset shards.
        out: URI that receives the output; an output of another run is refused.
        recipe: A named configuration; `syllabary show NAME` says what it is and costs.
        config: URI of a YAML file laid over the recipe.
        overrides: key=value, over recipe and file.
    """
    with output_lock(out):
        result = run_job(PretrainJob(shards=shards, out=out, recipe=recipe, config=config, overrides=overrides))
    artifacts.picture("pretrain", "loss", store.join(out, "curves", "loss.png"))
    artifacts.summary("pretrain", result, {"run": out})
    return result
