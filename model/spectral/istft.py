"""Beyond the paper: a decoder with an inverse-STFT head (recipe ``fast16k``), after Vocos (Siuzdak 2023).

    trunk    1x1 conv -> stages of [transposed conv -> ConvNeXt blocks, local attention]
    vocoder  transposed conv -> ConvNeXt blocks at the STFT rate -> LN -> linear -> magnitude, phase
             -> inverse FFT -> Hann window -> overlap-add / overlapped squared window

The overlapped squared window is that of an endless signal, so a sample does not depend on where its clip ends, and F
frames give exactly F * hop_length samples.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from syllabary.model.config import IstftDecoderConfig
from syllabary.model.convolution import UpConv1d
from syllabary.model.initialize import unit_gain
from syllabary.model.padding import frame_mask, stretch, valid_mask, zero_invalid
from syllabary.model.precision import full_precision
from syllabary.model.spectral.convnext import ChannelNorm, ConvNeXtStage

_MAX_MAGNITUDE = 1e2


class IstftHead(nn.Module):
    """Channels at the STFT rate to samples."""

    window: Tensor

    def __init__(self, channels: int, n_fft: int, hop_length: int) -> None:
        super().__init__()
        self.n_fft, self.hop_length = n_fft, hop_length
        self.norm = ChannelNorm(channels)
        self.project = unit_gain(nn.Conv1d(channels, n_fft + 2, 1))
        self.register_buffer("window", torch.hann_window(n_fft), persistent=False)

    def forward(
        self, x: Float[Tensor, "batch channels positions"], mask: Bool[Tensor, "batch positions"] | None
    ) -> Float[Tensor, "batch samples"]:
        """``positions * hop_length`` samples; invalid positions add nothing to their neighbours."""
        log_magnitude, phase = self.project(self.norm(x)).float().chunk(2, dim=1)
        with full_precision(x.device):
            magnitude = log_magnitude.exp().clamp(max=_MAX_MAGNITUDE)
            spectrum = torch.complex(magnitude * phase.cos(), magnitude * phase.sin())
            segments = torch.fft.irfft(zero_invalid(spectrum, mask).transpose(1, 2), n=self.n_fft)
            return self._overlap_add(segments * self.window.float())

    def _overlap_add(self, segments: Float[Tensor, "batch positions n_fft"]) -> Float[Tensor, "batch samples"]:
        hop, positions = self.hop_length, segments.shape[1]
        overlap = self.n_fft // hop
        pieces = segments.unflatten(2, (overlap, hop))
        total = sum(F.pad(pieces[:, :, i], (0, 0, i, overlap - 1 - i)) for i in range(overlap))
        assert isinstance(total, Tensor)
        envelope = self.window.float().square().view(overlap, hop).sum(dim=0)
        margin = (self.n_fft - hop) // 2
        return (total / envelope).flatten(1)[:, margin : margin + positions * hop]


class Trunk(nn.Module):
    """Quantized latents to features: all stages but the last. The bottleneck phase of stage 2 trains it."""

    def __init__(self, config: IstftDecoderConfig, latent_dim: int) -> None:
        super().__init__()
        self.strides = config.strides[:-2]
        self.input = unit_gain(nn.Conv1d(latent_dim, config.channels[0], 1))
        self.stages = nn.ModuleList(_stage(config, i) for i in range(len(config.channels) - 1))
        self.ups = nn.ModuleList(
            UpConv1d(config.channels[i], config.channels[i + 1], stride) for i, stride in enumerate(self.strides)
        )

    @property
    def rate(self) -> int:
        """Positions a frame."""
        return math.prod(self.strides)

    def forward(
        self, values: Float[Tensor, "batch dim frames"], mask: Bool[Tensor, "batch frames"] | None
    ) -> Float[Tensor, "batch channels positions"]:
        """``rate`` positions a frame, zero at invalid ones; ``mask`` is that of the frames."""
        x, rate = self.stages[0](self.input(values), mask), 1
        for stride, up, stage in zip(self.strides, self.ups, list(self.stages)[1:], strict=True):
            x = up(zero_invalid(x, stretch(mask, rate)))
            rate *= stride
            x = stage(x, stretch(mask, rate))
        return zero_invalid(x, stretch(mask, rate))


class Vocoder(nn.Module):
    """The trunk's features to samples: the last stage and the inverse-STFT head. Local, so it trains on short crops."""

    def __init__(self, config: IstftDecoderConfig) -> None:
        super().__init__()
        *_, self.stride, stft_hop = config.strides
        self.samples_per_position = self.stride * stft_hop
        *_, trunk_width, width = config.channels
        self.up = UpConv1d(trunk_width, width, self.stride)
        self.stage = _stage(config, len(config.channels) - 1)
        self.head = IstftHead(width, config.n_fft, stft_hop)

    def forward(
        self, features: Float[Tensor, "batch channels positions"], mask: Bool[Tensor, "batch positions"] | None
    ) -> Float[Tensor, "batch samples"]:
        """``samples_per_position`` samples for each position of whole clips, or of crops of them.

        ``features`` are zero at invalid positions. Near the ends of a crop samples differ from those of the whole clip.
        """
        finer = stretch(mask, self.stride)
        return self.head(self.stage(self.up(features), finer), finer)


class Generator(nn.Module):
    """Quantized latents to waveform, by trunk and vocoder; the same interface as
    ``syllabary.model.hifigan.Generator``."""

    def __init__(self, config: IstftDecoderConfig, latent_dim: int) -> None:
        super().__init__()
        self.hop_length = math.prod(config.strides)
        self.context_frames = _context_frames(config)
        self.is_local = True
        self.trunk, self.vocoder = Trunk(config, latent_dim), Vocoder(config)

    def forward(
        self, values: Float[Tensor, "batch dim frames"], num_samples: Int[Tensor, "batch"]
    ) -> Float[Tensor, "batch samples"]:
        """Waveforms of ``frames * hop_length`` samples, zero beyond ``num_samples`` (keep that on the CPU)."""
        frames, device = values.shape[-1], values.device
        mask = frame_mask(-(-num_samples.cpu() // self.hop_length), frames, device)
        waveform = self.vocoder(self.trunk(values, mask), stretch(mask, self.trunk.rate))
        return waveform.masked_fill(~valid_mask(num_samples, frames * self.hop_length, device), 0.0)


def _stage(config: IstftDecoderConfig, i: int) -> ConvNeXtStage:
    return ConvNeXtStage(
        config.channels[i], config.kernel, config.expansion, config.num_blocks[i], attention=config.attention_of(i)
    )


def _context_frames(config: IstftDecoderConfig) -> int:
    """Frames on either side that a sample depends on: what a decoder of chunks must add to each chunk."""
    total, rate = 0.0, 1
    for i, blocks in enumerate(config.num_blocks):
        attention = config.attention_of(i)
        total += (blocks * (config.kernel // 2) + attention.num_layers * attention.reach) / rate
        if i + 1 < len(config.num_blocks):
            total += 1 / rate
            rate *= config.strides[i]
    overlap = config.n_fft // config.strides[-1]
    return math.ceil(total + (overlap // 2) / rate)  # a frame is centred on its hop
