"""The encoder: waveform to latents at the frame rate (PAPER section stage 1).

    input conv 1 -> 64; blocks of [strided conv -> SnakeBeta -> residual blocks -> DAAM]; 1x1 conv to latent_dim;
    Conformer layers at latent_dim channels

The text of the paper puts the Conformers at 512 channels, its figure and code at 128; only 128 gives its parameter
counts. Lengths go through every layer (model/layers.py), so a clip's latents do not depend on its batch.

Every utterance is brought to one loudness L before anything else sees it (:func:`loudness_gain`):

    blocks of 20 ms from the first sample on, power p_i (the last one filled up with zeros)
    heard = {i: p_i > -70 dBFS};  active = {i in heard: p_i > mean over heard of p - 20 dB}
    gain = min(10^(L / 20) / sqrt(mean over active of p), 1 / peak)

A gate as in ITU-R BS.1770, without its filter: silence beside speech, padding included, changes nothing, and neither
does the company of other clips. The encoder never has to spend code on how near the microphone was; tokens decode to
speech at the level L. Silence stays as it is, nothing is lifted from below -70 dBFS, and no peak leaves -1 .. 1.
Deviation: the paper takes samples as they come.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from syllabary.model.config import DaamConfig, EncoderConfig, WaveformFrontEndConfig
from syllabary.model.conformer import ConformerLayer, ConformerStack
from syllabary.model.daam import Daam
from syllabary.model.layers import (
    SNAKE_GAIN,
    DownConv1d,
    ResidualBlock,
    ResidualStage,
    SameConv1d,
    SnakeBeta,
    frame_mask,
    stretch,
    unit_gain,
    valid_mask,
    zero_invalid,
)
from syllabary.model.spectral.front_end import SpectralFrontEnd

_BLOCKS_PER_S = 50
_HEARD_DBFS, _ACTIVE_DB = -70.0, -20.0


def rms_of_dbfs(level_dbfs: float) -> float:
    """The RMS of a level in dB below full scale."""
    return float(10 ** (level_dbfs / 20))


def active_rms(samples: Float[Tensor, "samples"], sample_rate: int) -> float:
    """RMS of the blocks in which something is to be heard; 0 for silence."""
    block = max(1, sample_rate // _BLOCKS_PER_S)
    padded = F.pad(samples.double(), (0, -len(samples) % block))
    power = padded.view(-1, block).square().mean(dim=1)
    heard = power[power > rms_of_dbfs(_HEARD_DBFS) ** 2]
    if not len(heard):
        return 0.0
    return float(heard[heard > heard.mean() * rms_of_dbfs(_ACTIVE_DB) ** 2].mean().sqrt())


def loudness_gain(samples: Float[Tensor, "samples"], sample_rate: int, loudness_dbfs: float) -> float:
    """The factor that brings an utterance to ``loudness_dbfs``; 1 for silence."""
    rms = active_rms(samples, sample_rate)
    if not rms:
        return 1.0
    return min(rms_of_dbfs(loudness_dbfs) / rms, 1 / float(samples.abs().max()))


@dataclass(frozen=True)
class FeatureOutput:
    """What the Conformers read.

    Attributes:
        features: projected front-end output [batch, latent_dim, frames].
        num_frames: valid frames per clip [batch], on the CPU.
        gate: density of the last DAAM gate [batch, frames]; zeros without DAAM.
    """

    features: Float[Tensor, "batch dim frames"]
    num_frames: Int[Tensor, "batch"]
    gate: Float[Tensor, "batch frames"]


@dataclass(frozen=True)
class EncodeOutput:
    """Latents, zero at invalid frames, with ``num_frames`` and ``gate`` as in :class:`FeatureOutput`."""

    latents: Float[Tensor, "batch dim frames"]
    num_frames: Int[Tensor, "batch"]
    gate: Float[Tensor, "batch frames"]


class DownBlock(nn.Module):
    """Strided conv -> SnakeBeta -> residual blocks with dilations 1, 3^i, 5^i -> DAAM."""

    def __init__(
        self, in_channels: int, out_channels: int, stride: int, config: WaveformFrontEndConfig, daam: DaamConfig
    ) -> None:
        super().__init__()
        self.down = unit_gain(DownConv1d(in_channels, out_channels, stride), SNAKE_GAIN)
        self.snake = SnakeBeta(out_channels)
        self.residual = ResidualStage(
            ResidualBlock(out_channels, config.residual_kernel, (1, 3**i, 5**i))
            for i in range(config.num_residual_blocks)
        )
        self.daam = Daam(out_channels, daam) if daam.enabled else None

    def forward(
        self, x: Float[Tensor, "batch inc positions"], mask: Bool[Tensor, "batch shorter"] | None
    ) -> tuple[Float[Tensor, "batch outc shorter"], Float[Tensor, "batch shorter"] | None]:
        """Output and gate density; ``x`` is zero at invalid positions, ``mask`` is that of the output."""
        x = self.snake(self.down(x))
        x = self.residual(x, mask)
        if self.daam is None:
            return x, None
        gated = self.daam(x, mask)
        return gated.values, gated.density


class WaveformFrontEnd(nn.Module):
    """The paper's front end: strided convolutions from samples to frames."""

    def __init__(self, config: WaveformFrontEndConfig, daam: DaamConfig) -> None:
        super().__init__()
        self.strides = config.strides
        self.input = SameConv1d(1, config.channels[0], config.input_kernel)
        self.blocks = nn.ModuleList(
            DownBlock(config.channels[i], config.channels[i + 1], stride, config, daam)
            for i, stride in enumerate(config.strides)
        )

    def forward(
        self, waveform: Float[Tensor, "batch samples"], mask: Bool[Tensor, "batch frames"] | None, hop_length: int
    ) -> tuple[Float[Tensor, "batch channels frames"], Float[Tensor, "batch frames"] | None]:
        """Features and gate density; ``waveform`` is whole frames, zero at invalid samples."""
        x, density, rate = self.input(waveform[:, None]), None, hop_length
        for stride, block in zip(self.strides, self.blocks, strict=True):
            x = zero_invalid(x, stretch(mask, rate))
            rate //= stride
            x, density = block(x, stretch(mask, rate))
        return x, density


