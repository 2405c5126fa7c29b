"""The gate of a new tokenizer: measure it, compare it with the one in use, and only then point to it."""

from __future__ import annotations

from typing import Annotated, Any

from prefect import flow
from pydantic import Field

from syllabary.flows import artifacts
from syllabary.flows.evaluate_tokenizer import Limit, Metrics, evaluate_tokenizer
from syllabary.flows.narration import run_job
from syllabary.flows.output_lock import output_lock
from syllabary.flows.parameters import Out, Shards, Tokenizer, Transcripts
from syllabary.shards import outputs, store
from syllabary.shards.errors import InputError, explain
from syllabary.workers.control.jobs import CompareJob
from syllabary.workers.control.run_layout import POINTER


@flow(name="promote-tokenizer")
def promote_tokenizer(
    tokenizer: Tokenizer,
    shards: Shards,
    registry: Out,
    tolerances: Annotated[tuple[str, ...], Field(examples=[["estoi=0.01"]])] = (),
    limit: Limit = None,
    metrics: Metrics = (),
    transcripts: Transcripts | None = None,
) -> dict[str, Any]:
    """Point ``registry``/promoted.json to ``tokenizer`` unless it is worse than the one that it points to.

    A regression beyond its tolerance fails the flow, names the metrics and leaves the pointer as it is.

    Args:
        tokenizer: URI of the new tokenizer directory.
        shards: URI of the WebDataset shards whose held-out splits decide.
        registry: URI of the reports, one a tokenizer, and of the pointer to the tokenizer in use.
        tolerances: metric=x, so much worse is no regression; empty for none.
        limit: At most so many utterances, spread over the speakers; empty for all.
        metrics: Only these metrics; empty for all.
        transcripts: URI of a table of what is said; empty for none.
    """
    digests = _digests(tokenizer)
    report = store.join(registry, "reports", digests["decoder_digest"][:16])
    evaluate_tokenizer(tokenizer, shards, report, limit=limit, metrics=metrics, transcripts=transcripts)
    pointer, comparison = store.join(registry, POINTER), "the first: nothing to compare with"
    with output_lock(registry):
        if store.exists(pointer):
            before = outputs.read_json(pointer)["report"]
            comparison = str(run_job(CompareJob(before=before, after=report, tolerances=tolerances))["text"])
        promoted = {"tokenizer": store.normalize(tokenizer), "report": report, **digests}
        store.publish_bytes(pointer, outputs.pretty_json(promoted))
    artifacts.summary("promote", {"comparison": comparison}, {"tokenizer": promoted["tokenizer"], "report": report})
    return {**promoted, "comparison": comparison}


def _digests(tokenizer: str) -> dict[str, str]:
    description = outputs.read_json(store.join(tokenizer, "config.json"))
    digests = {key: str(description.get(key, "")) for key in ("encoder_digest", "decoder_digest")}
    if not all(digests.values()):
        raise InputError(explain("no tokenizer there", value=tokenizer, expected="a tokenizer directory"))
    return digests
