"""MPD and MSD, the discriminators of stage 2 (PAPER section stage 2; Kong et al. 2020, Kumar et al. 2019).

MPD: one 2-D convolutional network a period p over the waveform folded to [time / p, p] (HiFi-GAN's). MSD: grouped 1-D
networks over the waveform at 1, 1/2, 1/4 of its rate; the paper's 16.91 M parameters are MelGAN's, not HiFi-GAN's.
Neither has weight normalization, which the paper's counts leave no room for. Padding is read as zeros at every layer,
and every output carries its valid length, so that losses can leave the rest out.

Beyond the paper, with ``unit_gain``: speech at -24 dBFS is brought to a deviation of one and kept there by the layers.
With torch's default it arrives at the scores at a hundredth of their biases, and the judges learn next to nothing.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from syllabary.model.config import DiscriminatorConfig
from syllabary.model.encoder import rms_of_dbfs
from syllabary.model.layers import LEAKY_GAIN, LEAKY_SLOPE, full_precision, unit_gain, valid_mask

_MPD_WIDTHS = (32, 128, 512, 1024)
_MSD_WIDTHS = (16, 64, 256, 1024, 1024)
_MSD_GROUPS = (4, 16, 64, 256)
_MRSD_WIDTH, _MRSD_STRIDED = 96, 3
_LEAST_POWER = 1e-6
_LOUDER = 1 / rms_of_dbfs(-24.0)  # every clip is at about that level; to a deviation of one


@dataclass(frozen=True)
class FeatureMap:
    """A layer's output: ``values`` [batch, channels, time, ...], zero beyond ``lengths`` [batch] in time."""

    values: Tensor
    lengths: Int[Tensor, "batch"]


@dataclass(frozen=True)
class DiscriminatorOutput:
    """``scores``: one map a sub-discriminator; ``features``: its hidden maps, first layer first; ``num_samples`` of the
    clips, as they were given."""

    scores: list[FeatureMap]
    features: list[list[FeatureMap]]
    num_samples: Int[Tensor, "batch"]


