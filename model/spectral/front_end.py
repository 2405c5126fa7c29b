"""Beyond the paper: a spectral front end (recipe ``fast16k``).

    log magnitude of an STFT of hop ``strides[0]`` -> kernel-3 conv -> ConvNeXt stages with strided convs between them,
    local attention in the slow ones, a DAAM gate after each stage as in the waveform front end

An STFT frame is centred on its hop and ``T`` samples (a multiple of the hop) give exactly ``T / hop`` frames; the
signal is zero outside the clip.

ConvNeXt blocks over time (Liu et al. 2022, as in Vocos) and the local attention between them, where rates are slow, are
the decoder's too. Their residual branches start near zero (model/layers.py).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from syllabary.model.config import AttentionConfig, DaamConfig, SpectralFrontEndConfig
from syllabary.model.conformer import SelfAttention
from syllabary.model.daam import Daam
from syllabary.model.layers import DownConv1d, SameConv1d, branch_end, full_precision, stretch, unit_gain, zero_invalid


class ChannelNorm(nn.LayerNorm):
    """LayerNorm over the channels of channels-first positions: each position by itself, so padding cannot leak."""

    def forward(self, input: Float[Tensor, "batch channels positions"]) -> Float[Tensor, "batch channels positions"]:
        """Shape is kept."""
        return super().forward(input.transpose(1, 2)).transpose(1, 2)


class ConvNeXtBlock(nn.Module):
    """x += scale * contract(GELU(expand(LN(depthwise(x)))))."""

    def __init__(self, channels: int, kernel: int, expansion: int) -> None:
        super().__init__()
        self.depthwise = unit_gain(nn.Conv1d(channels, channels, kernel, padding=kernel // 2, groups=channels))
        self.norm = nn.LayerNorm(channels)
        self.expand = unit_gain(nn.Linear(channels, expansion * channels))
        self.contract = branch_end(nn.Linear(expansion * channels, channels))
        self.scale = nn.Parameter(torch.ones(channels))

    def forward(
        self, x: Float[Tensor, "batch channels positions"], mask: Bool[Tensor, "batch positions"] | None
    ) -> Float[Tensor, "batch channels positions"]:
        """Shape is kept; invalid positions are read as zeros."""
        hidden = self.norm(self.depthwise(zero_invalid(x, mask)).transpose(1, 2))
        hidden = self.scale * self.contract(F.gelu(self.expand(hidden)))
        return x + hidden.transpose(1, 2)


class LocalAttention(nn.Module):
    """x += attention(LN(x)) over channels-first positions, by rotary positions within a reach."""

    def __init__(self, channels: int, config: AttentionConfig) -> None:
        super().__init__()
        self.attention = SelfAttention(channels, config.num_heads, is_rotary=True, reach=config.reach)

    def forward(
        self, x: Float[Tensor, "batch channels positions"], mask: Bool[Tensor, "batch positions"] | None
    ) -> Float[Tensor, "batch channels positions"]:
        """Shape is kept."""
        return x + self.attention(x.transpose(1, 2), mask).transpose(1, 2)


class ConvNeXtStage(nn.Module):
    """``num_blocks`` blocks of one width; the last ones are each followed by local attention, as many as it has."""

    def __init__(
        self, channels: int, kernel: int, expansion: int, num_blocks: int, *, attention: AttentionConfig
    ) -> None:
        super().__init__()
        self.blocks = nn.ModuleList()
        for i in range(num_blocks):
            self.blocks.append(ConvNeXtBlock(channels, kernel, expansion))
            if i >= num_blocks - attention.num_layers:
                self.blocks.append(LocalAttention(channels, attention))

    def forward(
        self, x: Float[Tensor, "batch channels positions"], mask: Bool[Tensor, "batch positions"] | None
    ) -> Float[Tensor, "batch channels positions"]:
        """Shape is kept."""
        for block in self.blocks:
            x = block(x, mask)
        return x


_MAGNITUDE_FLOOR = 1e-3
_LOG_SCALE = 3.0


class LogSpectrum(nn.Module):
    """log(max(|STFT|, floor) / floor) / 3 with a Hann window and a floor of 1e-3, in fp32.

    Measured from its floor, so that silence, and with it padding, is 0; a plain logarithm has its zero at a magnitude
    of 1, which is speech.
    """

    window: Tensor

    def __init__(self, n_fft: int, hop_length: int) -> None:
        super().__init__()
        self.n_fft, self.hop_length = n_fft, hop_length
        self.register_buffer("window", torch.hann_window(n_fft), persistent=False)

    def forward(self, waveform: Float[Tensor, "batch samples"]) -> Float[Tensor, "batch bins positions"]:
        """``samples`` is a multiple of the hop; bins = n_fft / 2 + 1."""
        margin = (self.n_fft - self.hop_length) // 2
        with full_precision(waveform.device):
            segments = F.pad(waveform.float(), (margin, margin)).unfold(-1, self.n_fft, self.hop_length)
            spectrum = torch.fft.rfft(segments * self.window)
            power = spectrum.real.square() + spectrum.imag.square()
            return self.of_power(power).transpose(1, 2)

    def of_power(self, power: Float[Tensor, "batch *any"]) -> Float[Tensor, "batch *any"]:
        """Of squared magnitudes of any shape."""
        above_floor = (power / _MAGNITUDE_FLOOR**2).clamp(min=1).log()
        return (0.5 / _LOG_SCALE) * above_floor


class SpectralStage(nn.Module):
    """[LN -> strided conv] -> ConvNeXt blocks -> DAAM; the first stage enters by a kernel-3 conv instead."""

    def __init__(self, enter: nn.Module, blocks: ConvNeXtStage, daam: Daam | None) -> None:
        super().__init__()
        self.enter, self.blocks, self.daam = enter, blocks, daam

    def forward(
        self, x: Float[Tensor, "batch inc positions"], mask: Bool[Tensor, "batch shorter"] | None
    ) -> tuple[Float[Tensor, "batch outc shorter"], Float[Tensor, "batch shorter"] | None]:
        """Output and gate density; ``x`` is zero at invalid positions, ``mask`` is that of the output."""
        x = self.blocks(self.enter(x), mask)
        if self.daam is None:
            return x, None
        gated = self.daam(x, mask)
        return gated.values, gated.density


class SpectralFrontEnd(nn.Module):
    """Waveform to frames by way of the spectrum."""

    def __init__(self, config: SpectralFrontEndConfig, daam: DaamConfig) -> None:
        super().__init__()
        self.strides = config.strides
        self.spectrum = LogSpectrum(config.n_fft, config.strides[0])
        self.norms = nn.ModuleList(ChannelNorm(channels) for channels in config.channels[:-1])
        self.stages = nn.ModuleList(_stage(config, daam, i) for i in range(len(config.channels)))

    def forward(
        self, waveform: Float[Tensor, "batch samples"], mask: Bool[Tensor, "batch frames"] | None, hop_length: int
    ) -> tuple[Float[Tensor, "batch channels frames"], Float[Tensor, "batch frames"] | None]:
        """Features and gate density; ``waveform`` is whole frames, zero at invalid samples."""
        rate = hop_length // self.strides[0]
        x, density = self.stages[0](zero_invalid(self.spectrum(waveform), stretch(mask, rate)), stretch(mask, rate))
        for norm, stride, stage in zip(self.norms, self.strides[1:], list(self.stages)[1:], strict=True):
            x = zero_invalid(norm(x), stretch(mask, rate))
            rate //= stride
            x, density = stage(x, stretch(mask, rate))
        return x, density


def _stage(config: SpectralFrontEndConfig, daam: DaamConfig, i: int) -> SpectralStage:
    channels = config.channels[i]
    bins = config.n_fft // 2 + 1
    enter: nn.Module = (
        SameConv1d(bins, channels, 3) if i == 0 else DownConv1d(config.channels[i - 1], channels, config.strides[i])
    )
    blocks = ConvNeXtStage(
        channels, config.kernel, config.expansion, config.num_blocks[i], attention=config.attention_of(i)
    )
    return SpectralStage(enter, blocks, Daam(channels, daam) if daam.enabled else None)
