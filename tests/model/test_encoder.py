"""The encoder: speech arrives at its untrained latents, at the level it expects; standardizing changes no more than it
says."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from syllabary.model.config import EncoderConfig
from syllabary.model.encoder import Encoder
from syllabary.model.measures.place import between_clips, group_by_place
from syllabary.workers.recipes.named import RECIPES
from tests.helpers.small_models import CONFIGS, HOP
from tests.helpers.speech_like import speech_like

CLIP_S = 2.4
SLOW_TO_ENCODE = {"paper", "base16k"}


def share_between_clips(encoder: Encoder, config: EncoderConfig, num_clips: int) -> float:
    """Of the latents' variance, on clips like speech of one length."""
    clips = [speech_like(number, CLIP_S, config.sample_rate) for number in range(num_clips)]
    waveform = torch.from_numpy(np.stack(clips))
    with torch.inference_mode():
        latents = encoder(waveform, torch.full((num_clips,), waveform.shape[1])).latents
    places = torch.arange(latents.shape[-1]).repeat(num_clips)
    share = between_clips(latents.transpose(1, 2).flatten(0, 1), group_by_place(places))
    assert share is not None
    return share


@pytest.mark.parametrize("name", RECIPES)
def test_an_untrained_encoder_passes_speech_on_in_every_recipe(name: str) -> None:
    torch.manual_seed(0)
    config = RECIPES[name]().model.encoder
    share = share_between_clips(Encoder(config).eval(), config, num_clips=4 if name in SLOW_TO_ENCODE else 8)
    assert share >= 0.5


def test_torchs_own_start_makes_a_clock_of_the_paper_at_its_depth() -> None:
    """What the start is for, and that the share can see it: .02 of the variance is left."""
    torch.manual_seed(0)
    config = RECIPES["small"]().model.encoder
    encoder = Encoder(config).eval()
    encoder.input_gain = 1.0
    for module in encoder.modules():
        if isinstance(module, nn.Conv1d | nn.Linear):
            module.reset_parameters()
    assert share_between_clips(encoder, config, num_clips=8) < 0.1


@pytest.mark.parametrize(("kind", "gain"), [("waveform", 10 ** (30 / 20)), ("spectral", 1.0)])
def test_a_waveform_front_end_hears_the_models_loudness_as_a_variance_of_one(kind: str, gain: float) -> None:
    """-30 dBFS is an RMS of 10^(-30 / 20); a spectrum is measured from its floor, and takes samples as they are."""
    config = CONFIGS[kind].encoder.model_copy(update={"loudness_dbfs": -30.0})
    encoder, heard = Encoder(config).eval(), list[torch.Tensor]()
    encoder.front_end.register_forward_pre_hook(lambda _, given: heard.append(given[0]))
    waveform = 0.05 * torch.randn(1, 3 * HOP, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        encoder(waveform, torch.tensor([3 * HOP]))
    torch.testing.assert_close(heard[0], gain * waveform)


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
