"""A moving average of a module's weights, kept beside it: what is exported is smoother than any single step.

    average_k = d_k average_(k-1) + (1 - d_k) live_k,   d_k = min(decay, (1 + k) / (10 + k))

The early average forgets fast, so that a short run is not held back by its first weights (Tan & Le 2019 do the same).
"""

from __future__ import annotations

import copy
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn

M = TypeVar("M", bound=nn.Module)


class Averaged(nn.Module, Generic[M]):
    """``live``, which learns and is called, and ``average``, which follows; both travel in a checkpoint."""

    live: M
    average: M
    num_updates: Tensor

    def __init__(self, live: M, decay: float) -> None:
        super().__init__()
        self.decay = decay
        self.live = live
        self.average = copy.deepcopy(live).requires_grad_(False).eval()
        self.register_buffer("num_updates", torch.zeros(1))

    def train(self, mode: bool = True) -> Averaged[M]:
        """As in torch, but the average stays in evaluation mode."""
        super().train(mode)
        self.average.eval()
        return self

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What ``live`` gives."""
        return self.live(*args, **kwargs)

    @torch.no_grad()
    def update(self, *parts: str) -> None:
        """Let the average follow, or only those submodules of it; call once after every optimizer step."""
        self.num_updates += 1
        k = float(self.num_updates)
        step = 1 - min(self.decay, (1 + k) / (10 + k))
        for part in parts or ("",):
            average, live = self.average.get_submodule(part), self.live.get_submodule(part)
            torch._foreach_lerp_(list(average.parameters()), [p.detach() for p in live.parameters()], step)
