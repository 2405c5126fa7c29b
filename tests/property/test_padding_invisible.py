"""Padding is invisible to the model: a clip in a batch gives what it gives alone, up to rounding.

(That the *tokens* are equal bit for bit is the tokenizer's promise:
tests/workers/tokenizer/test_tokenizer_canonical.py.)
"""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from syllabary.model import losses
from syllabary.model.config import CodecLossConfig
from syllabary.model.discriminators import Discriminators
from syllabary.model.jepa import Jepa
from syllabary.model.masking import sample_mask
from syllabary.model.spectral.mel import mel_windows
from tests.helpers.small_models import CONFIGS, HOP, small_codec

KINDS = sorted(CONFIGS)
EDGES = torch.tensor([-0.5, 0.0, 0.5])  # between four levels
CODECS = {kind: small_codec(kind) for kind in KINDS}
torch.manual_seed(0)
JUDGE = Discriminators(CONFIGS["waveform"].discriminator.model_copy(update={"spectral_ffts": (32, 16)}))
clips = st.lists(st.integers(1, 9 * HOP), min_size=2, max_size=4)


def padded_batch(lengths: list[int], extra: int) -> torch.Tensor:
    """Random clips, with garbage where they are padded."""
    generator = torch.Generator().manual_seed(sum(lengths))
    return torch.randn(len(lengths), max(lengths) + extra, generator=generator) * 0.3


@settings(max_examples=12, deadline=None)
@given(st.sampled_from(KINDS), clips, st.integers(0, 3 * HOP))
def test_codec(kind: str, lengths: list[int], extra: int) -> None:
    codec, batch = CODECS[kind], padded_batch(lengths, extra)
    with torch.no_grad():
        together = codec(batch, torch.tensor(lengths))
        for i, length in enumerate(lengths):
            alone = codec(batch[i : i + 1, :length], torch.tensor([length]))
            frames = -(-length // HOP)
            assert together.num_frames[i] == frames
            assert alone.waveform.shape == (1, frames * HOP)
            encoded = codec.encoder(batch, torch.tensor(lengths))
            single = codec.encoder(batch[i : i + 1, :length], torch.tensor([length]))
            torch.testing.assert_close(encoded.latents[i, :, :frames], single.latents[0], atol=2e-5, rtol=1e-4)
            torch.testing.assert_close(encoded.gate[i, :frames], single.gate[0], atol=2e-4, rtol=1e-3)
            assert not encoded.latents[i, :, frames:].any()
            firm = (torch.tanh(single.latents[0])[..., None] - EDGES).abs().amin(-1) > 1e-4  # what rounding cannot flip
            assert firm.float().mean() > 0.9
            digits = together.quantized.level_indices[i, :, :frames]
            assert digits[firm].equal(alone.quantized.level_indices[0][firm])
            values = codec.fsq.values_of(alone.quantized.level_indices)
            wide = F.pad(values, (0, together.quantized.values.shape[-1] - frames), value=7.0)
            decoded = codec.generator(wide, torch.tensor([length]))
            torch.testing.assert_close(decoded[0, :length], alone.waveform[0, :length], atol=1e-5, rtol=1e-4)
            assert not decoded[0, length:].any()


@pytest.mark.parametrize("mask_at", ["latent", "features", "input"])
@pytest.mark.parametrize("kind", ["waveform", "spectral"])
def test_jepa_loss_is_that_of_the_clips_alone(kind: str, mask_at: str) -> None:
    torch.manual_seed(0)
    config = CONFIGS[kind].jepa.model_copy(update={"mask_at": mask_at})
    jepa = Jepa(CONFIGS[kind].encoder, config).eval()
    lengths = [9 * HOP, 4 * HOP - 50, 5]
    frames = [-(-length // HOP) for length in lengths]
    mask = sample_mask(frames, config, torch.Generator().manual_seed(0))
    batch = padded_batch(lengths, 200)
    total = torch.zeros(())
    with torch.no_grad():
        together = jepa(batch, torch.tensor(lengths), mask).loss
        for i, (length, num_frames) in enumerate(zip(lengths, frames, strict=True)):
            row = mask[i : i + 1, :num_frames]
            total += jepa(batch[i : i + 1, :length], torch.tensor([length]), row).loss * row.sum()
    torch.testing.assert_close(together, total / mask.sum(), atol=1e-5, rtol=1e-4)


@settings(max_examples=10, deadline=None)
@given(clips, st.integers(0, 500))
def test_discriminators_and_losses(lengths: list[int], extra: int) -> None:
    judge, config = JUDGE, CodecLossConfig(stft_ffts=(64, 32), mel_ffts=(64,), mel_bands=(8,), mel_weight=1.0)
    mels = list(mel_windows(config, 2000))
    num_samples = torch.tensor(lengths)
    real, fake = padded_batch(lengths, extra), padded_batch(lengths, extra).flip(0)
    with torch.no_grad():
        judged = judge(real, num_samples), judge(fake, num_samples)
        together = losses.generator_losses(fake, real, num_samples, config, judged=judged, mels=mels)
        valid = torch.arange(real.shape[1]) < num_samples[:, None]
        wide = [F.pad(x.where(valid, x + 3), (0, 77), value=5.0) for x in (real, fake)]
        judged = judge(wide[0], num_samples), judge(wide[1], num_samples)
        again = losses.generator_losses(wide[1], wide[0], num_samples, config, judged=judged, mels=mels)
    for name in ("total", "waveform", "mrstft", "mel", "adversarial", "feature_matching"):
        torch.testing.assert_close(getattr(again, name), getattr(together, name), atol=1e-5, rtol=1e-4)


def test_a_convolution_without_masking_would_fail_here() -> None:
    """The property is not vacuous: the same batch with its lengths forgotten gives other latents."""
    codec, lengths = CODECS["waveform"], [6 * HOP, 2 * HOP]
    batch = padded_batch(lengths, 0)
    with torch.no_grad():
        alone = codec.encoder(batch[1:, : 2 * HOP], torch.tensor([2 * HOP])).latents
        forgotten = codec.encoder(batch, torch.tensor([6 * HOP, 6 * HOP])).latents[1:, :, :2]
    assert (alone - forgotten).abs().max() > 1e-2
