"""Claim the output folder of a training, skip a complete run, and record what a run is made from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from syllabary.shards import outputs
from syllabary.shards.errors import InputError
from syllabary.workers.recipes.recipe import TrainConfig

# Where and how fast a run is computed does not change what it computes, so these may differ when it is resumed.
_NOT_OF_THE_RESULT = {
    "num_workers", "threads_per_worker", "device", "corpus_in_memory", "compile", "micro_batch_size",
    "grad_accum_steps", "keep_checkpoints", "max_restarts", "collective_timeout_s", "max_quarantined_percent", "watch",
}  # fmt: skip


def training_section(train: TrainConfig) -> dict[str, Any]:
    """The part of a training configuration that its result depends on."""
    section = {k: v for k, v in train.model_dump(mode="json").items() if k not in _NOT_OF_THE_RESULT}
    return section | {"global_batch_size": train.num_workers * train.micro_batch_size * train.grad_accum_steps}


def claim_run(
    out: str,
    kind: Literal["pretrain", "codec"],
    shards: str,
    inputs: Mapping[str, str],
    model: Mapping[str, Any],
    train: TrainConfig,
) -> dict[str, Any] | None:
    """Take ``out`` for this run; returns the summary when it is already complete.

    Raises:
        InputError: the shards are not complete.
        ConflictError: ``out`` belongs to another run.
    """
    config = {**model, "train": training_section(train)}
    outputs.claim(out, kind, inputs={"shards": shards_digest(shards), **inputs}, config=config)
    return outputs.read_done(out)


def shards_digest(shards: str) -> str:
    """The digest of the shards at a URI, from their claim and summary. Raises InputError, NotFoundError."""
    claim, done = outputs.read_claim(shards, "shards"), outputs.read_done(shards)
    if done is None:
        raise InputError("the shards are not complete", value=shards, fix="run `syllabary shard` again first")
    return outputs.digest({"claim": claim, "done": done})


def read_summary(out: str) -> dict[str, Any]:
    """Read done.json of a run that has just ended. Raises InputError when it is not there."""
    done = outputs.read_done(out)
    if done is None:
        raise InputError("the run ended without its done.json", value=out, fix="run again: it resumes")
    return done
