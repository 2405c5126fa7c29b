"""The nightly run: what is new at a source becomes shards, then tokens, then is verified."""

from __future__ import annotations

from typing import Any

from syllabary.flows import artifacts
from syllabary.flows.job_flow import job_flow
from syllabary.flows.shard_corpus import shard_corpus
from syllabary.flows.tokenize_shards import tokenize_shards
from syllabary.flows.verify_archive import verify_archive
from syllabary.workers.control import jobs


class Nightly(jobs.RecipeParameters):
    """The parameters of a nightly run: the fields of its three jobs that differ from place to place."""

    source: jobs.Source
    shards: jobs.Shards
    tokenizer: jobs.Tokenizer
    archive: jobs.Archive
    num_workers: jobs.NumWorkers = None
    storage_patience_s: jobs.StoragePatience = 300.0
    max_quarantined_percent: jobs.MaxQuarantined = 5.0


@job_flow
def ingest_new(night: Nightly) -> dict[str, Any]:
    """Shard and tokenize what is new, and verify that: the archive's new parts, and that it covers all shards.

    Idempotent: recordings that have shards, and shards that have parts, stay as they are; with nothing new the run
    only checks. To read the parts of earlier nights again is for the weekly scrub. Recording by recording the source
    may grow; one that changed or vanished is refused.
    """
    choice = night.model_dump(include={*jobs.RecipeParameters.model_fields, "num_workers"})
    limits = night.model_dump(include={"num_workers", "storage_patience_s", "max_quarantined_percent"})
    sharded = shard_corpus(night.source, night.shards, **choice)
    tokenized = tokenize_shards(night.shards, night.tokenizer, night.archive, **limits)
    verified = verify_archive(night.archive, shards=night.shards, only_new=True)
    artifacts.ledger("nightly", sharded["ledger"])
    figures = {"new shards": sharded["wrote"], "new parts": tokenized["num_new_parts"], **verified}
    artifacts.summary("nightly", figures, {"shards": night.shards, "archive": night.archive})
    return {"sharded": sharded, "tokenized": tokenized, "verified": verified}
