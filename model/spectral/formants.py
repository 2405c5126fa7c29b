"""Formants that stand out again (beyond the paper): a filter behind the decoder, as speech codecs of few bits have one.

    g(f) = exp(gain * (narrow(f) - wide(f))),   each mean of log |X| over 280 Hz and over 2 kHz around f

A code of few bits is decoded to the mean of all that a token may stand for. A mean of spectra has its formants where
they are, and its valleys filled. The narrow mean leaves harmonics alone, the wide one is the tilt of the spectrum; each
frame keeps its energy. Nothing is learned or drawn, and a frame depends on itself alone.
"""

from __future__ import annotations

import torch.nn.functional as F
from jaxtyping import Complex, Float
from torch import Tensor

# Shares of half the sample rate; at 16 kHz 280 Hz, which is more than harmonics are apart, and 2 kHz.
NARROW, WIDE = 0.035, 0.25
_MOST = 1.5  # nepers, 13 dB either way
_LEAST_POWER = 1e-12


def raise_formants(
    spectrum: Complex[Tensor, "batch bins positions"], gain: float
) -> Complex[Tensor, "batch bins positions"]:
    """The spectra with peaks raised and valleys lowered by ``gain`` times their height, at the same energy."""
    return spectrum * formant_factor(spectrum.real.square() + spectrum.imag.square(), gain)


def formant_factor(power: Float[Tensor, "batch bins positions"], gain: float) -> Float[Tensor, "batch bins positions"]:
    """What spectra of that power are multiplied by."""
    log_magnitude = (power + _LEAST_POWER).log() / 2
    height = _smoothed(log_magnitude, NARROW) - _smoothed(log_magnitude, WIDE)
    factor = (gain * height).clamp(-_MOST, _MOST).exp()
    energy, filtered = power.sum(dim=1, keepdim=True), (power * factor.square()).sum(dim=1, keepdim=True)
    return factor * (energy / (filtered + _LEAST_POWER)).sqrt()


def _smoothed(
    log_magnitude: Float[Tensor, "batch bins positions"], share: float
) -> Float[Tensor, "batch bins positions"]:
    """Means over an odd number of bins, that share of all; the outermost bin stands for what is beyond it."""
    bins = log_magnitude.shape[1]
    reach = int(share * bins) // 2
    by_position = log_magnitude.transpose(1, 2)
    padded = F.pad(by_position, (reach, reach), mode="replicate")
    return F.avg_pool1d(padded, 2 * reach + 1, stride=1).transpose(1, 2)
