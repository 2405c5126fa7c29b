"""What the engines may and may not touch: EMA, frozen weights, discriminators, precision.

What takes some steps of one rank is run with all other tests; whole trainings and several ranks are marked ``long``.
"""

from __future__ import annotations

import hashlib
import itertools
from dataclasses import replace
from typing import Any

import pytest
import torch
from safetensors.torch import load as from_safetensors
from safetensors.torch import save as to_safetensors

from syllabary.model.discriminators import Discriminators
from syllabary.model.losses import discriminator_loss
from syllabary.workers.training import engine
from syllabary.workers.training.codec import shares_of
from syllabary.workers.training.data.epoch_order import Slot
from syllabary.workers.training.engine import frozen, learning_rate
from syllabary.workers.training.rank import clip_maker
from tests.helpers.training_testing import no_dropout, train_here, trained, training_recipe, watched


def _sha(module: torch.nn.Module) -> str:
    digest = hashlib.sha256()
    for parameter in module.parameters():
        digest.update(parameter.detach().numpy().tobytes())
    return digest.hexdigest()


def _ema_follows(stage: Any, run: Any) -> float:
    jepa, decay = stage._jepa, stage._jepa.config.ema_decay
    expected = [p.detach().double().clone() for p in jepa.target_encoder.parameters()]
    for step in range(1, 4):
        stage.train_step(step, run.loader.take(), 1e-3, detailed=True)
        context = [p.detach().double() for p in jepa.context_encoder.parameters()]
        expected = [decay * e + (1 - decay) * c for e, c in zip(expected, context, strict=True)]
    run.loader.close()
    assert all(p.grad is None and p.dtype == torch.float32 for p in jepa.target_encoder.parameters())
    found = jepa.target_encoder.parameters()
    return max(float((f - e).abs().max()) for f, e in zip(found, expected, strict=True))


@pytest.mark.long
@pytest.mark.parametrize(("precision", "zero"), [*itertools.product(["fp32", "bf16"], [0, 1, 2]), ("fp16", 2)])
def test_the_target_is_the_moving_average_in_fp32(pair, shards, encoder, tmp_path, zero, precision):
    recipe = training_recipe(pretrain__zero_stage=zero, pretrain__precision=precision)
    errors = pair.run(watched, "pretrain", recipe, str(tmp_path / "out"), shards, encoder, _ema_follows)
    assert max(errors) < 1e-6


def _generator_alone(stage: Any, run: Any) -> dict[str, Any]:
    """Three steps before the discriminators start: only the generator may move."""
    judges, encoder = _sha(stage._discriminators), _sha(stage._codec.encoder)
    generator = _sha(stage._codec.generator)
    for step in range(1, 4):
        stage.train_step(step, run.loader.take(), 1e-3, detailed=True)
    run.loader.close()
    optimizer = stage.engines["generator"].optimizer
    state = getattr(optimizer, "optimizer", optimizer).state
    return {
        "judges_moved": judges != _sha(stage._discriminators),
        "encoder_moved": encoder != _sha(stage._codec.encoder),
        "generator_moved": generator != _sha(stage._codec.generator),
        "encoder_grads": sum(p.grad is not None for p in stage._codec.encoder.parameters()),
        "in_engine": len(list(stage.engines["generator"].module.parameters())),
        "generator_tensors": len(list(stage._codec.generator.parameters())),
        "with_state": len(state),
    }


def test_a_frozen_encoder_has_no_gradient_no_optimizer_state_and_no_place_in_the_engine(
    single, shards, encoder, tmp_path
):
    recipe = training_recipe(codec__train_encoder="frozen")
    (found,) = single.run(watched, "codec", recipe, str(tmp_path / "out"), shards, encoder, _generator_alone)
    assert found["generator_moved"]
    assert not found["encoder_moved"]
    assert not found["judges_moved"]
    assert found["encoder_grads"] == 0
    assert found["in_engine"] == found["generator_tensors"] == found["with_state"]


def _discriminators_learn(stage: Any, run: Any) -> tuple[str, str, float]:
    """Two adversarial steps; then the gradient that a generator's loss leaves in the discriminators."""
    before = _sha(stage._discriminators)
    for step in (5, 6):
        stage.train_step(step, run.loader.take(), 1e-3, detailed=True)
    batch = run.loader.take()[0]
    run.loader.close()
    stage._discriminators.zero_grad()
    with frozen(stage._discriminators):
        judged = stage._discriminators(stage._generate(batch), batch.num_samples)
    engine.backward(stage.engines["generator"], sum(score.values.sum() for score in judged.scores))
    leaked = sum(float(p.grad.abs().sum()) for p in stage._discriminators.parameters() if p.grad is not None)
    reached = sum(float(p.grad.abs().sum()) for p in stage._codec.generator.parameters() if p.grad is not None)
    assert reached > 0 or stage.engines["generator"].zero_optimization_stage() > 0
    assert all(p.requires_grad for p in stage._discriminators.parameters())
    return before, _sha(stage._discriminators), leaked


