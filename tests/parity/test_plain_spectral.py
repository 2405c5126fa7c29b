"""The spectral front end and the inverse-STFT decoder against their equations written plainly."""

from __future__ import annotations

import plain_spectral
import pytest
import torch

from syllabary.model.codec import Codec
from syllabary.workers.recipes.named import resolve
from tests.helpers.small_models import CONFIGS, HOP, small_codec


def randomized(codec: Codec) -> Codec:
    """Norms, scales and gates random too, so that none of them can be left out unseen."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in codec.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return codec.eval()


def spectral_codec(name: str) -> Codec:
    torch.manual_seed(0)
    return randomized(Codec(resolve(name).model) if name == "fast16k_small" else small_codec(name))


@pytest.mark.parametrize("name", ["spectral", "fast16k_small"])
@pytest.mark.parametrize("frames", [1, 2, 7])
def test_the_front_end_is_its_equations(name: str, frames: int) -> None:
    encoder = spectral_codec(name).encoder
    wave = 0.2 * torch.randn(2, frames * encoder.framing.hop_length, generator=torch.Generator().manual_seed(frames))
    with torch.inference_mode():
        expected = plain_spectral.front_end(encoder.front_end, wave)
        found, density = encoder.front_end(wave, None, encoder.framing.hop_length)
    assert found.shape == (2, expected.shape[1], frames)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
    assert density.shape == (2, frames)


@pytest.mark.parametrize("name", ["spectral", "no_daam", "fast16k_small"])
@pytest.mark.parametrize("frames", [1, 2, 7])
def test_the_decoder_is_its_equations(name: str, frames: int) -> None:
    codec = spectral_codec(name)
    values = codec.fsq(torch.randn(2, codec.fsq.dims, frames, generator=torch.Generator().manual_seed(frames))).values
    hop = codec.encoder.framing.hop_length
    generator, num_samples = codec.generator, torch.tensor([frames * hop] * 2)
    with torch.inference_mode():
        plain, features = plain_spectral.features(generator, values), generator.trunk(values, None)
        # The pitch of one and the same features: it turns harmonics far by what features differ in their last bits.
        heard = generator.trunk.with_source(features, None)
        expected, found = plain_spectral.decode(generator, heard), generator(values, num_samples)
    torch.testing.assert_close(features, plain, atol=1e-5 * float(plain.abs().max()), rtol=1e-4)
    torch.testing.assert_close(heard[:, :-4], features, atol=0, rtol=0)
    assert found.shape == (2, frames * hop)
    torch.testing.assert_close(found, expected, atol=1e-5 * float(expected.abs().max()), rtol=1e-4)


def test_a_front_end_without_gates_has_no_density() -> None:
    config = CONFIGS["spectral"]
    daam = config.encoder.daam.model_copy(update={"enabled": False})
    encoder = config.encoder.model_copy(update={"daam": daam})
    codec = randomized(Codec(config.model_copy(update={"encoder": encoder})))
    wave = torch.randn(1, 3 * HOP)
    with torch.inference_mode():
        found, density = codec.encoder.front_end(wave, None, HOP)
        torch.testing.assert_close(found, plain_spectral.front_end(codec.encoder.front_end, wave), atol=1e-4, rtol=1e-4)
    assert density is None
