"""Encoder and decoder as graphs that another program runs: one clip of any number of frames, real numbers only.

    waveform [1, frames * hop_length] -> digits uint8 [1, dim, frames], margin [1, frames]
    digits uint8 [1, dim, frames] -> waveform [1, frames * hop_length]

The modules are those of the tokenizer with their weights. What a runtime lacks is written otherwise, here and nowhere
else: a spectrum is a convolution with fixed cosines and sines, its inverse a transposed one; and what asks for the
number of frames in Python (a kernel cut to short clips, a mask that is left out where all is near) is the general form.
"""

from __future__ import annotations

import copy
import math
from types import MethodType
from typing import TypeVar, cast

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, UInt8
from torch import Tensor, nn

from syllabary.model import hifigan
from syllabary.model.codec import AnyGenerator, Fsq
from syllabary.model.conformer import SelfAttention
from syllabary.model.encoder import Encoder
from syllabary.model.layers import SameConv1d
from syllabary.model.spectral.formants import formant_factor
from syllabary.model.spectral.front_end import LogSpectrum
from syllabary.model.spectral.istft import InverseStft, IstftHead, bounded_gain
from syllabary.model.spectral.source import Source

M = TypeVar("M", bound=nn.Module)


class EncoderGraph(nn.Module):
    """A waveform of whole frames, at the encoder's rate and loudness, to digits and margins."""

    def __init__(self, encoder: Encoder, fsq: Fsq) -> None:
        super().__init__()
        self.encoder, self.fsq = _general(encoder), fsq

    def forward(
        self, waveform: Float[Tensor, "1 samples"]
    ) -> tuple[UInt8[Tensor, "1 dim frames"], Float[Tensor, "1 frames"]]:
        """Digits and the smallest distance of each frame from the border between two."""
        encoder = self.encoder
        features, _ = encoder.front_end(waveform * encoder.input_gain, None, encoder.framing.hop_length)
        latents = encoder.conformers(encoder.projection(features), None)
        quantized = self.fsq(latents)
        return quantized.level_indices, quantized.margin


class DecoderGraph(nn.Module):
    """Digits to a waveform."""

    def __init__(self, generator: AnyGenerator, fsq: Fsq) -> None:
        super().__init__()
        self.generator, self.fsq = _general(generator), fsq

    def forward(self, digits: UInt8[Tensor, "1 dim frames"]) -> Float[Tensor, "1 samples"]:
        """``frames * hop_length`` samples."""
        values = self.fsq.values_of(digits)
        if isinstance(self.generator, hifigan.Generator):
            return _hifigan(self.generator, values)
        trunk, vocoder = self.generator.trunk, self.generator.vocoder
        features = trunk.with_source(trunk(values, None), None)
        return cast(Tensor, vocoder(features, None, self.generator.formant_gain))


def _hifigan(generator: hifigan.Generator, values: Float[Tensor, "1 dim frames"]) -> Float[Tensor, "1 samples"]:
    x = generator.input(values)
    for block in generator.blocks:
        x = block(x, None)
    return torch.tanh(generator.output(x))[:, 0]


def _general(module: M) -> M:
    """A copy whose every part is written for any number of frames, without complex numbers."""
    module = copy.deepcopy(module).requires_grad_(False).eval()
    for parent in list(module.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, LogSpectrum):
                setattr(parent, name, _RealLogSpectrum(child))
            elif isinstance(child, IstftHead):
                setattr(parent, name, _RealIstftHead(child))
    for part in module.modules():
        if isinstance(part, SameConv1d):
            part.forward = MethodType(_whole_kernel, part)  # type: ignore[method-assign]
        if isinstance(part, Source):
            part.sine = _exact_sine  # type: ignore[method-assign]
        if isinstance(part, SelfAttention) and part.reach is not None:
            part._allowed = MethodType(_within_reach, part)  # type: ignore[method-assign]
    return module


def _whole_kernel(conv: SameConv1d, x: Float[Tensor, "batch inc positions"]) -> Float[Tensor, "batch outc positions"]:
    """All taps: those beyond a short clip see zeros, and change nothing."""
    padding = conv.kernel_size[0] // 2 * conv.dilation[0]
    return F.conv1d(x, conv.weight, conv.bias, padding=padding, dilation=conv.dilation)


def _exact_sine(angle: Tensor) -> Tensor:
    """In double precision: a runtime's sine in single precision is off by more than its last bit far from 0."""
    return angle.double().sin().float()


def _within_reach(attention: SelfAttention, frames: int, mask: None, device: torch.device) -> Bool[Tensor, "f f"]:
    """Which positions may be seen; of a clip no longer than the reach, all."""
    assert attention.reach is not None
    at = torch.arange(frames, device=device)
    return (at[:, None] - at).abs() <= attention.reach


