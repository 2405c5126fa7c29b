"""How layers start: variances on random input against what the gains promise, and blocks near the identity."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from syllabary.model.codec import Codec
from syllabary.model.config import ModelConfig
from syllabary.model.conformer import ConvolutionModule, FeedForward, SelfAttention
from syllabary.model.jepa import Jepa
from syllabary.model.layers import (
    BRANCH_GAIN,
    LEAKY_GAIN,
    SNAKE_GAIN,
    DownConv1d,
    ResidualBlock,
    SameConv1d,
    SnakeBeta,
    UpConv1d,
    branch_end,
    unit_gain,
)
from syllabary.model.spectral.front_end import ConvNeXtBlock
from tests.helpers.small_models import CONFIGS

WIDE, LONG = 256, 400


def noise(channels: int = WIDE, positions: int = LONG) -> Tensor:
    """Unit variance, channels first."""
    return torch.randn(2, channels, positions, generator=torch.Generator().manual_seed(channels))


def power(x: Tensor) -> float:
    return float(x.detach().square().mean())


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize("gain", [1.0, 0.1, 1.4])
@pytest.mark.parametrize(
    "layer", [nn.Linear(WIDE, 300), nn.Conv1d(WIDE, 300, 5), nn.Conv1d(WIDE, WIDE, 7, groups=WIDE)], ids=str
)
def test_a_layer_keeps_the_variance_of_its_input_times_the_gain_squared(layer: nn.Module, gain: float) -> None:
    assert unit_gain(layer, gain) is layer
    x = noise().transpose(1, 2) if isinstance(layer, nn.Linear) else noise()
    assert power(layer(x)) == pytest.approx(gain**2, rel=0.15)
    assert not layer.bias.any()


def test_a_layer_without_bias_starts_too() -> None:
    assert power(unit_gain(nn.Linear(WIDE, 300, bias=False))(noise().transpose(1, 2))) == pytest.approx(1, rel=0.1)


@pytest.mark.parametrize("stride", [2, 5])
def test_strided_layers_keep_it_too(stride: int) -> None:
    assert power(DownConv1d(WIDE, WIDE, stride)(noise())) == pytest.approx(1, rel=0.1)
    up = UpConv1d(WIDE, WIDE, stride)
    assert power(up(noise())) == pytest.approx(1, rel=0.1) and not up.bias.any()


def test_the_leaky_gain_undoes_a_leaky_relu() -> None:
    layer = unit_gain(nn.Linear(WIDE, 400), LEAKY_GAIN)
    assert power(layer(F.leaky_relu(noise().transpose(1, 2), 0.1))) == pytest.approx(1, rel=0.1)
    assert nn.init.calculate_gain("leaky_relu", 0.1) == pytest.approx(LEAKY_GAIN)


def test_the_snake_gain_is_its_integral_and_keeps_the_power_near_one() -> None:
    """E[(x + sin^2 x)^2] = 1 + E[sin^4 x] = 1 + 3/8 - exp(-2)/2 + exp(-8)/8 for a standard normal x."""
    integral = 1 + 3 / 8 - math.exp(-2) / 2 + math.exp(-8) / 8
    assert pytest.approx(1 / math.sqrt(integral), rel=0.01) == SNAKE_GAIN
    assert power(SnakeBeta(WIDE)(SNAKE_GAIN * noise(positions=4000))) == pytest.approx(1, abs=0.06)


def test_the_last_layer_of_a_branch_is_a_tenth() -> None:
    assert BRANCH_GAIN == 0.1
    assert power(branch_end(nn.Linear(WIDE, 300))(noise().transpose(1, 2))) == pytest.approx(0.01, rel=0.1)


def of_frames(module: nn.Module, x: Tensor) -> Tensor:
    """The branch of a Conformer's module, channels first."""
    hidden = x.transpose(1, 2)
    found = module(hidden) if isinstance(module, FeedForward) else module(hidden, None)
    return found.transpose(1, 2)


@pytest.mark.parametrize(
    "make",
    [
        lambda: ResidualBlock(WIDE, 3, (1,)),
        lambda: ConvNeXtBlock(WIDE, 7, 3),
        lambda: FeedForward(WIDE, 4, 0.0),
        lambda: ConvolutionModule(WIDE, 7, 0.0),
        lambda: SelfAttention(WIDE, 8, is_rotary=True),
    ],
    ids=["residual block", "ConvNeXt block", "feed-forward", "convolution module", "attention"],
)
def test_a_residual_branch_starts_small_and_not_at_nothing(make: Callable[[], nn.Module]) -> None:
    """Ten times smaller than what it is added to; and not zero, or nothing before its last layer would learn."""
    module, x = make().eval(), noise()
    branch = module(x, None) - x if isinstance(module, ResidualBlock | ConvNeXtBlock) else of_frames(module, x)
    assert 0.002 < math.sqrt(power(branch)) < 0.2


@pytest.mark.parametrize("kind", sorted(CONFIGS))
def test_no_layer_of_a_model_starts_with_a_bias_of_its_own(kind: str) -> None:
    """Biases are what a deep stack turns into a clock. The gates of DAAM are small, and said to be so by the paper; the
    last layer of a vocoder says how loud its source is."""
    config: ModelConfig = CONFIGS[kind]
    for model in (Codec(config), Jepa(config.encoder, config.jepa)):
        for name, module in model.named_modules():
            if isinstance(module, nn.Conv1d | nn.Linear | nn.LayerNorm | UpConv1d) and "daam" not in name:
                if name == "generator.vocoder.head.project":
                    continue
                assert module.bias is None or not module.bias.any(), name


def test_depth_does_not_change_the_level() -> None:
    """Forty residual blocks and ten strided layers on top of one another: still near a power of one."""
    x = noise(64, 1024)
    for _ in range(10):
        for _ in range(4):
            x = ResidualBlock(64, 3, (1, 3))(x, None)
        x = SameConv1d(64, 64, 3)(x)
    assert 0.2 < power(x) < 5
