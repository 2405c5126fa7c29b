"""`python -m workers.pretrain_jepa`: stage 1, the JEPA encoder, as one Ray Train job.

OUT/output.json, config.json   whose output this is; the resolved recipe
OUT/checkpoints/               for resuming this run only (workers/checkpoints.py)
OUT/metrics.parquet, timings.parquet, tensorboard/, curves/
OUT/encoder.safetensors, done.json
"""

from __future__ import annotations

from typing import Any

from shards import store
from workers.job_main import run_job, say
from workers.jobs import PretrainJob
from workers.ray_training import RankJob, train_on_ray
from workers.recipes import resolve
from workers.training_run import claim_run, read_summary


def pretrain(job: PretrainJob) -> dict[str, Any]:
    """Train the encoder at ``job.out``, or go on where it was left; returns the content of done.json.

    Raises:
        ConfigError, InputError, ConflictError, StorageError: see each; nothing is half written.
        DivergedError: the loss is not finite any more; names the last good checkpoint.
        JobError: the ranks died again and again.
    """
    recipe = resolve(job.recipe, config_uri=job.config, overrides=job.overrides)
    model = {"encoder": recipe.model.encoder.model_dump(mode="json"), "jepa": recipe.model.jepa.model_dump(mode="json")}
    done = claim_run(job.out, "pretrain", job.shards, {}, model, recipe.pretrain)
    if done is None:
        train_on_ray(
            "pretrain",
            _rank_main,
            recipe.pretrain,
            lambda mailbox: RankJob(store.normalize(job.out), store.normalize(job.shards), recipe, mailbox),
        )
        done = read_summary(job.out)
    else:
        say("pretrain", "already complete, nothing to do")
    return {**done, "out": job.out}


def _rank_main(job: RankJob) -> None:
    from workers.jepa_stage import train_jepa_rank

    train_jepa_rank(job)


if __name__ == "__main__":
    run_job(PretrainJob, pretrain)
