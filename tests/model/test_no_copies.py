"""Steps of equal clips copy nothing to the device: a CUDA graph can hold them, and a GPU's queue does not wait.

"meta" stands for the GPU: a device other than the CPU's, on which shapes are computed and nothing else.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from syllabary.model.codec import Codec
from syllabary.model.discriminators import Discriminators
from syllabary.model.jepa import Jepa
from syllabary.model.layers import on_device
from syllabary.model.losses import discriminator_loss, generator_losses
from tests.helpers.small_models import CONFIGS, HOP

THERE = torch.device("meta")


class Copies(TorchDispatchMode):
    """Counts the copies from the CPU to another device."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten._to_copy.default and args[0].device.type == "cpu":
            self.count += (kwargs or {}).get("device", torch.device("cpu")) == THERE
        return func(*args, **(kwargs or {}))


def _jepa(kind: str, waveform: torch.Tensor, lengths: torch.Tensor) -> None:
    mask = torch.ones(2, waveform.shape[1] // HOP, dtype=torch.bool, device=THERE)
    Jepa(CONFIGS[kind].encoder, CONFIGS[kind].jepa).to(THERE)(waveform, lengths, mask)


def _codec(kind: str, waveform: torch.Tensor, lengths: torch.Tensor) -> None:
    config = CONFIGS[kind]
    config = config.model_copy(update={"losses": config.losses.model_copy(update={"stft_ffts": (64, 32)})})
    codec, judges = Codec(config).to(THERE), Discriminators(config.discriminator).to(THERE)
    made = codec(waveform, lengths).waveform
    real, fake = judges(waveform, lengths), judges(made, lengths)
    generator_losses(made, waveform, lengths, config.losses, judged=(real, fake))
    discriminator_loss(real, fake)


@pytest.mark.parametrize("stage", [_jepa, _codec])
@pytest.mark.parametrize("kind", ["waveform", "spectral"])
def test_equal_clips_are_not_measured_again_on_the_device(kind, stage) -> None:
    waveform = torch.zeros(2, 10 * HOP, device=THERE)
    with Copies() as equal:
        stage(kind, waveform, torch.tensor([10 * HOP, 10 * HOP]))
    with Copies() as unequal:
        stage(kind, waveform, torch.tensor([10 * HOP, 9 * HOP]))
    assert equal.count < unequal.count
    built = Copies()
    with built:
        modules = Codec(CONFIGS[kind]), Discriminators(CONFIGS[kind].discriminator)
        if stage is _jepa:
            modules = (Jepa(CONFIGS[kind].encoder, CONFIGS[kind].jepa),)
        for module in modules:
            module.to(THERE)
    assert equal.count == built.count  # moving the weights there is all that was copied


@pytest.mark.parametrize("lengths", [[4, 4], [4, 3], [0], []])
def test_lengths_are_the_same_wherever_they_are_made(monkeypatch, lengths) -> None:
    given = torch.tensor(lengths, dtype=torch.int64)
    made = []
    full_like = torch.full_like
    monkeypatch.setattr(torch, "full_like", lambda x, value, device: made.append(value) or full_like(x, value))
    monkeypatch.setattr(torch.Tensor, "to", lambda self, device: self)
    assert torch.equal(on_device(given, THERE), given)
    assert made == ([lengths[0]] if lengths and len(set(lengths)) == 1 else [])
