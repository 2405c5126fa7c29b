"""What stays fp32 whatever the training precision: under autocast it gives the bits that it gives without."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from syllabary.model.codec import Fsq
from syllabary.model.config import CodecLossConfig, DaamConfig, FsqConfig
from syllabary.model.daam import Daam
from syllabary.model.discriminators import DiscriminatorOutput, FeatureMap
from syllabary.model.losses import (
    discriminator_loss,
    feature_matching_loss,
    generator_adversarial_loss,
    mrstft_loss,
    waveform_loss,
)
from syllabary.model.spectral.front_end import LogSpectrum
from syllabary.model.spectral.istft import IstftHead

_LENGTHS = torch.tensor([384, 384])


def _judged(values: Tensor) -> DiscriminatorOutput:
    maps = FeatureMap(values[:, None], _LENGTHS)
    return DiscriminatorOutput([maps], [[maps]], _LENGTHS)


def _istft(x: Tensor) -> Tensor:
    head = IstftHead(2, 32, 8)
    head.norm = head.project = torch.nn.Identity()  # the layers before the spectrum are lowered on purpose
    shapes = x[:, : 85 * 4].reshape(2, 85, 4)
    return head(shapes, None, x[:, :32].float(), x[:, 32:64].float())


def _daam(x: Tensor) -> Tensor:
    torch.manual_seed(0)
    return Daam(4, DaamConfig())(x.reshape(2, 4, 96), None).density


CALCULATIONS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "daam": lambda x, y: _daam(x),
    "fsq": lambda x, y: Fsq(FsqConfig(), 4)(x.reshape(2, 4, 96)).values,
    "spectrum": lambda x, y: LogSpectrum(32, 8)(x),
    "istft": lambda x, y: _istft(x),
    "mrstft": lambda x, y: mrstft_loss(x, y, _LENGTHS, CodecLossConfig(stft_ffts=(64, 32))),
    "waveform": lambda x, y: waveform_loss(x, y, _LENGTHS),
    "adversarial": lambda x, y: generator_adversarial_loss(_judged(x)),
    "discriminator": lambda x, y: discriminator_loss(_judged(x), _judged(y)),
    "feature_matching": lambda x, y: feature_matching_loss(_judged(x), _judged(y)),
}


@pytest.mark.parametrize("name", CALCULATIONS)
def test_autocast_and_bf16_inputs_lower_nothing_inside(name: str) -> None:
    torch.manual_seed(1)
    x, y = torch.randn(2, 384), torch.randn(2, 384)
    rounded = x.bfloat16(), y.bfloat16()
    expected = CALCULATIONS[name](x, y), CALCULATIONS[name](rounded[0].float(), rounded[1].float())
    with torch.autocast("cpu", torch.bfloat16):
        found = CALCULATIONS[name](x, y), CALCULATIONS[name](*rounded)
    for one, other in zip(found, expected, strict=True):
        assert one.dtype == torch.float32
        assert torch.equal(one, other)


def test_digits_of_bf16_latents_are_those_of_their_values() -> None:
    torch.manual_seed(2)
    latents = torch.randn(1, 4, 4000).bfloat16()
    expected = np.floor(2 * (np.tanh(latents.double().numpy()) + 1))
    with torch.autocast("cpu", torch.bfloat16):
        found = Fsq(FsqConfig(), 4)(latents).level_indices
    assert np.array_equal(found.numpy(), expected)
