"""The discriminators against plain torch convolutions, with folding and halving written out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from syllabary.model.config import DiscriminatorConfig
from syllabary.model.discriminators import Discriminators, FeatureMap
from syllabary.model.encoder import rms_of_dbfs
from tests.helpers.speech_like import speech_like

SMALL = DiscriminatorConfig(periods=(2, 3), num_scales=3, channel_divisor=32)
# PAPER stage 2: kernel, stride and padding of every layer in time, the score's last.
PERIOD_LAYERS = [(5, 3, 2)] * 4 + [(5, 1, 2), (3, 1, 1)]
SCALE_LAYERS = [(15, 1, 7)] + [(41, 4, 20)] * 4 + [(5, 1, 2), (3, 1, 1)]


def judges(config: DiscriminatorConfig = SMALL) -> Discriminators:
    torch.manual_seed(0)
    return Discriminators(config).requires_grad_(False)


def clip(samples: int) -> Tensor:
    return torch.randn(1, samples, generator=torch.Generator().manual_seed(samples))


def inputs_of(judge: Discriminators, waveform: Tensor, num_samples: Tensor) -> tuple[list[Tensor], list[Tensor]]:
    """What every scale is given: waveforms and lengths."""
    seen: list[tuple[Tensor, Tensor]] = []
    hooks = [scale.register_forward_pre_hook(lambda _, given: seen.append(given)) for scale in judge.scales]
    judge(waveform, num_samples)
    for hook in hooks:
        hook.remove()
    return [waveform for waveform, _ in seen], [lengths for _, lengths in seen]


def averages_of_four(x: np.ndarray) -> np.ndarray:
    """Mean of the samples 2i - 1 .. 2i + 2, which are zero outside the clip."""
    padded = np.concatenate([[0.0], x, np.zeros(4)])
    return np.array([padded[2 * i : 2 * i + 4].mean() for i in range(-(-len(x) // 2))])


@pytest.mark.parametrize("samples", [64, 61, 30, 5])
def test_scales_hear_the_waveform_at_1_a_half_and_a_quarter_of_its_rate(samples: int) -> None:
    x = clip(samples)
    waveforms, lengths = inputs_of(judges(), x, torch.tensor([samples]))
    expected = x[0].double().numpy()
    for found, length in zip(waveforms, lengths, strict=True):
        np.testing.assert_allclose(found[0].numpy(), expected, atol=1e-6)
        assert length.tolist() == [len(expected)]
        expected = averages_of_four(expected)


def test_a_slow_sine_goes_through_the_halving_and_the_fastest_does_not() -> None:
    time = torch.arange(400)
    for period, kept in ((100, 0.95), (2, 0.0)):
        waveforms, _ = inputs_of(judges(), torch.cos(2 * torch.pi * time / period)[None], torch.tensor([400]))
        assert [len(w[0]) for w in waveforms] == [400, 200, 100]
        assert float(waveforms[2][0, 5:-5].abs().max()) == pytest.approx(kept, abs=0.06)


def plain_stack(x: Tensor, layers: list[nn.Module], numbers: list[tuple[int, int, int]]) -> list[Tensor]:
    """All hidden maps and the score, by torch's convolutions with the paper's numbers."""
    found = []
    for layer, (kernel, stride, padding) in zip(layers, numbers, strict=True):
        assert layer.weight.shape[2] == kernel
        if x.dim() == 4:
            x = F.conv2d(x, layer.weight, layer.bias, (stride, 1), (padding, 0))
        else:
            x = F.conv1d(x, layer.weight, layer.bias, stride, padding, groups=x.shape[1] // layer.weight.shape[1])
        found.append(x)
        if len(found) < len(layers):
            x = found[-1] = torch.where(x < 0, 0.1 * x, x)
    return found


def same(found: tuple[FeatureMap, list[FeatureMap]], expected: list[Tensor]) -> None:
    score, hidden = found
    for one, other in zip([*hidden, score], expected, strict=True):
        torch.testing.assert_close(one.values, other, atol=1e-6, rtol=1e-4)
        assert one.lengths.tolist() == [other.shape[2]]


@pytest.mark.parametrize("samples", [600, 601, 602, 7])
def test_a_period_reads_every_pth_sample_as_a_column(samples: int) -> None:
    x = clip(samples)
    for judge, period in zip(judges().periods, (2, 3), strict=True):
        rows = -(-samples // period)
        folded = np.zeros((rows, period), dtype=np.float32)
        for i, value in enumerate(x[0].tolist()):
            folded[i // period, i % period] = value
        expected = plain_stack(torch.from_numpy(folded)[None, None], [*judge.layers, judge.score], PERIOD_LAYERS)
        same(judge(x, torch.tensor([samples])), expected)


@pytest.mark.parametrize("samples", [600, 601, 7])
def test_a_scale_is_its_convolutions(samples: int) -> None:
    x = clip(samples)
    judge = judges().scales[0]
    same(judge(x, torch.tensor([samples])), plain_stack(x[:, None], [*judge.layers, judge.score], SCALE_LAYERS))


def test_the_papers_groups_and_widths() -> None:
    with torch.device("meta"):
        found = Discriminators(DiscriminatorConfig())
    assert [p.period for p in found.periods] == [2, 3, 5, 7, 11]
    scale = found.scales[0]
    assert [layer.groups for layer in scale.layers] == [1, 4, 16, 64, 256, 1]
    assert [layer.out_channels for layer in [*scale.layers, scale.score]] == [16, 64, 256, 1024, 1024, 1024, 1]
    period = found.periods[0]
    assert [layer.out_channels for layer in [*period.layers, period.score]] == [32, 128, 512, 1024, 1024, 1]


def test_all_judge_the_same_clips_each_by_itself() -> None:
    """Scores and features in order: periods first, then scales; each from its own network."""
    judge, x = judges(), clip(300)
    found = judge(x, torch.tensor([300]))
    assert len(found.scores) == len(found.features) == 5
    assert found.num_samples.tolist() == [300]
    waveforms, lengths = inputs_of(judge, x, torch.tensor([300]))
    alone = [p(x, torch.tensor([300])) for p in judge.periods]
    alone += [s(w, n) for s, w, n in zip(judge.scales, waveforms, lengths, strict=True)]
    for score, features, (expected, hidden) in zip(found.scores, found.features, alone, strict=True):
        assert score.values.equal(expected.values)
        assert all(a.values.equal(b.values) for a, b in zip(features, hidden, strict=True))


def test_a_clip_in_a_longer_batch_is_judged_as_alone() -> None:
    judge, x = judges(), torch.cat([clip(300), clip(301)[:, :300]])
    x[1, 170:] = 88.0
    together, alone = judge(x, torch.tensor([300, 170])), judge(x[1:, :170], torch.tensor([170]))
    for one, other in zip(together.scores, alone.scores, strict=True):
        length = int(other.lengths[0])
        assert int(one.lengths[1]) == length
        torch.testing.assert_close(one.values[1:, :, :length], other.values[:, :, :length], atol=1e-6, rtol=1e-4)
        assert not one.values[1, :, length:].any()


SPECTRAL = DiscriminatorConfig(periods=(), num_scales=0, spectral_ffts=(32, 16), channel_divisor=16)


@pytest.mark.parametrize("samples", [200, 203, 8])
def test_a_spectrum_is_judged_by_plain_convolutions_of_torchs_stft(samples: int) -> None:
    """Real and imaginary part over the root of the size, time before frequency; frequency halved by each of the first
    four layers."""
    x = clip(samples)
    for judge, n_fft in zip(judges(SPECTRAL).spectra, (32, 16), strict=True):
        window = torch.from_numpy(np.sin(np.pi * np.arange(n_fft) / n_fft) ** 2).float()
        spectrum = torch.stft(
            x, n_fft, n_fft // 4, window=window, center=True, pad_mode="constant", return_complex=True
        )
        frames = -(-samples // (n_fft // 4))  # those centred on a sample of the clip
        maps = torch.view_as_real(spectrum / n_fft**0.5)[..., :frames, :].permute(0, 3, 2, 1)
        expected = []
        for layer in judge.layers:
            kernel, stride = ((3, 9), (1, 2)) if len(expected) < 4 else ((3, 3), (1, 1))
            assert layer.weight.shape[2:] == kernel and len(layer.weight) == 96 // 16
            maps = F.conv2d(maps, layer.weight, layer.bias, stride, (1, kernel[1] // 2))
            maps = torch.where(maps < 0, 0.1 * maps, maps)
            expected.append(maps)
        expected.append(F.conv2d(maps, judge.score.weight, judge.score.bias, padding=1))
        found = judge(x, torch.tensor([samples]))
        for one, other in zip([*found[1], found[0]], expected, strict=True):
            torch.testing.assert_close(one.values[:, :, :frames], other, atol=1e-5, rtol=1e-4)
            assert one.lengths.tolist() == [frames] and not one.values[:, :, frames:].any()


def test_spectra_stand_between_periods_and_scales() -> None:
    judge = judges(SMALL.model_copy(update={"spectral_ffts": (32, 16)}))
    x, length = clip(300), torch.tensor([300])
    found = judge(x, length)
    assert len(found.scores) == len(found.features) == 7
    for score, one in zip(found.scores[2:4], judge.spectra, strict=True):
        assert score.values.equal(one(x, length)[0].values)


def test_a_clip_in_a_longer_batch_has_the_spectral_scores_it_has_alone() -> None:
    judge, x = judges(SPECTRAL), torch.cat([clip(300), clip(301)[:, :300]])
    x[1, 170:] = 88.0
    together, alone = judge(x, torch.tensor([300, 170])), judge(x[1:, :170], torch.tensor([170]))
    for one, other in zip(together.scores, alone.scores, strict=True):
        length = int(other.lengths[0])
        assert int(one.lengths[1]) == length
        torch.testing.assert_close(one.values[1:, :, :length], other.values[:, :, :length], atol=1e-6, rtol=1e-4)
        assert not one.values[1, :, length:].any()


@pytest.mark.parametrize("power", [0.3, 1.0])
def test_a_spectral_power_raises_magnitudes_and_keeps_phases(power: float) -> None:
    judge = judges(SPECTRAL.model_copy(update={"spectral_power": power})).spectra[0]
    seen: list[Tensor] = []
    judge.layers[0].register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    x = clip(300)
    judge(x, torch.tensor([300]))
    wanted = torch.stft(
        x, 32, 8, window=torch.hann_window(32), center=True, pad_mode="constant", return_complex=True
    ) / math.sqrt(32)  # fmt: skip
    found = torch.complex(seen[0][:, 0], seen[0][:, 1]).transpose(1, 2)
    torch.testing.assert_close(found, torch.polar(wanted.abs() ** power, wanted.angle()), atol=3e-3, rtol=1e-2)


def test_silence_under_a_spectral_power_has_a_finite_gradient() -> None:
    x = torch.zeros(1, 300, requires_grad=True)
    judged = judges(SPECTRAL.model_copy(update={"spectral_power": 0.3}))(x, torch.tensor([300]))
    (gradient,) = torch.autograd.grad(sum(score.values.sum() for score in judged.scores), x)
    assert bool(gradient.isfinite().all())


def share_heard(config: DiscriminatorConfig) -> list[float]:
    """For each untrained judge: how far scores of eight clips lie from one another, over their magnitude."""
    torch.manual_seed(1)
    clips = torch.stack([torch.from_numpy(speech_like(number, 1.0, 16_000)) for number in range(8)])
    clips = clips * rms_of_dbfs(-24.0) / clips.square().mean(dim=1, keepdim=True).sqrt()
    scores = [score.values.flatten(1) for score in judges(config)(clips, torch.full((8,), 16_000)).scores]
    return [float(s.std(dim=0).mean() / s.square().mean().sqrt()) for s in scores]


def test_speech_reaches_the_scores_of_judges_that_begin_with_unit_gain() -> None:
    """Between clips a score moves by half of its size or more; by torch's default, by a few hundredths of its bias."""
    config = DiscriminatorConfig(num_scales=0, spectral_ffts=(1024, 512, 256), channel_divisor=16)
    heard = share_heard(config.model_copy(update={"unit_gain": True, "spectral_power": 0.3}))
    assert min(heard) > 0.5
    assert max(share_heard(config)) < 0.1
