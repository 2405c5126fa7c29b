"""What both phases of the bottleneck-first stage do with a step's parts, without an engine and without a training."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from syllabary.model.averaging import Averaged
from syllabary.model.bottleneck import Bottleneck
from syllabary.model.codec import Codec, Routing
from syllabary.workers.training import bottleneck_first
from syllabary.workers.training.bottleneck_first import PhasedCodecStage
from syllabary.workers.training.codec import Share
from syllabary.workers.training.data.clips import Batch
from syllabary.workers.training.initial_weights import InitialWeights
from tests.helpers.training_testing import phased_recipe


class _Bottleneck(nn.Module):
    """The parts of a bottleneck, each of one weight."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.trunk, self.head = (nn.Linear(1, 1, bias=False) for _ in range(3))


def stage_of(**changes: Any) -> Any:
    """A stage with its configuration alone."""
    stage = object.__new__(PhasedCodecStage)
    recipe = phased_recipe(**changes)
    stage._config, stage._model = recipe.codec, recipe.model
    stage._setup = SimpleNamespace(device=torch.device("cpu"))
    return stage


def batch_of(*lengths: int) -> Batch:
    slots: Any = tuple(range(len(lengths)))
    return Batch(torch.zeros(len(lengths), max(lengths)), torch.tensor(lengths), slots)


def test_a_step_tells_the_sums_of_its_micro_batches_and_which_phase_it_was() -> None:
    stage, followed = stage_of(), []
    parts = iter([0.25, 0.5, 1.0, 2.0])
    rates = {"rate": 3.0}
    stage._follow = lambda *, is_first_phase: followed.append(is_first_phase)
    stage._bottleneck_step = lambda step, batch, share: ({"mel": torch.tensor(next(parts))}, rates)
    stage._vocoder_step = lambda step, batch, *shares: ({"total": torch.tensor(next(parts) + step)}, rates)
    batches = [batch_of(8, 4), batch_of(2)]
    assert stage._config.bottleneck_steps == 4
    assert stage.train_step(4, batches, 1.0, detailed=False) == {"mel": 0.75, "rate": 3.0}
    assert stage.train_step(5, batches, 1.0, detailed=False) == {"total": 5.0, "rate": 3.0}  # step 1 of its own phase
    assert followed == [True, False]


def test_shares_are_of_samples_for_clips_and_of_clips_for_crops() -> None:
    stage, seen = stage_of(), []
    stage._follow = lambda *, is_first_phase: None

    def step_of(step: int, batch: Batch, *shares: Share) -> tuple[dict[str, torch.Tensor], dict[str, float]]:
        seen.append([share.weight for share in shares])
        return {"total": torch.tensor(0.0)}, {}

    stage._vocoder_step = step_of
    stage.train_step(5, [batch_of(8, 4), batch_of(4)], 1.0, detailed=False)
    assert seen == [[pytest.approx(12 / 16), pytest.approx(2 / 3)], [pytest.approx(4 / 16), pytest.approx(1 / 3)]]


@pytest.mark.parametrize(
    ("is_first_phase", "fraction", "moved"),
    [
        (True, 0.5, {"encoder", "trunk", "head"}),
        (False, 0.5, {"vocoder", "trunk", "head"}),
        (False, 0.0, {"vocoder"}),
    ],
)
def test_the_average_follows_what_learns_in_each_phase(is_first_phase: bool, fraction: float, moved: set[str]) -> None:
    """By its formula, the first update with a decay of 2 / 11: from 1 to 12, that is 1 * 2 / 11 + 12 * 9 / 11 = 10."""
    stage = stage_of(codec__vocoder__trunk_lr_fraction=fraction)
    stage._bottleneck, stage._vocoder = Averaged(_Bottleneck(), 0.9), Averaged(nn.Linear(1, 1, bias=False), 0.9)
    for averaged in (stage._bottleneck, stage._vocoder):
        for module, value in ((averaged.average, 1.0), (averaged.live, 12.0)):
            for parameter in module.parameters():
                nn.init.constant_(parameter, value)
    stage._follow(is_first_phase=is_first_phase)
    parts = dict(stage._bottleneck.average.named_children()) | {"vocoder": stage._vocoder.average}
    found = {name: float(part.weight) for name, part in parts.items()}
    assert found == {name: pytest.approx(10 if name in moved else 1) for name in parts}


