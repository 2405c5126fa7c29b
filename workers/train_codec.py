"""`python -m workers.train_codec`: stage 2, FSQ and decoder for the encoder of a stage-1 run, as one Ray Train job.

OUT is laid out as stage 1's (workers/pretrain_jepa.py), with ``codec.safetensors`` (keys ``encoder.*`` and
``generator.*``) and ``samples/``, held-out clips as they were reconstructed along the way.
"""

from __future__ import annotations

from typing import Any

from shards import outputs, store
from shards.errors import ConfigError, InputError, explain
from workers.checkpoints import sha256_of
from workers.job_main import run_job, say
from workers.jobs import TrainCodecJob
from workers.ray_training import RankJob, train_on_ray
from workers.recipes import Recipe, resolve
from workers.training_run import claim_run, read_summary

STAGE = "train-codec"


def train_codec(job: TrainCodecJob) -> dict[str, Any]:
    """Train the codec at ``job.out``, or go on where it was left; returns the content of done.json.

    Raises:
        ConfigError: the encoder was trained by a recipe with another encoder.
        InputError: the stage-1 run is not complete; others as for stage 1.
    """
    recipe = resolve(job.recipe, config_uri=job.config, overrides=job.overrides)
    encoder = {"encoder": encoder_digest(job.encoder, recipe)}
    model = {"model": recipe.model.model_dump(mode="json")}
    done = claim_run(job.out, "codec", job.shards, encoder, model, recipe.codec)
    if done is None:
        out, shards, encoder_uri = (store.normalize(uri) for uri in (job.out, job.shards, job.encoder))
        train_on_ray(
            STAGE, _rank_main, recipe.codec, lambda mailbox: RankJob(out, shards, recipe, mailbox, encoder_uri)
        )
        done = read_summary(job.out)
    else:
        say(STAGE, "already complete, nothing to do")
    return {**done, "out": job.out}


def encoder_digest(encoder_uri: str, recipe: Recipe) -> str:
    """sha256 of the weights of a complete stage-1 run whose encoder is this recipe's."""
    claim = outputs.read_claim(encoder_uri, "pretrain")
    if outputs.read_done(encoder_uri) is None:
        raise InputError(
            explain(
                "the stage-1 run is not complete",
                value=encoder_uri,
                fix="run `syllabary pretrain` again first: it resumes",
            )
        )
    found, wanted = claim["config"]["encoder"], recipe.model.encoder.model_dump(mode="json")
    for key in sorted({*found, *wanted}):
        if found.get(key) != wanted.get(key):
            raise ConfigError(
                explain(
                    f"model.encoder.{key} is {wanted.get(key)!r}, but the encoder at {encoder_uri} "
                    f"was trained with {found.get(key)!r}",
                    fix="use the recipe it was trained with",
                )
            )
    return sha256_of(store.join(encoder_uri, "encoder.safetensors"))


def _rank_main(job: RankJob) -> None:
    from workers.codec_stage import train_codec_rank

    train_codec_rank(job)


if __name__ == "__main__":
    run_job(TrainCodecJob, train_codec)
