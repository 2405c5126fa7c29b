"""The nightly run: what is new at a source becomes shards, then tokens, then is verified."""

from __future__ import annotations

from typing import Any

from prefect import flow

from syllabary.flows import artifacts
from syllabary.flows.parameters import Archive, ConfigFile, NumWorkers, Overrides, RecipeName, Shards, Source, Tokenizer
from syllabary.flows.shard_corpus import shard_corpus
from syllabary.flows.tokenize_shards import tokenize_shards
from syllabary.flows.verify_archive import verify_archive


@flow(name="ingest-new")
def ingest_new(
    source: Source,
    shards: Shards,
    tokenizer: Tokenizer,
    archive: Archive,
    recipe: RecipeName = "tiny",
    config: ConfigFile | None = None,
    overrides: Overrides = (),
    num_workers: NumWorkers = None,
) -> dict[str, Any]:
    """Shard and tokenize what is new, and verify that: the archive's new parts, and that it covers all shards.

    Idempotent: recordings that have shards, and shards that have parts, stay as they are; with nothing new the run
    only checks. To read the parts of earlier nights again is for the weekly scrub. Recording by recording the source
    may grow; one that changed or vanished is refused.

    Args:
        source: Folder or URI of audio files, a manifest (.jsonl), or a tar of LibriLight.
        shards: URI that receives the shards.
        tokenizer: URI of a tokenizer directory.
        archive: URI that receives the tokens.
        recipe: A named configuration; `syllabary show NAME` says what it is and costs.
        config: URI of a YAML file laid over the recipe.
        overrides: key=value, over recipe and file.
        num_workers: At most so many processes at once; empty for all that the cluster has.
    """
    sharded = shard_corpus(source, shards, recipe=recipe, config=config, overrides=overrides, num_workers=num_workers)
    tokenized = tokenize_shards(shards, tokenizer, archive, num_workers=num_workers)
    verified = verify_archive(archive, shards, only_new=True)
    artifacts.ledger("nightly", sharded["ledger"])
    figures = {"new shards": sharded["wrote"], "new parts": tokenized["num_new_parts"], **verified}
    artifacts.summary("nightly", figures, {"shards": shards, "archive": archive})
    return {"sharded": sharded, "tokenized": tokenized, "verified": verified}
