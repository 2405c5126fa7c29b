"""The codec of stage 2: encoder, FSQ, generator (PAPER section stage 2)."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float, Int
from torch import Tensor, nn

from syllabary.model import hifigan
from syllabary.model.config import HifiganDecoderConfig, ModelConfig
from syllabary.model.encoder import Encoder
from syllabary.model.fsq import Fsq, QuantizeOutput
from syllabary.model.spectral import istft

AnyGenerator = hifigan.Generator | istft.Generator


@dataclass(frozen=True)
class CodecOutput:
    """``waveform`` [batch, frames * hop_length], zero beyond ``num_samples``; ``quantized``; ``num_frames`` [batch]."""

    waveform: Float[Tensor, "batch samples"]
    quantized: QuantizeOutput
    num_frames: Int[Tensor, "batch"]


class Codec(nn.Module):
    """Encoder -> FSQ -> generator. State keys begin with ``encoder.`` and ``generator.``; FSQ has none."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.encoder = Encoder(config.encoder)
        self.fsq = Fsq(config.fsq, config.encoder.latent_dim)
        self.generator = make_generator(config)
        self._encoder_is_frozen = False

    def freeze_encoder(self) -> None:
        """Train the generator alone: no gradient, no dropout in the encoder."""
        self._encoder_is_frozen = True
        self.encoder.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> Codec:
        """As in torch, but a frozen encoder stays without dropout."""
        super().train(mode)
        if self._encoder_is_frozen:
            self.encoder.eval()
        return self

    def forward(self, waveform: Float[Tensor, "batch samples"], num_samples: Int[Tensor, "batch"]) -> CodecOutput:
        """Encode, quantize and decode a batch of clips; keep ``num_samples`` on the CPU."""
        encoded = self.encoder(waveform, num_samples)
        quantized = self.fsq(encoded.latents)
        return CodecOutput(self.generator(quantized.values, num_samples), quantized, encoded.num_frames)


def make_generator(config: ModelConfig) -> AnyGenerator:
    """The generator that the configuration's decoder describes."""
    if isinstance(config.decoder, HifiganDecoderConfig):
        return hifigan.Generator(config.decoder, config.encoder.latent_dim)
    return istft.Generator(config.decoder, config.encoder.latent_dim, config.encoder.sample_rate)
