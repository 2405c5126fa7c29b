"""The gate of a new tokenizer: measure it, compare it with the one in use, and only then point to it."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, Field

from syllabary.flows import artifacts
from syllabary.flows.evaluate_tokenizer import evaluate_tokenizer
from syllabary.flows.job_flow import job_flow
from syllabary.flows.narration import run_job
from syllabary.flows.output_lock import output_lock
from syllabary.shards import store
from syllabary.shards.errors import InputError
from syllabary.shards.store import Folder
from syllabary.workers.control import jobs
from syllabary.workers.control.declaration import Shown
from syllabary.workers.control.jobs import CompareJob
from syllabary.workers.control.run_layout import POINTER

Registry = Annotated[
    str,
    Shown(uri="s3://bucket/tokenizers"),
    Field(description="URI of the reports, one per tokenizer, and of the pointer to the tokenizer in use."),
]


class Promotion(BaseModel):
    """The parameters of a promotion: the tokenizers, the speech that they are measured on, and the tolerances."""

    tokenizer: jobs.Tokenizer
    shards: jobs.Shards
    registry: Registry
    tolerances: jobs.Tolerances = ()
    limit: jobs.Limit = None
    metrics: jobs.Metrics = ()
    transcripts: jobs.Transcripts = None


@job_flow
def promote_tokenizer(wanted: Promotion) -> dict[str, Any]:
    """Point ``registry``/promoted.json to ``tokenizer`` unless it is worse than the one that it points to.

    A regression beyond its tolerance fails the flow, names the metrics and leaves the pointer as it is.
    """
    tokenizer, registry = wanted.tokenizer, Folder(wanted.registry)
    digests = _digests(tokenizer)
    report = (registry / "reports").join(digests["decoder_digest"][:16])
    choice = wanted.model_dump(include={"limit", "metrics", "transcripts"})
    evaluate_tokenizer(tokenizer, wanted.shards, report, **choice)
    comparison = "the first: nothing to compare with"
    with output_lock(registry.uri):
        if registry.exists(POINTER):
            before = registry.read_json(POINTER)["report"]
            comparison = str(run_job(CompareJob(before=before, after=report, tolerances=wanted.tolerances))["text"])
        promoted = {"tokenizer": store.normalize(tokenizer), "report": report, **digests}
        registry.publish_json(POINTER, promoted)
    artifacts.summary("promote", {"comparison": comparison}, {"tokenizer": promoted["tokenizer"], "report": report})
    return {**promoted, "comparison": comparison}


def _digests(tokenizer: str) -> dict[str, str]:
    description = Folder(tokenizer).read_json("config.json")
    digests = {key: str(description.get(key, "")) for key in ("encoder_digest", "decoder_digest")}
    if not all(digests.values()):
        raise InputError("no tokenizer there", value=tokenizer, expected="a tokenizer directory")
    return digests
