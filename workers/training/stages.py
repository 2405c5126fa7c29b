"""The two verbs of training: each stage as one Ray Train job.

OUT/output.json, config.json   whose output this is; the resolved recipe
OUT/checkpoints/               for resuming this run only (workers/training/checkpoints.py)
OUT/metrics.parquet, timings.parquet, tensorboard/, curves/
OUT/encoder.safetensors, done.json            stage 1, the JEPA encoder
OUT/codec.safetensors, samples/, done.json    stage 2: keys ``encoder.*`` and ``generator.*``; held-out clips as they
                                              were reconstructed along the way
"""

from __future__ import annotations

from typing import Any

from syllabary.shards import outputs, store
from syllabary.shards.errors import ConfigError, InputError
from syllabary.workers.control.jobs import PretrainJob, TrainCodecJob
from syllabary.workers.control.log import say
from syllabary.workers.recipes.beginning import require_fitting
from syllabary.workers.recipes.named import resolve
from syllabary.workers.recipes.recipe import Recipe
from syllabary.workers.recipes.shipped import NOTHING
from syllabary.workers.training.claim import claim_run, read_summary
from syllabary.workers.training.driver import RankJob, train_on_ray
from syllabary.workers.training.initial_weights import initial_digest


def pretrain(job: PretrainJob) -> dict[str, Any]:
    """Train the encoder at ``job.out``, or go on where it was left; returns the content of done.json.

    Raises:
        ConfigError, InputError, ConflictError, StorageError: see each; nothing is half written.
        DivergedError: the loss is not finite any more; names the last good checkpoint.
        JobError: the ranks died again and again.
    """
    recipe = resolve(job.recipe, config_uri=job.config, overrides=job.overrides)
    model = {"encoder": recipe.model.encoder.model_dump(mode="json"), "jepa": recipe.model.jepa.model_dump(mode="json")}
    begun = {"init": initial_digest(job.init, recipe)}
    done = claim_run(job.out, "pretrain", job.shards, begun, model, recipe.pretrain)
    if done is None:
        out, shards, init = store.normalize(job.out), store.normalize(job.shards), _normalized(job.init)
        train_on_ray(
            "pretrain",
            _pretrain_rank,
            recipe.pretrain,
            lambda mailbox: RankJob(out, shards, recipe, mailbox, init=init),
        )
        done = read_summary(job.out)
    else:
        say("pretrain", "already complete, nothing to do")
    return {**done, "out": job.out}


def _pretrain_rank(job: RankJob) -> None:
    from syllabary.workers.training.jepa import train_jepa_rank

    train_jepa_rank(job)


_CODEC_STAGE = "train-codec"


def train_codec(job: TrainCodecJob) -> dict[str, Any]:
    """Train the codec at ``job.out``, or go on where it was left; returns the content of done.json.

    Raises:
        ConfigError: the encoder was trained by a recipe with another encoder.
        InputError: the stage-1 run is not complete; others as for stage 1.
    """
    recipe = resolve(job.recipe, config_uri=job.config, overrides=job.overrides)
    begun = {"encoder": encoder_digest(job, recipe), "init": initial_digest(job.init, recipe)}
    model = {"model": recipe.model.model_dump(mode="json")}
    done = claim_run(job.out, "codec", job.shards, begun, model, recipe.codec)
    if done is None:
        out, shards = store.normalize(job.out), store.normalize(job.shards)
        encoder, init = _normalized(job.encoder), _normalized(job.init)
        train_on_ray(
            _CODEC_STAGE,
            _train_codec_rank,
            recipe.codec,
            lambda mailbox: RankJob(out, shards, recipe, mailbox, encoder, init),
        )
        done = read_summary(job.out)
    else:
        say(_CODEC_STAGE, "already complete, nothing to do")
    return {**done, "out": job.out}


def _normalized(uri: str) -> str:
    return uri if uri == NOTHING else store.normalize(uri)


def encoder_digest(job: TrainCodecJob, recipe: Recipe) -> str:
    """sha256 of the weights of a complete stage-1 run whose encoder is this recipe's; "none" where none is given.

    Raises:
        ConfigError: the encoder was trained by a recipe with another one, two sources are given, or none and the
            encoder would not be trained either.
        InputError: the stage-1 run is not complete.
    """
    encoder_uri = job.encoder
    if NOTHING not in (encoder_uri, job.init):
        raise ConfigError(
            "two encoders to begin with",
            value=f"--encoder {encoder_uri} --init {job.init}",
            expected="one of them",
            fix="give --encoder none with --init",
        )
    if encoder_uri == NOTHING:
        if job.init == NOTHING:
            _require_trained_encoder(recipe)
        return NOTHING
    claim = outputs.read_claim(encoder_uri, "pretrain")
    if outputs.read_done(encoder_uri) is None:
        raise InputError(
            "the stage-1 run is not complete", value=encoder_uri, fix="run `syllabary pretrain` again first: it resumes"
        )
    require_fitting(encoder_uri, "encoder", claim["config"]["encoder"], recipe, option="encoder")
    return store.sha256_of(store.join(encoder_uri, "encoder.safetensors"))


def _require_trained_encoder(recipe: Recipe) -> None:
    codec = recipe.codec
    at_rest = codec.train_encoder == "frozen" if codec.method == "joint" else not codec.bottleneck.encoder_lr_fraction
    if at_rest:
        raise ConfigError(
            "an untrained encoder that stage 2 leaves at rest would stay so",
            value="--encoder none",
            expected="a stage-1 run, or a recipe whose stage 2 trains the encoder",
            fix="give a stage-1 run, or --set codec.train_encoder=finetune",
        )


def _train_codec_rank(job: RankJob) -> None:
    from syllabary.workers.training.bottleneck_first import train_codec_rank

    train_codec_rank(job)
