"""The paper's decoder: HiFi-GAN-like generator from quantized latents to waveform (PAPER section stage 2).

    1x1 conv -> blocks of [SnakeBeta -> transposed conv -> MRF -> optional DAAM] -> conv kernel 7 -> tanh
    MRF (multi-receptive-field fusion): mean of residual blocks of kernels 3, 7, 11

Six MRF kernels are listed (3, 7, 11, 15, 23, 32) but the published code zips them with three dilation lists, so only
3, 7 and 11 exist. Every block multiplies its length exactly: F frames become F * hop_length samples.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from syllabary.model.config import DaamConfig, HifiganDecoderConfig
from syllabary.model.daam import Daam
from syllabary.model.layers import (
    ResidualBlock,
    SameConv1d,
    SnakeBeta,
    UpConv1d,
    frame_mask,
    stretch,
    unit_gain,
    valid_mask,
    zero_invalid,
)

QUIET_GAIN = 0.05  # an untrained generator is about as loud as speech


class Mrf(nn.Module):
    """Mean of one residual block a kernel."""

    def __init__(self, channels: int, config: HifiganDecoderConfig) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            ResidualBlock(channels, kernel, dilations)
            for kernel, dilations in zip(config.mrf_kernels, config.mrf_dilations, strict=True)
        )

    def forward(
        self, x: Float[Tensor, "batch channels positions"], mask: Bool[Tensor, "batch positions"] | None
    ) -> Float[Tensor, "batch channels positions"]:
        """Shape is kept."""
        total = self.blocks[0](x, mask)
        for block in list(self.blocks)[1:]:
            total = total + block(x, mask)
        return total / len(self.blocks)


class UpBlock(nn.Module):
    """SnakeBeta -> transposed conv -> MRF -> optional DAAM."""

    def __init__(self, in_channels: int, out_channels: int, stride: int, config: HifiganDecoderConfig) -> None:
        super().__init__()
        self.snake = SnakeBeta(in_channels)
        self.up = UpConv1d(in_channels, out_channels, stride)
        self.mrf = Mrf(out_channels, config)
        self.daam = Daam(out_channels, DaamConfig()) if config.daam else None

    def forward(
        self, x: Float[Tensor, "batch inc positions"], mask: Bool[Tensor, "batch longer"] | None
    ) -> Float[Tensor, "batch outc longer"]:
        """``x`` is zero at invalid positions, ``mask`` is that of the output."""
        x = self.mrf(self.up(self.snake(x)), mask)
        return x if self.daam is None else self.daam(x, mask).values


class Generator(nn.Module):
    """Quantized latents to waveform."""

    def __init__(self, config: HifiganDecoderConfig, latent_dim: int) -> None:
        super().__init__()
        self.strides = config.strides
        self.hop_length = math.prod(config.strides)
        self.context_frames = _context_frames(config)
        self.is_local = not config.daam
        self.input = unit_gain(nn.Conv1d(latent_dim, config.channels[0], 1))
        self.blocks = nn.ModuleList(
            UpBlock(config.channels[i], config.channels[i + 1], stride, config)
            for i, stride in enumerate(config.strides)
        )
        self.output = unit_gain(SameConv1d(config.channels[-1], 1, config.output_kernel), QUIET_GAIN)

    def forward(
        self, values: Float[Tensor, "batch dim frames"], num_samples: Int[Tensor, "batch"]
    ) -> Float[Tensor, "batch samples"]:
        """Waveforms of ``frames * hop_length`` samples, zero beyond ``num_samples`` (keep that on the CPU)."""
        frames, device = values.shape[-1], values.device
        mask = frame_mask(-(-num_samples.cpu() // self.hop_length), frames, device)
        x, rate = self.input(values), 1
        for stride, block in zip(self.strides, self.blocks, strict=True):
            x = zero_invalid(x, stretch(mask, rate))
            rate *= stride
            x = block(x, stretch(mask, rate))
        waveform = torch.tanh(self.output(zero_invalid(x, stretch(mask, rate))))[:, 0]
        return waveform.masked_fill(~valid_mask(num_samples, frames * self.hop_length, device), 0.0)


def _context_frames(config: HifiganDecoderConfig) -> int:
    """Frames on either side that a sample depends on: what a decoder of chunks must add to each chunk."""
    reach = max(
        sum((kernel // 2) * (dilation + 1) for dilation in dilations)
        for kernel, dilations in zip(config.mrf_kernels, config.mrf_dilations, strict=True)
    )
    total, rate = 0.0, 1
    for stride in config.strides:
        total += 1 / rate  # the second tap of the transposed convolution
        rate *= stride
        total += reach / rate
    return math.ceil(total + (config.output_kernel // 2) / rate)
