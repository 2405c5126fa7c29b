"""The model and its fused form against the published structure written plainly, with the same weights."""

import published_model
import pytest
import torch

from syllabary.model.codec import Codec
from syllabary.model.cpu.accelerate import FusedFrontEnd, FusedGenerator
from syllabary.workers.recipes.named import tiny_paper
from tests.helpers.small_models import CONFIGS, HOP, small_codec


def paper_like() -> Codec:
    torch.manual_seed(0)
    return Codec(tiny_paper().model).eval()


@pytest.mark.parametrize("codec", [small_codec("waveform"), paper_like()], ids=["small", "tiny_paper"])
@pytest.mark.parametrize("frames", [1, 2, 7, 12])
def test_encode_gives_equal_indices(codec: Codec, frames: int) -> None:
    hop = codec.encoder.framing.hop_length
    wave = torch.randn(1, frames * hop, generator=torch.Generator().manual_seed(frames)) * 0.2
    length = torch.tensor([frames * hop])
    with torch.inference_mode():
        expected = published_model.encode(codec, wave * codec.encoder.input_gain)
        plain = codec.encoder(wave, length).latents
        fused = FusedFrontEnd(codec.encoder.front_end, codec.encoder.framing.window_samples, torch.float32)
        features = codec.encoder.projection(fused(wave * codec.encoder.input_gain, None, hop)[0])
        latents = codec.encoder.contextualize(features, torch.tensor([frames]))
    for found in (plain, latents):
        torch.testing.assert_close(found, expected, atol=2e-5, rtol=1e-4)
        assert torch.equal(codec.fsq(found).level_indices, codec.fsq(expected).level_indices)


@pytest.mark.parametrize("codec", [small_codec("waveform"), paper_like()], ids=["small", "tiny_paper"])
@pytest.mark.parametrize("frames", [1, 2, 7, 12])
def test_decode_is_within_1e_5(codec: Codec, frames: int) -> None:
    dim, hop = codec.fsq.dims, codec.encoder.framing.hop_length
    values = codec.fsq(torch.randn(1, dim, frames, generator=torch.Generator().manual_seed(frames))).values
    length = torch.tensor([frames * hop])
    with torch.inference_mode():
        expected = published_model.decode(codec, values)
        found = codec.generator(values, length)
        fused = FusedGenerator(codec.generator, codec.encoder.framing.window_frames)(values, length)
    assert found.shape == expected.shape == fused.shape == (1, frames * hop)
    assert (found - expected).abs().max() < 1e-5
    assert (fused - expected).abs().max() < 1e-5


def test_decoder_daam_is_the_same_gate() -> None:
    codec = small_codec("decoder_daam")
    values = torch.randn(1, CONFIGS["decoder_daam"].encoder.latent_dim, 6)
    with torch.inference_mode():
        expected = published_model.decode(codec, values)
        found = codec.generator(values, torch.tensor([6 * HOP]))
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)
