"""Stage 2 by its bottleneck first: what each phase may touch, what is exported, resuming, dividing a batch.

What takes some steps of one rank is run with all other tests; whole trainings and several ranks are marked ``long``.
"""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load as from_safetensors

from syllabary.model.losses import generator_losses
from syllabary.model.spectral.source import NUM_SOURCE_CHANNELS
from syllabary.shards import store
from syllabary.workers.training.codec import Share
from tests.helpers.training_testing import (
    Gang,
    no_dropout,
    phased_recipe,
    prepare_encoder,
    train_here,
    trained,
    watched,
)

State = dict[str, torch.Tensor]
# No draw that a rank makes for itself, and no term that only a whole batch has: clips are cropped to their full length,
# rounded, and not spread.
DIVISIBLE = no_dropout() | {
    "codec__bottleneck__spread_weight": 0.0, "codec__vocoder__crop_s": 1.2, "codec__vocoder__crops_per_clip": 1,
    "codec__bottleneck__routing": [{"until": 1.0, "rounded": 1.0, "noisy": 0.0}],
}  # fmt: skip


@pytest.fixture(scope="module")
def spectral(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A stage-1 run's output of the spectral encoder, with random weights."""
    return prepare_encoder(Path(tmp_path_factory.mktemp("spectral")), phased_recipe())


def _run(gang: Gang, out: Path, shards: str, encoder: str, stop_after: int = 0, **changes: Any) -> list[str]:
    return gang.run(train_here, "codec", phased_recipe(**changes), str(out), shards, encoder, stop_after)[0]


def _weights(stage: Any) -> dict[str, State]:
    """Copies of everything that a stage holds, by part."""
    parts = {
        "encoder": stage._bottleneck.live.encoder, "trunk": stage._bottleneck.live.trunk,
        "head": stage._bottleneck.live.head, "average encoder": stage._bottleneck.average.encoder,
        "average trunk": stage._bottleneck.average.trunk, "vocoder": stage._vocoder.live,
        "average vocoder": stage._vocoder.average, "discriminators": stage._discriminators,
    }  # fmt: skip
    return {name: {k: v.detach().clone() for k, v in part.state_dict().items()} for name, part in parts.items()}


def _moved(before: dict[str, State], after: dict[str, State]) -> set[str]:
    return {name for name, state in before.items() if any(not v.equal(after[name][k]) for k, v in state.items())}


def _step_by_step(stage: Any, run: Any) -> list[dict[str, State]]:
    """The weights before each step and after the last."""
    seen = [_weights(stage)]
    for step in range(1, 9):
        stage.train_step(step, run.loader.take(), 0.0, detailed=True)
        seen.append(_weights(stage))
    run.loader.close()
    return seen


def test_each_phase_moves_its_own_weights_and_no_others(single, shards, spectral, tmp_path):
    (seen,) = single.run(watched, "codec", phased_recipe(), str(tmp_path / "run"), shards, spectral, _step_by_step)
    moved = [_moved(before, after) for before, after in itertools.pairwise(seen)]
    first = {"encoder", "trunk", "head", "average encoder", "average trunk"}
    second = {"vocoder", "average vocoder"}
    # The vocoder's steps 1 .. 4: judged from the second on, and every other time the judges learn.
    assert moved == [first] * 4 + [second, second | {"discriminators"}, second, second | {"discriminators"}]


@pytest.mark.long
def test_a_trunk_that_learns_on_moves_with_the_vocoder_and_the_encoder_does_not(single, shards, spectral, tmp_path):
    recipe = phased_recipe(codec__vocoder__trunk_lr_fraction=0.5)
    (seen,) = single.run(watched, "codec", recipe, str(tmp_path / "run"), shards, spectral, _step_by_step)
    moved = [_moved(before, after) for before, after in itertools.pairwise(seen)]
    first = {"encoder", "trunk", "head", "average encoder", "average trunk"}
    second = {"vocoder", "average vocoder", "trunk", "head", "average trunk"}
    assert moved == [first] * 4 + [second, second | {"discriminators"}, second, second | {"discriminators"}]


def _gradients_of_both(stage: Any, run: Any) -> list[State]:
    """The trunk's gradient in a step of the second phase, and that of one loss through trunk and vocoder together."""
    (batch,) = run.loader.take()
    run.loader.close()
    trunk, vocoder = stage._bottleneck.live.trunk, stage._vocoder.live
    share = Share(1.0, 1.0)
    stage._step_engines = lambda learns: {}
    torch.manual_seed(5)
    stage._vocoder_step(1, batch, share, share)
    apart = {name: p.grad.clone() for name, p in trunk.named_parameters() if p.grad is not None}
    trunk.zero_grad()
    torch.manual_seed(5)
    features = stage._features(batch)
    crops, target = stage._crops(features, batch)
    lengths = torch.full((len(target),), target.shape[1])
    heard = generator_losses(vocoder(crops, None), target, lengths, stage._model.losses, mels=stage._mels).total
    plain = features[:, :-NUM_SOURCE_CHANNELS]
    spectral, _ = stage._spectral_losses(stage._bottleneck.live.head(plain), trunk.pitch(plain), batch)
    (heard + spectral).backward()
    return [apart, {name: p.grad.clone() for name, p in trunk.named_parameters() if p.grad is not None}]


def test_the_trunk_learns_from_the_sound_as_by_one_loss_through_both(single, shards, spectral, tmp_path):
    recipe = phased_recipe(**no_dropout(), codec__vocoder__trunk_lr_fraction=0.5)
    (found,) = single.run(watched, "codec", recipe, str(tmp_path / "run"), shards, spectral, _gradients_of_both)
    apart, together = found
    assert apart.keys() == together.keys()
    for name, gradient in apart.items():
        torch.testing.assert_close(gradient, together[name], atol=1e-6, rtol=1e-4)


@pytest.mark.long
def test_the_average_follows_each_step(single, shards, spectral, tmp_path):
    (seen,) = single.run(watched, "codec", phased_recipe(), str(tmp_path / "run"), shards, spectral, _step_by_step)
    for part, steps in (("encoder", seen[:5]), ("trunk", seen[:5]), ("vocoder", seen[4:])):
        expected = {name: value.double() for name, value in steps[0][part].items()}
        for k, after in enumerate(steps[1:], start=1):
            d = min(0.9, (1 + k) / (10 + k))
            expected = {name: d * value + (1 - d) * after[part][name] for name, value in expected.items()}
        for name, value in seen[-1][f"average {part}"].items():
            torch.testing.assert_close(value.double(), expected[name].double(), atol=1e-6, rtol=1e-5)


def _average_against_live(stage: Any, run: Any) -> tuple[dict[str, State], State]:
    for step in range(1, 9):
        stage.train_step(step, run.loader.take(), 0.0, detailed=True)
    run.loader.close()
    stage.publish()
    return _weights(stage), from_safetensors(store.read_bytes(store.join(stage._job.run_uri, "codec.safetensors")))


def test_what_is_published_are_the_averages_and_not_the_live_weights(single, shards, spectral, tmp_path):
    out = str(tmp_path / "run")
    (found,) = single.run(watched, "codec", phased_recipe(), out, shards, spectral, _average_against_live)
    weights, exported = found
    for prefix, part in (("encoder.", "encoder"), ("generator.trunk.", "trunk"), ("generator.vocoder.", "vocoder")):
        assert all(value.equal(exported[prefix + name]) for name, value in weights[f"average {part}"].items())
        assert any(not value.equal(exported[prefix + name]) for name, value in weights[part].items())


@pytest.mark.long
@pytest.mark.parametrize("zero", [0, 2])
def test_a_run_killed_in_either_phase_ends_bit_for_bit_as_one_that_was_not(pair, shards, spectral, tmp_path, zero):
    changes = {
        "codec__zero_stage": zero, "codec__augment__speed_percent": 10, "codec__augment__input_noise_share": 0.5
    }  # fmt: skip
    _run(pair, tmp_path / "whole", shards, spectral, **changes)
    for stop_after in (2, 6):
        _run(pair, tmp_path / "cut", shards, spectral, stop_after, **changes)
    said = _run(pair, tmp_path / "cut", shards, spectral, **changes)
    assert "resumes from the checkpoint of step 6" in said
    whole, cut = (trained(str(tmp_path / name)) for name in ("whole", "cut"))
    assert (cut.weights, cut.series) == (whole.weights, whole.series)
    assert len(whole.series["train", "mel"]) == 8 and len(whole.series["train", "discriminator_loss"]) == 2


@pytest.mark.long
@pytest.mark.parametrize(
    "divided",
    [
        {"codec__micro_batch_size": 2},
        {"codec__micro_batch_size": 1, "accum": 2},
        {"codec__micro_batch_size": 1, "accum": 2, "codec__vocoder__trunk_lr_fraction": 0.5},
    ],
)
def test_two_ranks_equal_one(pair, single, shards, spectral, tmp_path, divided):
    """Clips of unequal length, in both phases; with and without accumulation, and with a trunk that learns on."""
    divided = dict(divided)
    changes = DIVISIBLE | {"codec__grad_accum_steps": divided.pop("accum", 1)} | divided
    _run(pair, tmp_path / "two", shards, spectral, **changes)
    whole = changes | {"codec__micro_batch_size": 4, "codec__grad_accum_steps": 1}
    _run(single, tmp_path / "one", shards, spectral, **whole)
    two, one = (trained(str(tmp_path / name)).series for name in ("two", "one"))
    assert two.keys() == one.keys()
    # Spread is a whole batch's; which tokens are the wrong ones to try follows from the order of clips, which ranks
    # deal among themselves. Norms are rougher at single steps (3.3e-4 seen), as in test_training_world_size.
    otherwise = {("train", "spread"), *(("valid", name) for name in ("mel_other", "mel_shuffled", "token_gain"))}
    # A vocoder sounds at the likeliest of the pitches, of which an untrained layer finds two nearly alike now and then
    # (6e-4 of a total seen, 1.6 % of the norm of what the trunk learns by; 5e-5 in the steps without such a choice);
    # the bottleneck's four steps have none.
    for key in two.keys() - otherwise:
        first = 4 if key[0] == "train" and len(two[key]) == 8 else 0
        rough = 2e-3 if key[1].endswith("gradient_norm") else 1e-5
        assert two[key][:first] == pytest.approx(one[key][:first], rel=rough, abs=1e-5), key
        chosen = 3e-2 if key[1] == "bottleneck_gradient_norm" else 2e-3
        assert two[key][first:] == pytest.approx(one[key][first:], rel=chosen, abs=1e-5), key
    assert len(two["train", "total"]) == len(two["train", "mel"]) == 8


@pytest.mark.long
def test_an_encoder_at_rest_neither_moves_nor_drops_out(single, shards, spectral, tmp_path):
    at_rest = {"codec__bottleneck__encoder_lr_fraction": 0.0}
    recipe = phased_recipe(**at_rest)
    (seen,) = single.run(watched, "codec", recipe, str(tmp_path / "steps"), shards, spectral, _step_by_step)
    assert not {"encoder", "average encoder"} & _moved(seen[0], seen[-1])
    assert {"trunk", "average trunk", "vocoder"} < _moved(seen[0], seen[-1])
    for dropout in (0.0, 0.5):
        changes = at_rest | {"model__encoder__conformer__dropout": dropout}
        _run(single, tmp_path / f"{dropout}", shards, spectral, **changes)
    assert trained(str(tmp_path / "0.0")).weights == trained(str(tmp_path / "0.5")).weights


def _first_rates(stage: Any, run: Any) -> dict[str, list[float]]:
    """The rates that the bottleneck's groups have at the peak, and the vocoder's at its own."""
    for step in (3, 5):
        stage.train_step(step, run.loader.take(), 0.0, detailed=True)
    run.loader.close()
    return {name: [group["lr"] for group in engine.optimizer.param_groups] for name, engine in stage.engines.items()}


def test_groups_learn_at_their_fractions_and_phases_at_their_own_rates(single, shards, spectral, tmp_path):
    recipe = phased_recipe(
        codec__bottleneck__encoder_lr_fraction=0.25, codec__vocoder__optimizer__lr=7e-4,
        codec__vocoder__discriminator_lr=2e-4,
    )  # fmt: skip
    (found,) = single.run(watched, "codec", recipe, str(tmp_path / "run"), shards, spectral, _first_rates)
    assert found["bottleneck"] == pytest.approx([0.25 * 3e-4, 3e-4, 3e-4])
    assert found["vocoder"] == pytest.approx([7e-4]) and found["discriminators"] == pytest.approx([2e-4])


@pytest.mark.long
def test_bf16_learns_and_keeps_its_weights_in_fp32(single, shards, spectral, tmp_path):
    longer = {
        "codec__num_steps": 60, "codec__checkpoint_every": 60, "codec__validate_every": 60, "codec__log_every": 60,
        "codec__optimizer__lr": 1e-2, "codec__bottleneck__share": 0.95,
    }  # fmt: skip
    falls = []
    for precision in ("fp32", "bf16"):
        _run(single, tmp_path / precision, shards, spectral, codec__precision=precision, **longer)
        before, after = trained(str(tmp_path / precision)).series["valid", "mel_head"]
        falls.append((before - after) / before)
    assert falls[0] > 0.1
    assert falls[1] > 0.75 * falls[0]
    assert 0 < max(trained(str(tmp_path / "bf16")).series["valid", "precision_gap"]) < 0.1
    exported = from_safetensors(store.read_bytes(f"{tmp_path}/bf16/codec.safetensors"))
    assert {value.dtype for value in exported.values()} == {torch.float32}


def _what_is_heard_and_wanted(stage: Any, run: Any) -> list[list[torch.Tensor]]:
    """The waveforms that the encoder is given and those that its spectra are compared with, in one step of each phase:
    of the second the crops that the discriminators hold to be real, of one clip's length."""
    heard: list[torch.Tensor] = []
    wanted: list[torch.Tensor] = []
    stage._bottleneck.live.encoder.register_forward_pre_hook(lambda _, given: heard.append(given[0].clone()))
    stage._bottleneck.average.encoder.register_forward_pre_hook(lambda _, given: heard.append(given[0].clone()))
    stage._mel.register_forward_pre_hook(lambda _, given: wanted.append(given[0].clone()))
    stage._discriminators.register_forward_pre_hook(lambda _, given: wanted.append(given[0].clone()))
    (batch,) = run.loader.take()
    run.loader.close()
    stage.train_step(1, [batch], 0.0, detailed=True)
    stage.train_step(6, [batch], 0.0, detailed=True)
    assert batch.disturbed is not None
    return [heard, wanted[:2], [batch.waveform, batch.disturbed]]


def test_noise_is_for_the_encoder_alone(single, shards, spectral, tmp_path):
    recipe = phased_recipe(
        codec__augment__input_noise_share=1.0, codec__vocoder__crop_s=1.2, codec__vocoder__crops_per_clip=1
    )
    (found,) = single.run(
        watched, "codec", recipe, str(tmp_path / "run"), shards, spectral, _what_is_heard_and_wanted
    )  # fmt: skip
    heard, wanted, (clean, noisy) = found
    assert not clean.equal(noisy)
    assert [given.equal(noisy) for given in heard] == [True, True]
    length = min(clean.shape[1], wanted[1].shape[1])
    assert wanted[0].equal(clean) and wanted[1][:, :length].equal(clean[:, :length])
