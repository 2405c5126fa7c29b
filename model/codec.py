"""The codec of stage 2: encoder, FSQ, generator (PAPER section stage 2).

FSQ is finite scalar quantization (Mentzer et al. 2024; PAPER section FSQ and packing):

    z' = tanh(z);  grid_i = (2 i - L + 1) / L,  i = 0 .. L - 1;  nearest grid point, straight-through gradient

For L = 4 the grid is -0.75, -0.25, 0.25, 0.75. Always in fp32: under bf16 about 2 % of the indices flip. It has no
parameters. ``values_of(quantize(z).level_indices) == quantize(z).values`` holds bit for bit.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int, Integer, UInt8
from torch import Tensor, nn

from syllabary.model import hifigan
from syllabary.model.config import FsqConfig, HifiganDecoderConfig, ModelConfig
from syllabary.model.encoder import Encoder
from syllabary.model.layers import full_precision
from syllabary.model.spectral import istft

AnyGenerator = hifigan.Generator | istft.Generator


@dataclass(frozen=True)
class QuantizeOutput:
    """What quantization gives.

    Attributes:
        values: grid points [batch, dim, frames] with the gradient of tanh.
        level_indices: 0 .. levels - 1, uint8.
        margin: smallest distance of a frame's tanh values to a quantization edge [batch, frames]; at most 1 / levels.
    """

    values: Float[Tensor, "batch dim frames"]
    level_indices: UInt8[Tensor, "batch dim frames"]
    margin: Float[Tensor, "batch frames"]


class _StraightThrough(torch.autograd.Function):
    """Forward the grid points exactly (``x + (q - x)`` would round), hand the gradient to the tanh values."""

    @staticmethod
    def forward(ctx: Any, bounded: Tensor, grid: Tensor) -> Tensor:
        return grid

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0], None


@dataclass(frozen=True)
class Routing:
    """Shares of a training batch's clips that are rounded and that get noise; the others stay as they are.

    Noise is uniform and one level wide, what rounding is to a smooth density. Some clips unrounded keep the gradient
    honest and the decoder from freezing onto the first digits (LinaCodec, Kanade and others route alike).
    """

    rounded: float = 1.0
    noisy: float = 0.0


class Fsq(nn.Module):
    """``dims`` scalars of ``levels`` values each."""

    def __init__(self, config: FsqConfig, dims: int) -> None:
        super().__init__()
        self.levels, self.dims = config.levels, dims

    def forward(self, latents: Float[Tensor, "batch dim frames"]) -> QuantizeOutput:
        """Quantize latents of any range and floating type."""
        assert latents.shape[1] == self.dims, f"{latents.shape[1]} dims, expected {self.dims}"
        with full_precision(latents.device):
            bounded = torch.tanh(latents.float())
            scaled = (bounded + 1) * (self.levels / 2)
            indices = scaled.floor().clamp(0, self.levels - 1).to(torch.uint8)
            edges = scaled.round().clamp(1, self.levels - 1)
            margin = (scaled - edges).abs().amin(dim=1) * (2 / self.levels)
            values = _StraightThrough.apply(bounded, self.values_of(indices))
        return QuantizeOutput(values, indices, margin.detach())

    def routed(self, latents: Float[Tensor, "batch dim frames"], routing: Routing) -> Float[Tensor, "batch dim frames"]:
        """Values for training: each clip rounded (straight-through), noisy or only bounded, drawn by ``routing``."""
        with full_precision(latents.device):
            bounded = torch.tanh(latents.float())
            noise = (torch.rand_like(bounded) - 0.5) * (2 / self.levels)
            draw = torch.rand(len(latents), 1, 1, device=latents.device)
            soft = torch.where(draw < routing.rounded + routing.noisy, bounded + noise, bounded)
            return torch.where(draw < routing.rounded, self.forward(latents).values, soft)

    def values_of(self, level_indices: Integer[Tensor, "batch dim frames"]) -> Float[Tensor, "batch dim frames"]:
        """The grid points of level indices."""
        return (2.0 * level_indices.float() - (self.levels - 1)) / self.levels


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
