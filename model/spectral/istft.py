"""Beyond the paper: a decoder with an inverse-STFT head (recipe ``fast16k``), after Vocos (Siuzdak 2023).

    trunk    1x1 conv -> stages of [transposed conv -> ConvNeXt blocks, local attention] -> features, pitch
    vocoder  transposed conv -> ConvNeXt blocks at the STFT rate -> LN -> linear -> a filter of pulses at that pitch, a
             filter of noise, and magnitude and phase of what is neither
             -> inverse FFT -> Hann window -> overlap-add / overlapped squared window

The overlapped squared window is that of an endless signal, so a sample does not depend on where its clip ends, and F
frames give exactly F * hop_length samples.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Complex, Float, Int
from torch import Tensor, nn

from syllabary.model.config import IstftDecoderConfig
from syllabary.model.layers import UpConv1d, frame_mask, full_precision, stretch, unit_gain, valid_mask, zero_invalid
from syllabary.model.spectral.formants import raise_formants
from syllabary.model.spectral.front_end import ChannelNorm, ConvNeXtStage
from syllabary.model.spectral.pitch import PitchLayer, likeliest_hz
from syllabary.model.spectral.source import NUM_SOURCE_CHANNELS, Source, source_channels

_MAX_MAGNITUDE = 1e2
_PITCH_REACH = 3  # positions of the trunk: two by which pitches are smoothed, one to the edge between two


class InverseStft(nn.Module):
    """Complex spectra at the STFT rate to samples."""

    window: Tensor

    def __init__(self, n_fft: int, hop_length: int) -> None:
        super().__init__()
        self.n_fft, self.hop_length = n_fft, hop_length
        self.register_buffer("window", torch.hann_window(n_fft), persistent=False)

    def forward(
        self, spectrum: Complex[Tensor, "batch bins positions"], mask: Bool[Tensor, "batch positions"] | None
    ) -> Float[Tensor, "batch samples"]:
        """``positions * hop_length`` samples; invalid positions add nothing to their neighbours."""
        segments = torch.fft.irfft(zero_invalid(spectrum, mask).transpose(1, 2), n=self.n_fft)
        hop, positions = self.hop_length, segments.shape[1]
        overlap = self.n_fft // hop
        pieces = (segments * self.window.float()).unflatten(2, (overlap, hop))
        total = sum(F.pad(pieces[:, :, i], (0, 0, i, overlap - 1 - i)) for i in range(overlap))
        assert isinstance(total, Tensor)
        envelope = self.window.float().square().view(overlap, hop).sum(dim=0)
        margin = (self.n_fft - hop) // 2
        return (total / envelope).flatten(1)[:, margin : margin + positions * hop]

    def spectra(self, waveform: Float[Tensor, "batch samples"]) -> Complex[Tensor, "batch bins positions"]:
        """The spectra that a waveform of whole hops has at the same positions; it is zero beyond its ends."""
        margin = (self.n_fft - self.hop_length) // 2
        segments = F.pad(waveform, (margin, margin)).unfold(-1, self.n_fft, self.hop_length)
        return torch.fft.rfft(segments * self.window.float()).transpose(1, 2)


class IstftHead(nn.Module):
    """Channels at the STFT rate, pulses and noise to samples.

    The channels give, for each bin, the gain and phase by which pulses are multiplied, the gain of noise, and magnitude
    and phase of what is neither; gains and magnitudes as logarithms.
    """

    def __init__(self, channels: int, n_fft: int, hop_length: int) -> None:
        super().__init__()
        self.bins = n_fft // 2 + 1
        self.norm = ChannelNorm(channels)
        self.project = unit_gain(nn.Conv1d(channels, 5 * self.bins, 1))
        self.stft = InverseStft(n_fft, hop_length)
        self._begin_as_pulses()

    @torch.no_grad()
    def _begin_as_pulses(self) -> None:
        """Pulses all at one phase and as loud as speech, the rest softer."""
        for weight, factor in zip(self.project.weight.split(self.bins), (0.3, 0.1, 0.3, 0.3, 1.0), strict=True):
            weight.mul_(factor)
        assert self.project.bias is not None
        for bias, value in zip(self.project.bias.split(self.bins), (-3.0, 0.0, -4.0, -2.0, 0.0), strict=True):
            bias.fill_(value)

    def forward(
        self,
        x: Float[Tensor, "batch channels positions"],
        mask: Bool[Tensor, "batch positions"] | None,
        pulses: Float[Tensor, "batch samples"],
        noise: Float[Tensor, "batch samples"],
        formant_gain: float = 0.0,
    ) -> Float[Tensor, "batch samples"]:
        """``positions * hop_length`` samples; invalid positions add nothing to their neighbours."""
        shapes = self.project(self.norm(x)).float().split(self.bins, dim=1)
        with full_precision(x.device):
            spectrum = self._shaped(shapes, self.stft.spectra(pulses), self.stft.spectra(noise))
            return self.stft(raise_formants(spectrum, formant_gain) if formant_gain else spectrum, mask)

    def _shaped(self, shapes: Sequence[Tensor], pulses: Tensor, noise: Tensor) -> Tensor:
        pulse_gain, pulse_phase, noise_gain, magnitude, phase = shapes
        return _polar(pulse_gain, pulse_phase) * pulses + bounded_gain(noise_gain) * noise + _polar(magnitude, phase)


def bounded_gain(logarithm: Tensor) -> Tensor:
    """A gain or magnitude of its logarithm."""
    return logarithm.exp().clamp(max=_MAX_MAGNITUDE)


def _polar(log_magnitude: Tensor, phase: Tensor) -> Tensor:
    magnitude = bounded_gain(log_magnitude)
    return torch.complex(magnitude * phase.cos(), magnitude * phase.sin())


class Trunk(nn.Module):
    """Quantized latents to features and pitch: all stages but the last. The bottleneck phase of stage 2 trains it."""

    def __init__(self, config: IstftDecoderConfig, latent_dim: int, sample_rate: int) -> None:
        super().__init__()
        self.sample_rate, self.samples_per_position = sample_rate, config.strides[-2] * config.strides[-1]
        self.strides = config.strides[:-2]
        self.input = unit_gain(nn.Conv1d(latent_dim, config.channels[0], 1))
        self.stages = nn.ModuleList(_stage(config, i) for i in range(len(config.channels) - 1))
        self.ups = nn.ModuleList(
            UpConv1d(config.channels[i], config.channels[i + 1], stride) for i, stride in enumerate(self.strides)
        )
        self.pitch = PitchLayer(config.channels[-2])

    @property
    def rate(self) -> int:
        """Positions per frame."""
        return math.prod(self.strides)

    def forward(
        self, values: Float[Tensor, "batch dim frames"], mask: Bool[Tensor, "batch frames"] | None
    ) -> Float[Tensor, "batch channels positions"]:
        """``rate`` positions per frame, zero at invalid ones; ``mask`` is that of the frames."""
        x, rate = self.stages[0](self.input(values), mask), 1
        for stride, up, stage in zip(self.strides, self.ups, list(self.stages)[1:], strict=True):
            x = up(zero_invalid(x, stretch(mask, rate)))
            rate *= stride
            x = stage(x, stretch(mask, rate))
        return zero_invalid(x, stretch(mask, rate))

    def with_source(
        self,
        features: Float[Tensor, "batch channels positions"],
        mask: Bool[Tensor, "batch frames"] | None,
        heard_hz: Float[Tensor, "batch positions"] | None = None,
    ) -> Float[Tensor, "batch more positions"]:
        """What the vocoder takes: the features, followed by the four channels of its source.

        ``heard_hz``: the pitch of the original where it is voiced, else 0; in training the vocoder sounds at it, so
        that it learns to shape harmonics and not to hide that the decoded ones lie elsewhere.
        """
        finer = stretch(mask, self.rate)
        with full_precision(features.device):
            hertz = likeliest_hz(self.pitch(features.float()), finer)
            if heard_hz is not None:
                heard_hz = F.pad(heard_hz, (0, max(0, hertz.shape[1] - heard_hz.shape[1])))[:, : hertz.shape[1]]
                hertz = torch.where(heard_hz > 0, heard_hz, hertz)
            source = source_channels(hertz, finer, self.rate, self.samples_per_position, self.sample_rate)
            return torch.cat([features.float(), source], dim=1)


class Vocoder(nn.Module):
    """Features and source to samples: the last stage and the inverse-STFT head. Local, so it trains on short crops."""

    def __init__(self, config: IstftDecoderConfig) -> None:
        super().__init__()
        *_, self.stride, stft_hop = config.strides
        self.samples_per_position = self.stride * stft_hop
        *_, trunk_width, width = config.channels
        self.source = Source(math.prod(config.strides[:-2]), self.samples_per_position)
        self.up = UpConv1d(trunk_width, width, self.stride)
        self.stage = _stage(config, len(config.channels) - 1)
        self.head = IstftHead(width, config.n_fft, stft_hop)

    def forward(
        self,
        features: Float[Tensor, "batch channels positions"],
        mask: Bool[Tensor, "batch positions"] | None,
        formant_gain: float = 0.0,
    ) -> Float[Tensor, "batch samples"]:
        """``samples_per_position`` samples for each position of whole clips, or of crops of them.

        ``features``, as ``Trunk.with_source`` gives them, are zero at invalid positions. Near the ends of a crop
        samples differ from those of the whole clip. Losses hear it without a ``formant_gain``, which they would undo.
        """
        finer = stretch(mask, self.stride)
        with full_precision(features.device):
            pulses, noise = self.source(features[:, -NUM_SOURCE_CHANNELS:].float())
        channels = self.stage(self.up(features[:, :-NUM_SOURCE_CHANNELS]), finer)
        return self.head(channels, finer, pulses, noise, formant_gain)


class Generator(nn.Module):
    """Quantized latents to waveform, by trunk and vocoder; the same interface as
    ``syllabary.model.hifigan.Generator``."""

    def __init__(self, config: IstftDecoderConfig, latent_dim: int, sample_rate: int) -> None:
        super().__init__()
        self.hop_length = math.prod(config.strides)
        self.context_frames = _context_frames(config)
        self.is_local = True
        self.formant_gain = config.formant_gain
        self.trunk, self.vocoder = Trunk(config, latent_dim, sample_rate), Vocoder(config)

    def forward(
        self, values: Float[Tensor, "batch dim frames"], num_samples: Int[Tensor, "batch"]
    ) -> Float[Tensor, "batch samples"]:
        """Waveforms of ``frames * hop_length`` samples, zero beyond ``num_samples`` (keep that on the CPU)."""
        frames, device = values.shape[-1], values.device
        mask = frame_mask(-(-num_samples.cpu() // self.hop_length), frames, device)
        features = self.trunk.with_source(self.trunk(values, mask), mask)
        waveform = self.vocoder(features, stretch(mask, self.trunk.rate), self.formant_gain)
        return waveform.masked_fill(~valid_mask(num_samples, frames * self.hop_length, device), 0.0)


def _stage(config: IstftDecoderConfig, i: int) -> ConvNeXtStage:
    return ConvNeXtStage(
        config.channels[i], config.kernel, config.expansion, config.num_blocks[i], attention=config.attention_of(i)
    )


def _context_frames(config: IstftDecoderConfig) -> int:
    """Frames on either side that a sample depends on: what a decoder of chunks must add to each chunk."""
    reaches, rate = [], 1
    for i, blocks in enumerate(config.num_blocks):
        attention = config.attention_of(i)
        reaches.append((blocks * (config.kernel // 2) + attention.num_layers * attention.reach) / rate)
        if i + 1 < len(config.num_blocks):
            reaches.append(1 / rate)
            rate *= config.strides[i]
    *trunk, up, stage = reaches
    overlap = config.n_fft // config.strides[-1]
    vocoder = up + stage + (overlap // 2) / rate  # a frame of the STFT is centred on its hop
    # The source's spectrum sees as much again, and what it sees depends on all pitches of its frame and some beyond.
    source = math.ceil(overlap / rate) + _PITCH_REACH * config.strides[-2] / rate
    return math.ceil(sum(trunk) + max(vocoder, source))
