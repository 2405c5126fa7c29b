"""How layers start, so that an untrained network passes the signal on and adds nothing of its own.

    weight ~ N(0, gain^2 / fan_in), bias = 0;  the last layer of a residual branch at a tenth of that

torch's default draws weights of gain 1 / sqrt(3) and biases of 1 / sqrt(fan_in): over a deep stack the signal fades and
the biases stay, so that latents tell where zero padding begins, which is the place of a frame in its clip, and hardly
anything of the speech. Deviation from the paper, whose code leaves torch's default.
"""

from __future__ import annotations

import math
from typing import TypeVar

from torch import nn

Layer = TypeVar("Layer", bound=nn.Conv1d | nn.Linear)
LEAKY_GAIN = math.sqrt(2 / (1 + 0.1**2))  # He et al. 2015, for leaky ReLU of slope 0.1
SNAKE_GAIN = 0.88  # 1 / sqrt(E[snake(x)^2]) for a standard normal x and alpha 1
BRANCH_GAIN = 0.1


def unit_gain(layer: Layer, gain: float = 1.0) -> Layer:
    """Let the layer keep the variance of its input, times ``gain`` squared; returns the layer."""
    fan_in = layer.weight[0].numel()
    nn.init.normal_(layer.weight, std=gain / math.sqrt(fan_in))
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer


def branch_end(layer: Layer) -> Layer:
    """The last layer of a residual branch: it starts small, so that the block starts near the identity."""
    return unit_gain(layer, BRANCH_GAIN)
