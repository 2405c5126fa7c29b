"""Steps of equal clips copy nothing to the device: a CUDA graph can hold them, and a GPU's queue does not wait.

"meta" stands for the GPU: a device other than the CPU's, on which shapes are computed and nothing else.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from syllabary.model.bottleneck import Bottleneck, bottleneck_mel, mel_l1, mel_loss_in_time, random_crops
from syllabary.model.codec import Codec, Routing
from syllabary.model.config import IstftDecoderConfig, ModelConfig
from syllabary.model.discriminators import Discriminators
from syllabary.model.jepa import Jepa
from syllabary.model.layers import on_device
from syllabary.model.losses import discriminator_loss, generator_losses, spread_loss
from syllabary.model.spectral.mel import LogMel
from syllabary.model.spectral.pitch import pitch_loss, track_pitch
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


def _heads(codec: Codec, config: ModelConfig) -> tuple[Bottleneck, LogMel]:
    assert isinstance(config.decoder, IstftDecoderConfig)
    return Bottleneck(codec, config.decoder).to(THERE), bottleneck_mel(config).to(THERE)


def _phases(kind: str, waveform: torch.Tensor, lengths: torch.Tensor) -> None:
    """The losses of the bottleneck, then of a vocoder on crops of its features with their source."""
    config = CONFIGS[kind]
    codec = Codec(config).to(THERE)
    bottleneck, mel = _heads(codec, config)
    trunk, k = bottleneck.trunk, bottleneck.trunk.samples_per_position
    out = bottleneck(waveform, lengths, Routing(0.5, 0.5))
    hertz = track_pitch(waveform, lengths, trunk.sample_rate, k)
    spread_loss(out.latents, out.num_frames)
    mel_loss_in_time(out.mel, mel(waveform), lengths, mel.hop_length)
    pitch_loss(out.pitch, hertz, lengths, k)
    mask = torch.ones(2, len(out.latents[0, 0]), dtype=torch.bool, device=THERE)
    features = trunk.with_source(trunk(bottleneck.fsq(out.latents).values, mask), mask, hertz)
    crops, target = random_crops(features, waveform, -(-lengths // k), 3, k)
    made = codec.generator.vocoder(crops, None)
    mel_l1(mel(made.float()), mel(target), torch.full((2,), 3 * k), mel.hop_length)


@pytest.mark.parametrize(
    ("kind", "stage"),
    [("waveform", _jepa), ("spectral", _jepa), ("waveform", _codec), ("spectral", _codec), ("spectral", _phases)],
)
def test_equal_clips_are_not_measured_again_on_the_device(kind, stage) -> None:
    waveform = torch.zeros(2, 10 * HOP, device=THERE)
    with Copies() as equal:
        stage(kind, waveform, torch.tensor([10 * HOP, 10 * HOP]))
    with Copies() as unequal:
        stage(kind, waveform, torch.tensor([10 * HOP, 9 * HOP]))
    assert equal.count < unequal.count
    config = CONFIGS[kind]
    with Copies() as built:
        if stage is _jepa:
            Jepa(config.encoder, config.jepa).to(THERE)
        else:
            codec = Codec(config).to(THERE)
            Discriminators(config.discriminator).to(THERE) if stage is _codec else _heads(codec, config)
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
