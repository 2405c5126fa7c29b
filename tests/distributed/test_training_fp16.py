"""fp16 as a GPU trains with it, here on the CPU: what is asked of DeepSpeed and of the loss scale is the same code."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from syllabary.workers.training.checkpoints import CheckpointStore
from syllabary.workers.training.engine import LossScale
from tests.helpers.training_testing import no_dropout, train_here, trained, training_recipe, watched

pytestmark = pytest.mark.long

# Masked frames enter the predictor as zeros, where its first norm is as steep as its epsilon allows: the first
# gradients reach some hundreds, and times this they still stay well below the largest fp16 number, 65504.
LOW_FACTOR = 16.0


def _fp16(stage: str, zero: int) -> dict[str, Any]:
    return {f"{stage}__precision": "fp16", f"{stage}__zero_stage": zero}


@pytest.mark.parametrize("zero", [0, pytest.param(1, marks=pytest.mark.slow), 2])
@pytest.mark.parametrize(("stage", "loss"), [("pretrain", "loss"), ("codec", "total")])
def test_fp16_learns_like_fp32(pair, shards, encoder, tmp_path, stage, loss, zero):
    half, full = (no_dropout() | _fp16(stage, zero) | {f"{stage}__precision": name} for name in ("fp16", "fp32"))
    # A scale at which nothing overflows: a step left out would put the two runs out of step with one another.
    pair.run(_from_factor, LOW_FACTOR, stage, training_recipe(**half), str(tmp_path / "half"), shards, encoder)
    pair.run(train_here, stage, training_recipe(**full), str(tmp_path / "full"), shards, encoder)
    half, full = trained(str(tmp_path / "half")).series, trained(str(tmp_path / "full")).series
    assert half["train", "loss_scale"] == [LOW_FACTOR] * 8
    judged = ["discriminator_loss", "discriminator_gradient_norm"] if stage == "codec" else []
    for name in (loss, "gradient_norm", *judged):
        assert half["train", name] == pytest.approx(full["train", name], rel=0.02), name
    assert half["train", loss] != full["train", loss]


def _from_factor(factor: float, *args: Any) -> Any:
    """Train on this rank, with loss scales that begin at ``factor``."""
    defaults = LossScale.__init__.__defaults__
    LossScale.__init__.__defaults__ = (factor, 0)  # type: ignore[attr-defined]
    try:
        return train_here(*args)
    finally:
        LossScale.__init__.__defaults__ = defaults  # type: ignore[attr-defined]


def _an_overflow_of_the_last_rank(stage: Any, run: Any) -> list[tuple[float, dict[str, float]]]:
    """(how far the weights moved, what was reported) of one step whose gradient overflows on one rank, and the next."""
    moved = []
    parameters = [p.detach() for p in stage._jepa.context_encoder.parameters()]
    for step, factor in ((1, 1e38 if torch.distributed.get_rank() else LOW_FACTOR), (2, LOW_FACTOR)):
        stage.engines["jepa"].scaling.factor = factor
        before = [p.clone() for p in parameters]
        stats = stage.train_step(step, run.loader.take(), 1e-3, detailed=True)
        moved.append((max(float((a - b).abs().max()) for a, b in zip(parameters, before, strict=True)), stats))
    run.loader.close()
    assert all(p.grad is None for p in stage._jepa.context_encoder.parameters())
    return moved


@pytest.mark.parametrize("zero", [0, pytest.param(1, marks=pytest.mark.slow), 2])
def test_an_overflow_on_one_rank_leaves_the_step_out_on_all_and_lowers_the_scale(pair, shards, encoder, tmp_path, zero):
    recipe = training_recipe(**_fp16("pretrain", zero))
    out = str(tmp_path / "out")
    found = pair.run(watched, "pretrain", recipe, out, shards, encoder, _an_overflow_of_the_last_rank)
    for (stayed, left_out), (moved, applied) in found:
        assert stayed == 0 and moved > 1e-5
        assert "gradient_norm" not in left_out and left_out["loss_scale"] in (LOW_FACTOR / 2, 1e38 / 2)
        assert applied["gradient_norm"] > 0 and applied["loss_scale"] == LOW_FACTOR


@pytest.mark.parametrize(("stage", "zero"), [("pretrain", 2), pytest.param("codec", 0, marks=pytest.mark.slow)])
def test_resuming_goes_on_with_the_scale_and_ends_with_the_same_weights(pair, shards, encoder, tmp_path, stage, zero):
    recipe, first = training_recipe(**_fp16(stage, zero)), 2.0**22  # too high: it falls before step 6
    for out, *stops in (("whole", 0), ("cut", 6, 0)):
        for stop_after in stops:
            pair.run(_from_factor, first, stage, recipe, str(tmp_path / out), shards, encoder, stop_after)
    whole, cut = trained(str(tmp_path / "whole")), trained(str(tmp_path / "cut"))
    assert whole.series["train", "loss_scale"][5] < first
    assert (cut.weights, cut.series) == (whole.weights, whole.series)


def test_another_number_of_ranks_takes_the_scale_over(pair, single, shards, encoder, tmp_path):
    changes, first, out = no_dropout() | _fp16("pretrain", 2), 2.0**22, str(tmp_path / "out")
    pair.run(_from_factor, first, "pretrain", training_recipe(**changes), out, shards, encoder, 4)
    alone = training_recipe(**changes, pretrain__micro_batch_size=4)
    single.run(_from_factor, first, "pretrain", alone, out, shards, encoder)
    scales = trained(out).series["train", "loss_scale"]
    assert scales[4] <= scales[3] < first


def test_a_gradient_that_is_too_large_for_any_scale_stops_the_run(single, shards, encoder, tmp_path):
    recipe, out = training_recipe(**_fp16("pretrain", 0)), str(tmp_path / "out")
    (said,) = single.run(_until_it_diverges, recipe, out, shards)
    assert "DivergedError" in said and "gradient_norm is not finite; the last good checkpoint is step 2" in said
    assert CheckpointStore(out).steps() == [2]


def _until_it_diverges(recipe: Any, out: str, shards: str) -> str:
    """Train on this rank with gradients that are infinite from step 3 on; the error that ended it."""
    from syllabary.workers.training import jepa as jepa_stage

    backward, steps = jepa_stage.backward, iter(range(1, 99))

    def infinite_from_3(engine: Any, loss: torch.Tensor) -> None:
        backward(engine, loss)
        if next(steps) >= 3:
            engine.scaling.factor = 1.0
            next(p for p in engine.module.parameters() if p.grad is not None).grad.fill_(float("inf"))

    jepa_stage.backward = infinite_from_3
    try:
        train_here("pretrain", recipe, out, shards)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    finally:
        jepa_stage.backward = backward
    return ""
