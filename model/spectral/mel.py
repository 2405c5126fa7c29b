"""Log-mel spectra, for losses and for the first phase of stage 2.

    log(max(M |STFT(x)| 2 / sum(window), 1e-5)),  Hann window, hop n_fft / 4 or as given, frames centred on their hops

``M``: triangles that overlap by half on the mel scale 2595 log10(1 + f / 700), each of area 1. The scale makes a sine
of amplitude A read A whatever the window, so that windows weigh alike in a sum.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from syllabary.model.config import CodecLossConfig
from syllabary.model.layers import full_precision

_FLOOR = 1e-5


class LogMel(nn.Module):
    """Log-mel spectrum with ``bands`` bands up to half the sample rate, in fp32."""

    window: Tensor
    triangles: Tensor

    def __init__(self, sample_rate: int, n_fft: int, bands: int, hop_length: int | None = None) -> None:
        super().__init__()
        self.n_fft, self.hop_length = n_fft, hop_length or n_fft // 4
        self.register_buffer("window", torch.hann_window(n_fft), persistent=False)
        self.register_buffer("triangles", mel_triangles(sample_rate, n_fft, bands), persistent=False)

    @property
    def bands(self) -> int:
        """Bands that hold a bin of the spectrum: at most as many as were asked for."""
        return self.triangles.shape[0]

    def forward(self, waveform: Float[Tensor, "batch samples"]) -> Float[Tensor, "batch bands positions"]:
        """ceil(samples / hop_length) positions; the signal is zero outside the clip."""
        hop = self.hop_length
        front = (self.n_fft - hop) // 2
        positions = -(-waveform.shape[-1] // hop)
        back = (positions - 1) * hop + self.n_fft - front - waveform.shape[-1]
        with full_precision(waveform.device):
            segments = F.pad(waveform.float(), (front, max(0, back))).unfold(-1, self.n_fft, hop)
            magnitude = torch.fft.rfft(segments * self.window).abs() * (2 / self.window.sum())
            return (magnitude @ self.triangles.T).clamp(min=_FLOOR).log().transpose(1, 2)


def mel_triangles(sample_rate: int, n_fft: int, bands: int) -> Float[Tensor, "bands bins"]:
    """Weights of the bins in each band, each band's sum 1; bands too narrow to hold a bin are left out."""
    top = _mel(torch.tensor(sample_rate / 2, dtype=torch.float64))
    edges = 700 * (10 ** (torch.linspace(0, float(top), bands + 2, dtype=torch.float64) / 2595) - 1)
    bins = torch.linspace(0, sample_rate / 2, n_fft // 2 + 1, dtype=torch.float64)
    low, centre, high = edges[:-2, None], edges[1:-1, None], edges[2:, None]
    weights = torch.minimum((bins - low) / (centre - low), (high - bins) / (high - centre)).clamp(min=0)
    total = weights.sum(dim=1, keepdim=True)
    return (weights / total.clamp(min=1e-12))[total[:, 0] > 0].float()


def mel_windows(config: CodecLossConfig, sample_rate: int, device: torch.device | None = None) -> list[LogMel]:
    """The spectra of the mel loss, one for each window size, on a device."""
    return [
        LogMel(sample_rate, n_fft, bands).to(device)
        for n_fft, bands in zip(config.mel_ffts, config.mel_bands, strict=True)
    ]


def _mel(hertz: Float[Tensor, ""]) -> Float[Tensor, ""]:
    return 2595 * torch.log10(1 + hertz / 700)
