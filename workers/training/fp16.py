"""Loss scaling for fp16, whose smallest number is 6e-8: the loss is multiplied, and the gradient divided again.

DeepSpeed has a scaler for autocast, which is switched off here (0.19.8): under ZeRO 1 and 2 it clips and measures the
gradient while it is still multiplied, an overflow leaves the step out but never lowers the factor, so that every step
after it is left out too, and no checkpoint holds the factor, so that a resumed run goes on with another one.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

FIRST_FACTOR, HIGHEST_FACTOR, LOWEST_FACTOR = 2.0**16, 2.0**24, 1.0
GROWTH_STEPS = 2000
_STATE = "syllabary_loss_scale"


@dataclass
class LossScale:
    """The factor of one engine's loss, the same on every rank (Micikevicius et al. 2018, section 3.2).

    Attributes:
        factor: a power of two, so that dividing by it rounds nothing.
        good_steps: steps without an overflow since it last changed.
    """

    factor: float = FIRST_FACTOR
    good_steps: int = 0

    def update(self, *, overflowed: bool) -> None:
        """Halve the factor after an overflow, double it after ``GROWTH_STEPS`` steps without one."""
        self.good_steps = 0 if overflowed else self.good_steps + 1
        if overflowed:
            self.factor /= 2
        elif self.good_steps == GROWTH_STEPS:
            self.factor, self.good_steps = min(2 * self.factor, HIGHEST_FACTOR), 0

    @property
    def is_exhausted(self) -> bool:
        """Whether gradients overflow without any help from the factor: no failure of the scale but of the training."""
        return self.factor < LOWEST_FACTOR

    def unscale(self, grads: list[Tensor]) -> None:
        """Divide gradients by the factor, in place."""
        torch._foreach_mul_(grads, 1 / self.factor)

    def judge(self, norm: float) -> dict[str, float]:
        """What to report of a step whose gradient had ``norm`` (not finite: it overflowed and was left out)."""
        overflowed = not math.isfinite(norm)
        self.update(overflowed=overflowed)
        found = {"loss_scale": self.factor}
        return found if overflowed and not self.is_exhausted else found | {"gradient_norm": norm}


def take_over_scaling(engine: Any, *, is_fp16: bool) -> None:
    """Leave scaling to :class:`LossScale` and switch DeepSpeed's scalers off; ``engine`` gets a ``scaling``.

    DeepSpeed gives its ZeRO optimizers a scaler by what the process has ever asked for, not by their configuration.
    """
    engine.torch_autocast_z0_gradscaler = None
    if engine.zero_optimization_stage() > 0:
        engine.optimizer.torch_autocast_gradscaler = None
    engine.scaling = LossScale() if is_fp16 else None


@contextlib.contextmanager
def left_out(optimizer: Any) -> Iterator[None]:
    """Within the block the optimizer's step does nothing: an engine then counts its step and applies none."""
    optimizer.step = lambda *args, **kwargs: None
    try:
        yield
    finally:
        del optimizer.step


def scaling_state(engine: Any) -> dict[str, Any]:
    """What a checkpoint keeps of the scaling, for DeepSpeed's client_state."""
    return {_STATE: asdict(engine.scaling)} if engine.scaling else {}


def restore_scaling(engine: Any, client_state: Mapping[str, Any]) -> None:
    """Put the scaling where the checkpoint left it."""
    if engine.scaling:
        engine.scaling = LossScale(**client_state[_STATE])
