"""The gate of a new tokenizer: measure it, compare it with the one in use, and only then point to it."""

from __future__ import annotations

from typing import Any

from prefect import flow

from flows.evaluate_tokenizer import evaluate_tokenizer
from flows.narration import run_job
from shards import outputs, store
from shards.errors import InputError, explain
from workers.jobs import CompareJob

POINTER = "promoted.json"


@flow(name="promote-tokenizer")
def promote_tokenizer(
    tokenizer: str,
    shards: str,
    registry: str,
    tolerances: tuple[str, ...] = (),
    limit: int | None = None,
    metrics: tuple[str, ...] = (),
    transcripts: str | None = None,
) -> dict[str, Any]:
    """Point ``registry``/promoted.json to ``tokenizer`` unless it is worse than the one that it points to.

    The report lies at ``registry``/reports/<decoder digest>; ``tolerances`` are ``metric=x``. A regression beyond them
    fails the flow, names the metrics and leaves the pointer as it is.
    """
    description = outputs.read_json(store.join(tokenizer, "config.json"))
    digests = {key: str(description.get(key, "")) for key in ("encoder_digest", "decoder_digest")}
    if not all(digests.values()):
        raise InputError(explain("no tokenizer there", value=tokenizer, expected="a tokenizer directory"))
    report = store.join(registry, "reports", digests["decoder_digest"][:16])
    evaluate_tokenizer(tokenizer, shards, report, limit=limit, metrics=metrics, transcripts=transcripts)
    pointer = store.join(registry, POINTER)
    comparison = "the first: nothing to compare with"
    if store.exists(pointer):
        found = run_job(CompareJob(before=outputs.read_json(pointer)["report"], after=report, tolerances=tolerances))
        comparison = str(found["text"])
    promoted = {"tokenizer": store.normalize(tokenizer), "report": report, **digests}
    store.publish_bytes(pointer, outputs.pretty_json(promoted))
    return {**promoted, "comparison": comparison}