class _Bases(nn.Module):
    """Cosines and sines of a windowed Fourier transform, as the weight of a convolution [2 * bins, 1, n_fft]."""

    weight: Tensor

    def __init__(self, window: Float[Tensor, "n_fft"], hop_length: int) -> None:
        super().__init__()
        n_fft = len(window)
        self.n_fft, self.hop_length, self.bins = n_fft, hop_length, n_fft // 2 + 1
        turns = torch.arange(self.bins)[:, None] * torch.arange(n_fft) % n_fft  # exact, so that no angle is large
        angle = turns.double() * (2 * math.pi / n_fft)
        bases = torch.cat([angle.cos(), -angle.sin()]) * window.double()
        self.register_buffer("weight", bases.float()[:, None])

    def forward(self, waveform: Float[Tensor, "batch samples"]) -> tuple[Tensor, Tensor]:
        """Real and imaginary parts [batch, bins, positions], a position a hop, centred on it."""
        margin = (self.n_fft - self.hop_length) // 2
        parts = F.conv1d(F.pad(waveform, (margin, margin))[:, None], self.weight, stride=self.hop_length)
        real, imaginary = parts.split(self.bins, dim=1)
        return real, imaginary


class _RealLogSpectrum(nn.Module):
    """``LogSpectrum`` without complex numbers."""

    def __init__(self, plain: LogSpectrum) -> None:
        super().__init__()
        self.bases = _Bases(plain.window, plain.hop_length)
        self.of_power = plain.of_power

    def forward(self, waveform: Float[Tensor, "batch samples"]) -> Float[Tensor, "batch bins positions"]:
        """As the plain form's."""
        real, imaginary = self.bases(waveform)
        return self.of_power(real.square() + imaginary.square())


class _RealIstftHead(nn.Module):
    """``IstftHead`` with its inverse STFT, without complex numbers and masks."""

    inverse: Tensor
    envelope: Tensor

    def __init__(self, plain: IstftHead) -> None:
        super().__init__()
        self.norm, self.project, self.bins = plain.norm, plain.project, plain.bins
        stft: InverseStft = plain.stft
        self.bases = _Bases(stft.window, stft.hop_length)
        n_fft, hop = stft.n_fft, stft.hop_length
        # Twice each bin but the first and the last, which stand for themselves; both have no imaginary part.
        count = torch.full((self.bins, 1), 2.0, dtype=torch.float64)
        count[0] = count[-1] = 1.0
        angle = (torch.arange(self.bins)[:, None] * torch.arange(n_fft) % n_fft).double() * (2 * math.pi / n_fft)
        window = stft.window.double() / n_fft
        inverse = torch.cat([count * angle.cos(), -count * angle.sin()]) * window
        self.register_buffer("inverse", inverse.float()[:, None])
        envelope = stft.window.double().square().view(n_fft // hop, hop).sum(dim=0)
        self.register_buffer("envelope", envelope.float())

    def forward(
        self, x: Tensor, mask: None, pulses: Tensor, noise: Tensor, formant_gain: float
    ) -> Float[Tensor, "batch samples"]:
        """``positions * hop_length`` samples."""
        shapes = self.project(self.norm(x)).split(self.bins, dim=1)
        pulse_gain, pulse_phase, noise_gain, magnitude, phase = shapes
        real, imaginary = _polar(magnitude, phase)
        filter_real, filter_imaginary = _polar(pulse_gain, pulse_phase)
        pulse_real, pulse_imaginary = self.bases(pulses)
        noise_real, noise_imaginary = self.bases(noise)
        gain = bounded_gain(noise_gain)
        real = filter_real * pulse_real - filter_imaginary * pulse_imaginary + gain * noise_real + real
        imaginary = filter_real * pulse_imaginary + filter_imaginary * pulse_real + gain * noise_imaginary + imaginary
        if formant_gain:
            factor = formant_factor(real.square() + imaginary.square(), formant_gain)
            real, imaginary = factor * real, factor * imaginary
        return self._inverted(torch.cat([real, imaginary], dim=1))

    def _inverted(self, spectrum: Float[Tensor, "batch bins2 positions"]) -> Float[Tensor, "batch samples"]:
        hop, n_fft = self.bases.hop_length, self.bases.n_fft
        total = F.conv_transpose1d(spectrum, self.inverse, stride=hop)[:, 0]
        margin = (n_fft - hop) // 2
        pieces = total.unflatten(1, (-1, hop)) / self.envelope
        return pieces.flatten(1)[:, margin : total.shape[1] - margin]


def _polar(log_magnitude: Tensor, phase: Tensor) -> tuple[Tensor, Tensor]:
    magnitude = bounded_gain(log_magnitude)
    return magnitude * phase.cos(), magnitude * phase.sin()