class Encoder(nn.Module):
    """Waveform to latents: front end, 1x1 projection, Conformers."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.framing = config.framing
        front_end = config.front_end
        # Speech enters the first convolution with a variance of 1; a spectrum is measured from its floor instead.
        is_waveform = isinstance(front_end, WaveformFrontEndConfig)
        self.input_gain = 1 / rms_of_dbfs(config.loudness_dbfs) if is_waveform else 1.0
        self.front_end: nn.Module  # waveform or spectral, or a fused form of the former (model/cpu/accelerate.py)
        if isinstance(front_end, WaveformFrontEndConfig):
            self.front_end = WaveformFrontEnd(front_end, config.daam)
        else:
            self.front_end = SpectralFrontEnd(front_end, config.daam)
        self.projection = unit_gain(nn.Conv1d(front_end.channels[-1], config.latent_dim, 1))
        self.conformers = ConformerStack(config.conformer.num_layers, config.latent_dim, config.conformer)

    def features(self, waveform: Float[Tensor, "batch samples"], num_samples: Int[Tensor, "batch"]) -> FeatureOutput:
        """What the Conformers read. ``waveform`` at the model's sample rate; ``num_samples`` valid ones per clip.

        Keep ``num_samples`` on the CPU: lengths decide shapes.
        """
        hop = self.framing.hop_length
        num_frames = -(-num_samples.cpu() // hop)
        padded = F.pad(waveform, (0, -waveform.shape[-1] % hop))
        padded = padded.masked_fill(~valid_mask(num_samples, padded.shape[-1], padded.device), 0.0)
        mask = frame_mask(num_frames, padded.shape[-1] // hop, padded.device)
        x, density = self.front_end(padded * self.input_gain, mask, hop)
        features = self.projection(x)
        gate = features.new_zeros(features.shape[0], features.shape[-1]) if density is None else density
        return FeatureOutput(features, num_frames, gate)

    def contextualize(
        self, features: Float[Tensor, "batch dim frames"], num_frames: Int[Tensor, "batch"]
    ) -> Float[Tensor, "batch dim frames"]:
        """Latents of features (or of features with some frames masked); zero at invalid frames."""
        mask = frame_mask(num_frames, features.shape[-1], features.device)
        return zero_invalid(self.conformers(features, mask), mask)

    @torch.no_grad()
    def standardize(self, mean: Float[Tensor, "dim"], std: Float[Tensor, "dim"]) -> None:
        """From now on give ``(latents - mean) / std``, by changing the last affine weights in place."""
        last: nn.LayerNorm | nn.Conv1d = self.projection
        for layer in self.conformers.layers:
            assert isinstance(layer, ConformerLayer)
            last = layer.norm
        assert last.bias is not None
        last.weight.div_(std.reshape(-1, *[1] * (last.weight.dim() - 1)))
        last.bias.sub_(mean).div_(std)

    def forward(self, waveform: Float[Tensor, "batch samples"], num_samples: Int[Tensor, "batch"]) -> EncodeOutput:
        """Latents of a batch of clips [batch, samples], padded at the end; see :meth:`features`."""
        front = self.features(waveform, num_samples)
        return EncodeOutput(self.contextualize(front.features, front.num_frames), front.num_frames, front.gate)
