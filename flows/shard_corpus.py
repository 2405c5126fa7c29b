"""Speech becomes WebDataset shards with an index and a ledger."""

from __future__ import annotations

from typing import Any, Literal

from prefect import flow

from syllabary.flows import artifacts
from syllabary.flows.narration import run_job
from syllabary.flows.output_lock import output_lock
from syllabary.flows.parameters import ConfigFile, NumWorkers, Out, Overrides, RecipeName, Source
from syllabary.workers.control.jobs import ShardJob


@flow(name="shard-corpus")
def shard_corpus(
    source: Source,
    out: Out,
    recipe: RecipeName = "tiny",
    config: ConfigFile | None = None,
    overrides: Overrides = (),
    num_workers: NumWorkers = None,
    hold_out: Literal["as_configured", "recordings_if_no_speaker"] = "as_configured",
) -> dict[str, Any]:
    """Shard the speech at ``source`` into ``out``; what is there already stays as it is.

    Args:
        source: Folder or URI of audio files, a manifest (.jsonl), or a tar of LibriLight.
        out: URI that receives the output; an output of another run is refused.
        recipe: A named configuration; `syllabary show NAME` says what it is and costs.
        config: URI of a YAML file laid over the recipe.
        overrides: key=value, over recipe and file.
        num_workers: At most so many processes at once; empty for all that the cluster has.
        hold_out: What to do where no speaker falls into the valid split: nothing, or split by recording.
    """
    job = ShardJob(
        source=source,
        out=out,
        recipe=recipe,
        config=config,
        overrides=overrides,
        num_workers=num_workers,
        hold_out=hold_out,
    )
    with output_lock(out):
        result = run_job(job)
    artifacts.ledger("shard", result["ledger"])
    artifacts.summary("shard", result, {"shards": out})
    return result