@pytest.mark.parametrize(("crop_s", "positions"), [(0.24, 4), (0.06, 1), (0.001, 1)])
def test_crops_are_as_long_as_asked_in_features_and_samples(crop_s: float, positions: int) -> None:
    """At 2,000 Hz a position of 120 samples is 0.06 s."""
    stage = stage_of(codec__vocoder__crop_s=crop_s, codec__vocoder__crops_per_clip=3)
    stage._vocoder = SimpleNamespace(live=SimpleNamespace(samples_per_position=120))
    places = torch.arange(10.0)
    features = places.expand(2, 5, 10)
    waveform = places.repeat_interleave(120).expand(2, 1200)  # each sample says its position
    crops, sound = stage._crops(features, Batch(waveform, torch.tensor([1200, 700]), ()))
    assert crops.shape == (6, 5, positions) and sound.shape == (6, 120 * positions)
    assert torch.equal(crops[:, 0].repeat_interleave(120, dim=1), sound)
    assert float(crops[1::2].max()) <= 5, "the second clip has 5.8 positions"


@pytest.mark.parametrize("has_head", [True, False])
def test_the_head_begins_as_the_source_has_it(monkeypatch: pytest.MonkeyPatch, has_head: bool) -> None:
    def begun(codec: Codec, setup: Any) -> InitialWeights:
        decoder = setup.job.recipe.model.decoder
        head = Bottleneck(codec, decoder).head.state_dict()
        return InitialWeights({}, {}, {name: torch.full_like(w, 0.25) for name, w in head.items()} if has_head else {})

    monkeypatch.setattr(bottleneck_first, "begin_codec", begun)
    monkeypatch.setattr(PhasedCodecStage, "_build_engines", lambda self: {})
    setup: Any = SimpleNamespace(job=SimpleNamespace(recipe=phased_recipe()), device=torch.device("cpu"))
    stage = PhasedCodecStage(setup)
    for head in (stage._bottleneck.live.head, stage._bottleneck.average.head):
        assert all((weight == 0.25).all() == has_head for weight in head.state_dict().values())


@pytest.mark.parametrize("fraction", [0.0, 0.25])
def test_an_encoder_at_rest_wants_no_gradient(monkeypatch: pytest.MonkeyPatch, fraction: float) -> None:
    """So that its gradient is neither computed nor part of the norm that the others' are clipped by."""
    built: list[list[tuple[bool, float]]] = []

    def engine_of(module: nn.Module, groups: Any, *_: Any, **__: Any) -> None:
        built.append([(any(p.requires_grad for p in part.parameters()), share) for part, share in groups])

    monkeypatch.setattr(bottleneck_first, "build_engine", engine_of)
    stage = stage_of(codec__bottleneck__encoder_lr_fraction=fraction)
    stage._setup.load_universal, stage._discriminators = False, nn.Linear(1, 1)
    stage._bottleneck, stage._vocoder = Averaged(_Bottleneck(), 0.9), Averaged(nn.Linear(1, 1), 0.9)
    stage._build_engines()
    assert built[0] == [(fraction > 0, fraction), (True, 1.0), (True, 1.0)]
    assert all(learns for groups in built[1:] for learns, _ in groups)


ROUTED = {1: (0.5, 0.5), 3: (0.5, 0.5), 4: (0.5, 0.25), 15: (0.5, 0.25), 16: (1.0, 0.0), 20: (1.0, 0.0)}


@pytest.mark.parametrize("step", ROUTED)
def test_a_step_of_the_bottleneck_is_routed_by_how_much_of_its_phase_is_done(
    monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    """15 % of it half rounded and half noisy, up to 75 % a quarter left as it is, the last quarter all rounded; and the
    spread counts by its weight."""
    given: list[Routing] = []
    learned: list[float] = []

    class Engine:
        def train(self) -> None:
            pass

        def __call__(self, heard: torch.Tensor, num_samples: torch.Tensor, routing: Routing) -> SimpleNamespace:
            given.append(routing)
            return SimpleNamespace(latents=None, num_frames=None, mel=None, pitch=None)

    monkeypatch.setattr(bottleneck_first, "set_learning_rate", lambda *_: None)
    monkeypatch.setattr(bottleneck_first, "step_engine", lambda _: {})
    monkeypatch.setattr(bottleneck_first, "spread_loss", lambda *_: torch.tensor(2.0))
    monkeypatch.setattr(bottleneck_first, "backward", lambda _, loss: learned.append(float(loss)))
    stage = stage_of(codec__num_steps=40, codec__bottleneck__share=0.5, codec__bottleneck__spread_weight=0.5)
    stage.engines, stage._bottleneck = {"bottleneck": Engine()}, SimpleNamespace(live=_Bottleneck())
    stage._spectral_losses = lambda *_: (torch.tensor(3.0), {})
    told, _ = stage._bottleneck_step(step, batch_of(8, 4), Share(1.0, 1.0))
    assert [(one.rounded, one.noisy) for one in given] == [ROUTED[step]]
    assert learned == [3 + 0.5 * 2] == [float(told["total"])] and float(told["spread"]) == 2