@pytest.mark.long
@pytest.mark.parametrize("zero", [0, pytest.param(1, marks=pytest.mark.slow), 2])
def test_two_ranks_hold_equal_discriminators_and_the_generator_leaks_nothing_into_them(
    pair, shards, encoder, tmp_path, zero
):
    recipe = training_recipe(codec__zero_stage=zero)
    found = pair.run(watched, "codec", recipe, str(tmp_path / "out"), shards, encoder, _discriminators_learn)
    (before_0, after_0, leaked_0), (before_1, after_1, leaked_1) = found
    assert before_0 == before_1 != after_0 == after_1
    assert leaked_0 == leaked_1 == 0


def _gradient_of_an_adversarial_step(stage: Any, run: Any) -> tuple[float, float]:
    """(largest gradient in the discriminators after a whole micro-step, its distance from their own loss's)."""
    batch = run.loader.take()[0]
    run.loader.close()
    stage._prepare(1e-3)
    alone = Discriminators(stage._model.discriminator)
    alone.load_state_dict(stage._discriminators.state_dict())
    with torch.no_grad():
        generated = stage._generate(batch)
    discriminator_loss(alone(batch.waveform, batch.num_samples), alone(generated, batch.num_samples)).backward()
    stage._micro_step(batch, shares_of([batch], torch.device("cpu"))[0], adversarial=True)
    pairs = list(zip(stage._discriminators.parameters(), alone.parameters(), strict=True))
    apart = max(float((found.grad - wanted.grad).abs().max()) for found, wanted in pairs)
    return max(float(wanted.grad.abs().max()) for _, wanted in pairs), apart


def test_a_micro_step_leaves_the_discriminators_their_own_gradient_and_no_other(single, shards, encoder, tmp_path):
    recipe, out = training_recipe(), str(tmp_path / "out")
    ((largest, apart),) = single.run(watched, "codec", recipe, out, shards, encoder, _gradient_of_an_adversarial_step)
    assert apart < 1e-4 * largest


def _what_the_optimizers_get(stage: Any, run: Any) -> tuple[list[tuple[str, float, float]], list[dict[str, float]]]:
    """(engine, rate, norm of its gradient) of every optimizer step of six, and what the stage says of them."""
    seen: list[tuple[str, float, float]] = []
    for name, engine_ in stage.engines.items():
        if engine_.scaling:
            engine_.scaling.factor = 256.0  # nothing overflows, so no step is left out

        def note(optimizer: Any, *_: Any, name: str = name) -> None:
            grads = [p.grad for g in optimizer.param_groups for p in g["params"] if p.grad is not None]
            seen.append((name, optimizer.param_groups[0]["lr"], float(torch.nn.utils.get_total_norm(grads))))

        getattr(engine_.optimizer, "optimizer", engine_.optimizer).register_step_pre_hook(note)
    said = []
    for step in range(1, 7):
        rate = learning_rate(run.train.optimizer, step, run.train.num_steps)
        said.append(stage.train_step(step, run.loader.take(), rate, detailed=True))
    run.loader.close()
    return seen, said


@pytest.mark.long
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("zero", [0, 2])
def test_gradients_reach_the_optimizers_clipped_and_at_the_scheduled_rate(
    single, shards, encoder, tmp_path, zero, precision
):
    changes = {"optimizer__clip_norm": 0.05, "zero_stage": zero, "precision": precision}
    recipe = training_recipe(**{f"codec__{name}": value for name, value in changes.items()})
    ((seen, said),) = single.run(
        watched, "codec", recipe, str(tmp_path / "out"), shards, encoder, _what_the_optimizers_get
    )
    rates = [learning_rate(recipe.codec.optimizer, step, recipe.codec.num_steps) for step in range(1, 7)]
    generator, judges = ([row for row in seen if row[0] == name] for name in ("generator", "discriminators"))
    assert [rate for _, rate, _ in generator] == pytest.approx(rates)
    assert [rate for _, rate, _ in judges] == pytest.approx([rate / 2 for rate in rates[4:]])  # from step 5 on
    for rows, before in (
        (generator, [stats["gradient_norm"] for stats in said]),
        (judges, [stats["discriminator_gradient_norm"] for stats in said[4:]]),
    ):
        assert max(before) > 0.05
        assert [norm for *_, norm in rows] == pytest.approx([min(norm, 0.05) for norm in before], rel=1e-3)


