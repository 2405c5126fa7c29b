"""A run that was cut short ends, bit for bit, as one that was not; with another number of ranks it goes on."""

from __future__ import annotations

from pathlib import Path

import pytest

from syllabary.shards import outputs, store
from syllabary.workers.recipes.recipe import Recipe
from syllabary.workers.training.checkpoints import CheckpointStore
from tests.helpers.training_testing import Gang, Trained, no_dropout, train_here, trained, training_recipe

pytestmark = pytest.mark.long


def _run(gang: Gang, stage: str, out: Path | str, inputs: tuple[str, str], stop_after: int = 0, **changes) -> list[str]:
    return gang.run(train_here, stage, training_recipe(**changes), str(out), *inputs, stop_after)[0]


def _uninterrupted(gang: Gang, stage: str, folder: Path, inputs: tuple[str, str], **changes) -> Trained:
    _run(gang, stage, folder / "whole", inputs, **changes)
    return trained(str(folder / "whole"))


@pytest.mark.parametrize("zero", [0, pytest.param(1, marks=pytest.mark.slow), 2])
@pytest.mark.parametrize("stage", ["pretrain", "codec"])
def test_resuming_gives_the_same_weights_and_metrics(pair, shards, encoder, tmp_path, stage, zero):
    changes = {f"{stage}__zero_stage": zero}
    whole = _uninterrupted(pair, stage, tmp_path, (shards, encoder), **changes)
    # Stage 2 is cut once before the discriminators start (step 4) and once after.
    for stop_after in (2, 6):
        _run(pair, stage, tmp_path / "cut", (shards, encoder), stop_after, **changes)
    said = _run(pair, stage, tmp_path / "cut", (shards, encoder), **changes)
    assert "resumes from the checkpoint of step 6" in said
    cut = trained(str(tmp_path / "cut"))
    assert (cut.weights, cut.series) == (whole.weights, whole.series)


def test_resuming_from_s3_in_bf16_and_a_step_after_the_checkpoint(pair, shards, encoder, tmp_path, s3):
    changes = {"pretrain__precision": "bf16", "pretrain__checkpoint_every": 3}
    whole = _uninterrupted(pair, "pretrain", tmp_path, (shards, encoder), **changes)
    out = f"{s3.bucket()}/run"
    pair.run(_use_store, s3.env)
    _run(pair, "pretrain", out, (shards, encoder), 3, **changes)
    _run(pair, "pretrain", out, (shards, encoder), **changes)
    assert trained(out).weights == whole.weights


def _use_store(variables: dict[str, str]) -> None:
    import os

    import s3fs

    os.environ.update(variables)
    s3fs.S3FileSystem.clear_instance_cache()


@pytest.mark.parametrize("zero", [0, pytest.param(1, marks=pytest.mark.slow), 2])
def test_another_number_of_ranks_goes_on(pair, single, shards, encoder, tmp_path, zero):
    changes = no_dropout() | {"pretrain__zero_stage": zero}
    _run(pair, "pretrain", tmp_path / "two", (shards, encoder), **changes)
    _run(pair, "pretrain", tmp_path / "moved", (shards, encoder), 4, **changes)
    said = _run(single, "pretrain", tmp_path / "moved", (shards, encoder), pretrain__micro_batch_size=4, **changes)
    assert "resumes from the checkpoint of step 4" in said
    two, moved = trained(str(tmp_path / "two")), trained(str(tmp_path / "moved"))
    for key in (("train", "loss"), ("valid", "loss"), ("train", "gradient_norm")):
        assert moved.series[key] == pytest.approx(two.series[key], rel=1e-4)


@pytest.mark.parametrize(
    ("stage", "zero", "watched"),
    [
        ("codec", 1, [("train", "mrstft"), ("train", "discriminator_loss"), ("valid", "mrstft")]),
        ("pretrain", 2, [("train", "loss"), ("train", "gradient_norm"), ("valid", "ema_distance")]),
    ],
)
def test_more_ranks_go_on(pair, single, shards, encoder, tmp_path, stage, zero, watched):
    changes = no_dropout() | {f"{stage}__zero_stage": zero, f"{stage}__crop_s": 0.48 if stage == "codec" else None}
    alone = changes | {f"{stage}__micro_batch_size": 4}
    _run(single, stage, tmp_path / "one", (shards, encoder), **alone)
    _run(single, stage, tmp_path / "moved", (shards, encoder), 6, **alone)
    _run(pair, stage, tmp_path / "moved", (shards, encoder), **changes)
    one, moved = trained(str(tmp_path / "one")), trained(str(tmp_path / "moved"))
    for key in watched:
        assert moved.series[key] == pytest.approx(one.series[key], rel=1e-4)


