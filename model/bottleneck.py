"""The first phase of stage 2: audio to tokens to log-mel, without a waveform (beyond the paper).

    encoder -> FSQ, routed by clip -> trunk of the decoder -> linear head -> log-mel at the STFT rate
                                                           -> pitch layer -> pitch of each position of the trunk

What 640 bit/s can hold is decided here, by a loss that is cheap and needs no adversary; the second phase trains the
vocoder, which is local and has no bottleneck, on the trunk's features at rest.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from syllabary.model.codec import Codec, Fsq, Routing
from syllabary.model.config import IstftDecoderConfig, ModelConfig
from syllabary.model.encoder import Encoder
from syllabary.model.layers import frame_mask, over_clips, unit_gain, valid_mask
from syllabary.model.spectral.istft import Generator, Trunk
from syllabary.model.spectral.mel import LogMel

MEL_FFT, MEL_BANDS = 1024, 100
_QUIET_LOG = -6.0  # about the mean of a log-mel spectrum at -24 dBFS
_SPECTRA_PER_S = 100
_FAR = 4  # positions apart of the slower of two differences in time


@dataclass(frozen=True)
class BottleneckOutput:
    """``mel`` [batch, bands, positions at the STFT rate]; ``pitch`` [batch, states, positions of the trunk], scores;
    ``latents`` [batch, dim, frames]; ``num_frames`` [batch]."""

    mel: Float[Tensor, "batch bands positions"]
    pitch: Float[Tensor, "batch states coarser"]
    latents: Float[Tensor, "batch dim frames"]
    num_frames: Int[Tensor, "batch"]


class MelHead(nn.Module):
    """The trunk's features to log-mel; each position gives the spectra of the STFT frames that it will become."""

    def __init__(self, channels: int, spectra_per_position: int) -> None:
        super().__init__()
        self.spectra_per_position = spectra_per_position
        self.project = unit_gain(nn.Conv1d(channels, MEL_BANDS * spectra_per_position, 1), gain=0.3)
        assert self.project.bias is not None
        nn.init.constant_(self.project.bias, _QUIET_LOG)

    def forward(self, features: Float[Tensor, "batch channels positions"]) -> Float[Tensor, "batch bands finer"]:
        """Spectra side by side in time."""
        apart = self.project(features).unflatten(1, (self.spectra_per_position, MEL_BANDS))
        return apart.permute(0, 2, 3, 1).flatten(2)


class Bottleneck(nn.Module):
    """Encoder, FSQ, trunk and mel head; encoder and trunk are those of a codec."""

    def __init__(self, codec: Codec, decoder: IstftDecoderConfig) -> None:
        super().__init__()
        assert isinstance(codec.generator, Generator)
        self.encoder: Encoder = codec.encoder
        self.fsq: Fsq = codec.fsq
        self.trunk: Trunk = codec.generator.trunk
        self.head = MelHead(decoder.channels[-2], decoder.strides[-2])

    def forward(
        self, waveform: Float[Tensor, "batch samples"], num_samples: Int[Tensor, "batch"], routing: Routing
    ) -> BottleneckOutput:
        """The mel spectra that the tokens of a batch give; keep ``num_samples`` on the CPU."""
        encoded = self.encoder(waveform, num_samples)
        values = self.fsq.routed(encoded.latents, routing)
        features = self._features(values, encoded.num_frames)
        mel, pitch = self.head(features).float(), self.trunk.pitch(features).float()
        return BottleneckOutput(mel, pitch, encoded.latents, encoded.num_frames)

    def mel_of(
        self, values: Float[Tensor, "batch dim frames"], num_frames: Int[Tensor, "batch"]
    ) -> Float[Tensor, "batch bands positions"]:
        """The mel spectra of quantized latents."""
        return self.head(self._features(values, num_frames)).float()

    def _features(
        self, values: Float[Tensor, "batch dim frames"], num_frames: Int[Tensor, "batch"]
    ) -> Float[Tensor, "batch channels positions"]:
        return self.trunk(values, frame_mask(num_frames, values.shape[-1], values.device))


def bottleneck_mel(config: ModelConfig) -> LogMel:
    """The spectra that the head learns and stage 2 is validated by: at the hop of the decoder's STFT, or 10 ms."""
    is_spectral = isinstance(config.decoder, IstftDecoderConfig)
    hop = config.decoder.strides[-1] if is_spectral else config.encoder.sample_rate // _SPECTRA_PER_S
    return LogMel(config.encoder.sample_rate, MEL_FFT, MEL_BANDS, hop)


def mel_l1(
    predicted: Float[Tensor, "batch bands positions"],
    wanted: Float[Tensor, "batch bands positions"],
    num_samples: Int[Tensor, "batch"],
    hop_length: int,
) -> Float[Tensor, ""]:
    """Mean absolute difference over the valid positions: each clip's own mean, weighted by its samples.

    Batches weighted by their samples add up to the undivided batch, as all losses here do (model/losses.py).
    """
    return over_clips(_distances(predicted, wanted, -(-num_samples // hop_length)), num_samples)


def mel_loss_in_time(
    predicted: Float[Tensor, "batch bands positions"],
    wanted: Float[Tensor, "batch bands positions"],
    num_samples: Int[Tensor, "batch"],
    hop_length: int,
) -> Float[Tensor, ""]:
    """L1 of spectra, and half of the L1 of their differences over 1 and over 4 positions.

    The differences weigh what moves, which a plain L1 under a tight code would blur away.
    """
    num_positions = -(-num_samples // hop_length)
    terms = _distances(predicted, wanted, num_positions)
    for apart in (1, _FAR):
        moved = [m[..., apart:] - m[..., :-apart] for m in (predicted, wanted)]
        terms = terms + 0.5 * _distances(moved[0], moved[1], (num_positions - apart).clamp(min=0))
    return over_clips(terms, num_samples)


def _distances(
    predicted: Float[Tensor, "batch bands positions"],
    wanted: Float[Tensor, "batch bands positions"],
    num_positions: Int[Tensor, "batch"],
) -> Float[Tensor, "batch"]:
    """Each clip's mean absolute difference over its valid positions; 0 where it has none."""
    shared = min(predicted.shape[-1], wanted.shape[-1])
    mask = valid_mask(num_positions, shared, wanted.device)
    apart = (predicted[..., :shared] - wanted[..., :shared]).abs().mean(dim=1).masked_fill(~mask, 0.0)
    return apart.sum(dim=1) / mask.sum(dim=1).clamp(min=1)


def random_crops(
    features: Float[Tensor, "batch channels positions"],
    waveform: Float[Tensor, "batch samples"],
    num_positions: Int[Tensor, "batch"],
    length: int,
    samples_per_position: int,
) -> tuple[Float[Tensor, "batch channels length"], Float[Tensor, "batch crop"]]:
    """One crop of ``length`` positions from the valid part of each clip, and its samples, from torch's generator.

    A clip that is shorter is followed by what its padding holds: zeros.
    """
    spare = (num_positions - length).clamp(min=0)
    starts = (torch.rand(len(features)) * (spare + 1)).floor().long().clamp(max=spare).tolist()
    short = max(0, length - features.shape[-1])
    features, waveform = F.pad(features, (0, short)), F.pad(waveform, (0, short * samples_per_position))
    crops = [f[:, s : s + length] for f, s in zip(features, starts, strict=True)]
    k = samples_per_position
    sound = [w[s * k : (s + length) * k] for w, s in zip(waveform, starts, strict=True)]
    return torch.stack(crops), torch.stack(sound)
