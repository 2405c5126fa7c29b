"""The first phase of stage 2: order of the head's spectra, its losses by hand, and crops that lie on their samples."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from syllabary.model.bottleneck import (
    MEL_BANDS,
    Bottleneck,
    MelHead,
    bottleneck_mel,
    mel_l1,
    mel_loss_in_time,
    random_crops,
)
from syllabary.model.codec import Codec, Routing
from tests.helpers.small_models import CONFIGS, HOP, small_codec

HOP_LENGTH = 10


def test_the_head_puts_the_spectra_of_a_position_side_by_side_in_time() -> None:
    """Spectrum j of position p, band b, is row 100 j + b of the projection, and comes out at position 3 p + j."""
    head, x = MelHead(4, 3), torch.randn(2, 4, 5)
    assert head.project.bias.tolist() == [-6.0] * 300
    weight = torch.randn(300, 4)
    with torch.no_grad():
        head.project.weight.copy_(weight[..., None])
        found = head(x)
    assert found.shape == (2, MEL_BANDS, 15)
    for p in range(5):
        for j in range(3):
            expected = weight[100 * j : 100 * (j + 1)] @ x[:, :, p, None] - 6
            torch.testing.assert_close(found[:, :, 3 * p + j, None], expected)


def test_encoder_and_trunk_are_the_codecs_own_and_spectra_at_the_decoders_hop() -> None:
    config, codec = CONFIGS["spectral"], small_codec("spectral")
    bottleneck = Bottleneck(codec, config.decoder).eval()
    assert bottleneck.encoder is codec.encoder and bottleneck.trunk is codec.generator.trunk
    wave, lengths = 0.1 * torch.randn(2, 6 * HOP), torch.tensor([6 * HOP, 2 * HOP - 5])
    with torch.no_grad():
        found = bottleneck(wave, lengths, Routing())
        mel = bottleneck_mel(config)
        assert mel.hop_length == config.decoder.strides[-1] == 8
        assert found.mel.shape[-1] == mel(wave).shape[-1] == 6 * HOP // 8 and found.mel.shape[1] == MEL_BANDS
        assert found.num_frames.tolist() == [6, 2]
        digits = codec.fsq(codec.encoder(wave, lengths).latents)
        mask = torch.arange(6) < torch.tensor([[6], [2]])
        expected = bottleneck.head(codec.generator.trunk(digits.values, mask))
    torch.testing.assert_close(found.mel, expected)
    assert found.latents.equal(codec.encoder(wave, lengths).latents.detach())


def test_a_waveform_codec_is_judged_by_spectra_every_ten_milliseconds() -> None:
    assert bottleneck_mel(CONFIGS["waveform"]).hop_length == 2000 // 100


def spectra() -> tuple[Tensor, Tensor]:
    """Two clips of one band: 6 positions, and 2 before garbage; the second has 13 samples, the first 60."""
    predicted = torch.tensor([[[0.0, 1, 3, 6, 10, 15]], [[2.0, 5, 88, 88, 88, 88]]])
    wanted = torch.tensor([[[0.0, 0, 0, 0, 0, 0]], [[1.0, 1, -9, -9, -9, -9]]])
    return predicted, wanted


def test_l1_by_hand() -> None:
    """35 / 6 of the first and (1 + 4) / 2 of the second, weighted by 60 and 13 samples."""
    found = mel_l1(*spectra(), torch.tensor([60, 13]), HOP_LENGTH)
    assert float(found) == pytest.approx((60 * 35 / 6 + 13 * 2.5) / 73)


def test_l1_in_time_by_hand() -> None:
    """Differences over 1: 1 2 3 4 5, and 3 of the second; over 4: 10 and 14, and none of the second."""
    first = 35 / 6 + 0.5 * 15 / 5 + 0.5 * 24 / 2
    second = 2.5 + 0.5 * 3
    found = mel_loss_in_time(*spectra(), torch.tensor([60, 13]), HOP_LENGTH)
    assert float(found) == pytest.approx((60 * first + 13 * second) / 73)


@pytest.mark.parametrize("loss", [mel_l1, mel_loss_in_time])
def test_clips_apart_weighted_by_their_samples_are_the_batch(loss) -> None:
    generator = torch.Generator().manual_seed(0)
    predicted, wanted = (torch.randn(3, 7, 12, generator=generator) for _ in range(2))
    lengths = torch.tensor([120, 33, 78])
    apart = [
        float(loss(predicted[i : i + 1, :, : -(-n // 10)], wanted[i : i + 1, :, : -(-n // 10)], torch.tensor([n]), 10))
        for i, n in enumerate(lengths.tolist())
    ]
    expected = sum(n * one for n, one in zip(lengths.tolist(), apart, strict=True)) / 231
    assert float(loss(predicted, wanted, lengths, 10)) == pytest.approx(expected, rel=1e-6)


def test_one_position_has_no_differences() -> None:
    one = torch.full((1, 2, 1), 3.0)
    assert float(mel_loss_in_time(one, torch.zeros_like(one), torch.tensor([4]), HOP_LENGTH)) == 3


def counted(positions: list[int], samples_per_position: int) -> tuple[Tensor, Tensor]:
    """Features that are their position and samples that are their number, from 1; zero beyond each clip."""
    k, longest = samples_per_position, max(positions)
    features = torch.arange(1.0, longest + 1).expand(len(positions), 2, longest).clone()
    waveform = torch.arange(1.0, longest * k + 1).expand(len(positions), -1).clone()
    for row, n in enumerate(positions):
        features[row, :, n:], waveform[row, n * k :] = 0, 0
    return features, waveform


def test_crops_lie_on_their_samples_and_come_from_every_place() -> None:
    torch.manual_seed(0)
    starts = set()
    for _ in range(60):
        crops, sound = random_crops(*counted([9, 5], 4), torch.tensor([9, 5]), 3, 4)
        assert crops.shape == (2, 2, 3) and sound.shape == (2, 12)
        for row, (crop, samples) in enumerate(zip(crops, sound, strict=True)):
            first = int(crop[0, 0])
            assert crop[1].tolist() == [first, first + 1, first + 2]
            assert samples.tolist() == list(range(4 * (first - 1) + 1, 4 * (first + 2) + 1))
            starts.add((row, first))
    assert starts == {(0, s) for s in range(1, 8)} | {(1, s) for s in range(1, 4)}


def test_a_crop_longer_than_its_clip_starts_with_it_and_ends_in_silence() -> None:
    crops, sound = random_crops(*counted([4, 2], 3), torch.tensor([4, 2]), 6, 3)
    assert crops[:, 0].tolist() == [[1, 2, 3, 4, 0, 0], [1, 2, 0, 0, 0, 0]]
    assert sound[0].tolist() == [*range(1, 13), *[0] * 6] and sound[1].tolist() == [*range(1, 7), *[0] * 12]


def test_an_untrained_head_says_the_quiet_it_starts_with() -> None:
    """Near the mean log-mel of speech at -24 dBFS, so that the first steps are not spent on it."""
    torch.manual_seed(0)
    bottleneck = Bottleneck(Codec(CONFIGS["spectral"]), CONFIGS["spectral"].decoder).eval()
    with torch.no_grad():
        found = bottleneck(0.06 * torch.randn(4, 6 * HOP), torch.full((4,), 6 * HOP), Routing()).mel
    assert float(found.mean()) == pytest.approx(-6, abs=0.3) and float(found.std()) < math.e