class PeriodDiscriminator(nn.Module):
    """One period: (5, 1) convolutions of stride 3 over the folded waveform."""

    def __init__(self, period: int, divisor: int) -> None:
        super().__init__()
        self.period = period
        widths = [1, *(max(1, width // divisor) for width in _MPD_WIDTHS)]
        layers = [nn.Conv2d(i, o, (5, 1), (3, 1), (2, 0)) for i, o in itertools.pairwise(widths)]
        self.layers = nn.ModuleList([*layers, nn.Conv2d(widths[-1], widths[-1], (5, 1), padding=(2, 0))])
        self.score = nn.Conv2d(widths[-1], 1, (3, 1), padding=(1, 0))

    def forward(
        self, waveform: Float[Tensor, "batch samples"], num_samples: Int[Tensor, "batch"]
    ) -> tuple[FeatureMap, list[FeatureMap]]:
        """Score and hidden maps; ``waveform`` is zero beyond ``num_samples``."""
        folded = F.pad(waveform, (0, -waveform.shape[-1] % self.period)).unflatten(-1, (-1, self.period))
        start = FeatureMap(folded[:, None], -(-num_samples // self.period))
        return _run(start, self.layers, self.score)


class ScaleDiscriminator(nn.Module):
    """One scale: grouped 1-D convolutions of stride 4."""

    def __init__(self, divisor: int) -> None:
        super().__init__()
        widths = [max(1, width // divisor) for width in _MSD_WIDTHS]
        layers: list[nn.Module] = [nn.Conv1d(1, widths[0], 15, padding=7)]
        for i, groups in enumerate(_MSD_GROUPS):
            groups = max(1, groups // divisor)
            layers.append(nn.Conv1d(widths[i], widths[i + 1], 41, 4, padding=20, groups=groups))
        layers.append(nn.Conv1d(widths[-1], widths[-1], 5, padding=2))
        self.layers = nn.ModuleList(layers)
        self.score = nn.Conv1d(widths[-1], 1, 3, padding=1)

    def forward(
        self, waveform: Float[Tensor, "batch samples"], num_samples: Int[Tensor, "batch"]
    ) -> tuple[FeatureMap, list[FeatureMap]]:
        """Score and hidden maps; ``waveform`` is zero beyond ``num_samples``."""
        return _run(FeatureMap(waveform[:, None], num_samples), self.layers, self.score)


class SpectralDiscriminator(nn.Module):
    """Beyond the paper: 2-D convolutions over real and imaginary part of one STFT (MRSD; Défossez et al. 2022).

    Time is the first axis of its maps, frequency, at strides of 2, the second; the STFT's hop is a quarter of its size.
    """

    window: Tensor

    def __init__(self, n_fft: int, divisor: int, power: float = 1.0) -> None:
        super().__init__()
        self.n_fft, self.power = n_fft, power
        self.register_buffer("window", torch.hann_window(n_fft), persistent=False)
        width = max(1, _MRSD_WIDTH // divisor)
        entered = nn.Conv2d(2, width, (3, 9), (1, 2), (1, 4))
        strided = [nn.Conv2d(width, width, (3, 9), (1, 2), (1, 4)) for _ in range(_MRSD_STRIDED)]
        self.layers = nn.ModuleList([entered, *strided, nn.Conv2d(width, width, 3, padding=1)])
        self.score = nn.Conv2d(width, 1, 3, padding=1)

    def forward(
        self, waveform: Float[Tensor, "batch samples"], num_samples: Int[Tensor, "batch"]
    ) -> tuple[FeatureMap, list[FeatureMap]]:
        """Score and hidden maps; ``waveform`` is zero beyond ``num_samples``."""
        hop = self.n_fft // 4
        with full_precision(waveform.device):
            spectrum = torch.stft(
                waveform.float(), self.n_fft, hop, window=self.window, center=True, pad_mode="constant",
                return_complex=True,
            ) / math.sqrt(self.n_fft)  # fmt: skip
        parts = torch.stack([spectrum.real, spectrum.imag], dim=1).transpose(2, 3)
        if self.power < 1:
            # A floor keeps the gradient of a root finite in silence.
            parts = parts * (parts.square().sum(dim=1, keepdim=True) + _LEAST_POWER) ** ((self.power - 1) / 2)
        lengths = -(-num_samples // hop)
        # Frames centred beyond the end still hold some of the clip; how many there are is the batch's affair.
        return _run(FeatureMap(_zeroed(parts, lengths), lengths), self.layers, self.score)


class Discriminators(nn.Module):
    """All periods, all scales and all spectra."""

    def __init__(self, config: DiscriminatorConfig) -> None:
        super().__init__()
        divisor = config.channel_divisor
        self.periods = nn.ModuleList(PeriodDiscriminator(period, divisor) for period in config.periods)
        self.scales = nn.ModuleList(ScaleDiscriminator(divisor) for _ in range(config.num_scales))
        self.spectra = nn.ModuleList(
            SpectralDiscriminator(n_fft, divisor, config.spectral_power) for n_fft in config.spectral_ffts
        )
        self.is_unit_gain = config.unit_gain
        if config.unit_gain:
            self._keep_the_signal()

    @torch.no_grad()
    def _keep_the_signal(self) -> None:
        """Start every layer by the gain of its leaky ReLU; scores near zero, undecided."""
        for judge in (*self.periods, *self.scales, *self.spectra):
            for layer in judge.layers:
                unit_gain(layer, LEAKY_GAIN)
            unit_gain(judge.score, 0.3)

    def forward(
        self, waveform: Float[Tensor, "batch samples"], num_samples: Int[Tensor, "batch"]
    ) -> DiscriminatorOutput:
        """Judge a batch of clips padded at the end."""
        waveform = waveform.masked_fill(~valid_mask(num_samples, waveform.shape[-1], waveform.device), 0.0)
        if self.is_unit_gain:
            waveform = waveform * _LOUDER
        lengths = num_samples.cpu()
        judged = [judge(waveform, lengths) for judge in (*self.periods, *self.spectra)]
        for scale in self.scales:
            judged.append(scale(waveform, lengths))
            waveform, lengths = _halve(waveform), -(-lengths // 2)
        return DiscriminatorOutput([score for score, _ in judged], [features for _, features in judged], num_samples)


def _run(x: FeatureMap, layers: nn.ModuleList, score: nn.Module) -> tuple[FeatureMap, list[FeatureMap]]:
    hidden = []
    for layer in layers:
        x = _apply(layer, x)
        x = FeatureMap(F.leaky_relu(x.values, LEAKY_SLOPE), x.lengths)
        hidden.append(x)
    return _apply(score, x), hidden


def _apply(layer: nn.Module, x: FeatureMap) -> FeatureMap:
    """One odd-kernel, centred convolution: length n becomes ceil(n / stride), zeros beyond."""
    assert isinstance(layer, nn.Conv1d | nn.Conv2d)
    values, lengths = layer(x.values), -(-x.lengths // layer.stride[0])
    return FeatureMap(_zeroed(values, lengths), lengths)


def _zeroed(values: Tensor, lengths: Int[Tensor, "batch"]) -> Tensor:
    """Maps [batch, channels, time, ...] with zeros beyond their lengths in time."""
    mask = valid_mask(lengths, values.shape[2], values.device)
    mask = mask.view(mask.shape[0], 1, mask.shape[1], *[1] * (values.dim() - 3))
    return values.masked_fill(~mask, 0.0)


def _halve(waveform: Float[Tensor, "batch samples"]) -> Float[Tensor, "batch half"]:
    """Average of four samples every two: length n becomes ceil(n / 2)."""
    return F.avg_pool1d(F.pad(waveform, (1, 2))[:, None], 4, 2)[:, 0]