def test_fewer_ranks_of_stage_2_go_on(pair, single, shards, encoder, tmp_path):
    changes = no_dropout() | {"codec__zero_stage": 2, "codec__crop_s": 0.48, "codec__train_encoder": "finetune"}
    _run(pair, "codec", tmp_path / "two", (shards, encoder), **changes)
    _run(pair, "codec", tmp_path / "moved", (shards, encoder), 6, **changes)
    _run(single, "codec", tmp_path / "moved", (shards, encoder), codec__micro_batch_size=4, **changes)
    two, moved = trained(str(tmp_path / "two")), trained(str(tmp_path / "moved"))
    for key in (("train", "mrstft"), ("train", "discriminator_loss"), ("valid", "mrstft")):
        assert moved.series[key] == pytest.approx(two.series[key], rel=1e-4)


def test_a_damaged_newest_checkpoint_is_skipped_and_named(single, shards, encoder, tmp_path):
    whole = _uninterrupted(single, "pretrain", tmp_path, (shards, encoder))
    out = str(tmp_path / "cut")
    _run(single, "pretrain", out, (shards, encoder), 4)
    checkpoints = CheckpointStore(out)
    weights = checkpoints.of_step(4).join("jepa/mp_rank_00_model_states.pt")
    data = bytearray(store.read_bytes(weights))
    data[len(data) // 2] ^= 1
    store.publish_bytes(weights, bytes(data))
    said = _run(single, "pretrain", out, (shards, encoder))
    assert any(
        "skipped the damaged checkpoint of step 4" in line and "model_states.pt changed" in line for line in said
    )
    assert "resumes from the checkpoint of step 2" in said
    assert trained(out).weights == whole.weights


def _with_validation_losses(losses: list[float], recipe: Recipe, out: str, shards: str) -> None:
    """Run stage 1 on this rank with these losses in the place of the validations'."""
    from syllabary.workers.training.jepa import JepaStage

    validate, told = JepaStage.validate, iter(losses)
    JepaStage.validate = lambda self: validate(self) | {"loss": next(told)}  # type: ignore[method-assign]
    try:
        train_here("pretrain", recipe, out, shards)
    finally:
        JepaStage.validate = validate  # type: ignore[method-assign]


def test_the_best_checkpoint_outlives_newer_ones(single, shards, tmp_path):
    recipe, out = training_recipe(pretrain__keep_checkpoints=1), str(tmp_path / "run")
    single.run(_with_validation_losses, [5.0, 1.0, 3.0], recipe, out, shards)  # of steps 0, 4 and 8
    assert CheckpointStore(out).steps() == [4, 8]
    done = outputs.read_done(out)
    assert (done["best_checkpoint_step"], done["best_valid_loss"], done["final_valid_loss"]) == (4, 1, 3)


def test_a_run_killed_before_it_published_its_weights_publishes_them_the_next_time(single, shards, encoder, tmp_path):
    whole = _uninterrupted(single, "pretrain", tmp_path, (shards, encoder))
    _run(single, "pretrain", tmp_path / "cut", (shards, encoder), 8)
    assert outputs.read_done(str(tmp_path / "cut")) is None
    said = _run(single, "pretrain", tmp_path / "cut", (shards, encoder))
    assert "resumes from the checkpoint of step 8" in said
    cut = trained(str(tmp_path / "cut"))
    assert (cut.weights, cut.series) == (whole.weights, whole.series)


def test_retention_keeps_the_newest_and_the_best_and_sweeps_orphans(single, shards, encoder, tmp_path):
    out = tmp_path / "run"
    _run(single, "pretrain", out, (shards, encoder), 2)
    orphan = out / "checkpoints" / "step-00000003" / "jepa" / "mp_rank_00_model_states.pt"
    orphan.parent.mkdir(parents=True)
    orphan.write_bytes(b"half of a checkpoint")
    said = _run(single, "pretrain", out, (shards, encoder), pretrain__keep_checkpoints=1)
    assert any("swept 1 unfinished" in line for line in said)
    assert not orphan.exists()
    assert CheckpointStore(str(out)).steps() == [8]