def _step_without_masks(stage: Any, run: Any) -> tuple[dict[str, float], bool]:
    stats = stage.train_step(1, run.loader.take(), 1e-3, detailed=True)
    run.loader.close()
    return stats, all(bool(p.isfinite().all()) for p in stage._jepa.parameters())


def test_a_step_of_clips_too_short_to_mask_has_no_loss_and_no_harm(single, shards, encoder, tmp_path):
    recipe, out = training_recipe(pretrain__crop_s=0.06, model__encoder__window_s=0.06), str(tmp_path / "out")
    ((stats, finite),) = single.run(watched, "pretrain", recipe, out, shards, encoder, _step_without_masks)
    assert stats["loss"] == 0 and stats["gradient_norm"] == 0
    assert finite


@pytest.mark.long
def test_cached_latents_train_the_same_codec(single, shards, encoder, tmp_path):
    for name, cached in (("plain", False), ("cached", True)):
        # Crops as long as the window, so that a clip is the same in every epoch without the cache too.
        recipe = training_recipe(**no_dropout(), model__encoder__window_s=1.5, codec__cache_latents=cached)
        single.run(train_here, "codec", recipe, str(tmp_path / name), shards, encoder, 0)
    plain, cached = trained(str(tmp_path / "plain")), trained(str(tmp_path / "cached"))
    for key in (("train", "mrstft"), ("valid", "mrstft"), ("train", "discriminator_loss")):
        assert cached.series[key] == pytest.approx(plain.series[key], rel=1e-4)


def _latent_moments(stage: Any, run: Any) -> tuple[float, float, str]:
    """Largest distance of the latents' mean from 0 and of their deviation from 1, over the clips of the first epoch."""
    run.loader.close()
    codec, rows, recipe = stage._codec.eval(), [], stage._job.recipe
    clips = replace(clip_maker(recipe.model.encoder, recipe.codec), fixed_crops=True)
    with torch.no_grad():
        for slot in range(24):
            samples = torch.from_numpy(clips.clip(run.loader.utterances.read(slot), Slot(slot, 0)))[None]
            rows.append(codec.encoder(samples, torch.tensor([samples.shape[1]])).latents[0].T)
    frames = torch.cat(rows)
    return float(frames.mean(0).abs().max()), float((frames.std(0) - 1).abs().max()), _sha(codec.encoder)


@pytest.mark.long
def test_stage_2_starts_from_standardized_latents_the_same_in_every_run_and_world(
    pair, single, shards, encoder, tmp_path
):
    recipe = training_recipe(codec__crop_s=None)
    found = pair.run(watched, "codec", recipe, str(tmp_path / "a"), shards, encoder, _latent_moments)
    found += single.run(watched, "codec", recipe, str(tmp_path / "b"), shards, encoder, _latent_moments)
    assert [(mean, dev) for mean, dev, _ in found if mean >= 0.05 or dev >= 0.05] == []
    assert len({weights for *_, weights in found}) == 1
    raw = training_recipe(codec__crop_s=None, codec__standardize_latents=False)
    ((mean, deviation, weights),) = single.run(
        watched, "codec", raw, str(tmp_path / "c"), shards, encoder, _latent_moments
    )
    assert max(mean, deviation) > 0.2 and weights != found[0][2]


def test_a_restart_takes_the_scale_that_the_run_began_with(single, shards, encoder, tmp_path):
    from syllabary.workers.training.standardize import SCALE_FILE

    recipe, out = training_recipe(), tmp_path / "out"
    single.run(watched, "codec", recipe, str(out), shards, encoder, _latent_moments)
    scale = from_safetensors((out / SCALE_FILE).read_bytes())
    scale["mean"] += 10
    (out / SCALE_FILE).write_bytes(to_safetensors(scale))
    ((mean, *_),) = single.run(watched, "codec", recipe, str(out), shards, encoder, _latent_moments)
    assert mean > 5


def _timeouts(stage: Any, run: Any) -> set[float]:
    from torch.distributed.distributed_c10d import _world

    run.loader.close()
    return {g._get_backend(torch.device("cpu")).options._timeout.total_seconds() for g in _world.pg_map}


@pytest.mark.long
@pytest.mark.parametrize("zero", [0, 2])
def test_every_process_group_gives_a_hung_rank_up_in_time(pair, shards, encoder, tmp_path, zero):
    recipe = training_recipe(pretrain__zero_stage=zero, pretrain__collective_timeout_s=47)
    assert pair.run(watched, "pretrain", recipe, str(tmp_path / "out"), shards, encoder, _timeouts) == [{47}, {47}]
