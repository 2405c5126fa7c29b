"""Standardizing the latents is exact: the same encoder, another affine map at its end."""

from __future__ import annotations

import pytest
import torch

from syllabary.model.config import EncoderConfig
from syllabary.model.encoder import Encoder
from tests.helpers.small_models import CONFIGS


def _without_conformers(config: EncoderConfig) -> EncoderConfig:
    return config.model_copy(update={"conformer": config.conformer.model_copy(update={"num_layers": 0})})


@pytest.mark.parametrize("kind", sorted(CONFIGS))
@pytest.mark.parametrize("conformers", [True, False])
def test_latents_come_out_less_mean_over_deviation(kind: str, conformers: bool) -> None:
    torch.manual_seed(3)
    config = CONFIGS[kind].encoder
    encoder = Encoder(config if conformers else _without_conformers(config)).eval()
    waveform, num_samples = 0.1 * torch.randn(2, 9 * config.framing.hop_length), torch.tensor([1000, 1900])
    mean, std = torch.randn(config.latent_dim), torch.rand(config.latent_dim) + 0.1
    with torch.no_grad():
        before = encoder(waveform, num_samples)
        encoder.standardize(mean, std)
        after = encoder(waveform, num_samples)
    for row, frames in enumerate(before.num_frames.tolist()):
        expected = (before.latents[row, :, :frames] - mean[:, None]) / std[:, None]
        torch.testing.assert_close(after.latents[row, :, :frames], expected, rtol=1e-4, atol=1e-4)
        assert not after.latents[row, :, frames:].any()


def test_residual_blocks_of_the_front_end_are_dilated_by_powers_of_three_and_five() -> None:
    """PAPER encoder: block i has dilations 1, 3^i, 5^i; the last of eight looks 78,125 positions away."""
    with torch.device("meta"):
        front_end = Encoder(EncoderConfig()).front_end
    expected = [
        (1, 1, 1), (1, 3, 5), (1, 9, 25), (1, 27, 125), (1, 81, 625), (1, 243, 3125), (1, 729, 15625), (1, 2187, 78125)
    ]  # fmt: skip
    for block in front_end.blocks:
        assert [tuple(conv.dilation[0] for conv in residual.dilated) for residual in block.residual] == expected
        assert {conv.dilation[0] for residual in block.residual for conv in residual.plain} == {1}
