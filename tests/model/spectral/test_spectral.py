"""The log spectrum against a discrete Fourier transform written as a matrix, and against scipy's STFT.

log(max(|STFT|, 1e-3) / 1e-3) / 3,   so that silence, and padding, is exactly 0
"""

from __future__ import annotations

import numpy as np
import pytest
import scipy.signal
import torch

from syllabary.model.spectral.front_end import LogSpectrum

FLOOR, SCALE = 1e-3, 3.0
SHAPES = [(16, 4), (32, 8), (640, 160), (48, 16)]  # n_fft, hop; hops before and after the clip are whole or not


def wave(samples: int) -> np.ndarray:
    """Noise that fades from loud to below the floor, so that both sides of it are seen."""
    rng = np.random.default_rng(samples)
    return (rng.standard_normal(samples) * np.geomspace(1, 1e-6, samples)).astype(np.float32)


def by_matrix(signal: np.ndarray, n_fft: int, hop: int) -> np.ndarray:
    """Log spectrum [bins, positions] in double precision; the frame of hop p is centred on the middle of hop p."""
    n, k = np.arange(n_fft), np.arange(n_fft // 2 + 1)
    window = 0.5 - 0.5 * np.cos(2 * np.pi * n / n_fft)
    transform = np.exp(-2j * np.pi * np.outer(k, n) / n_fft)
    before = (n_fft - hop) // 2
    padded = np.concatenate([np.zeros(before), signal.astype(np.float64), np.zeros(before)])
    frames = np.stack([padded[start : start + n_fft] for start in range(0, len(signal), hop)], axis=1)
    return np.log(np.maximum(np.abs(transform @ (window[:, None] * frames)), FLOOR) / FLOOR) / SCALE


@pytest.mark.parametrize(("n_fft", "hop"), SHAPES)
def test_the_log_spectrum_is_its_formula(n_fft: int, hop: int) -> None:
    signal = wave(20 * hop)
    found = LogSpectrum(n_fft, hop)(torch.from_numpy(signal)[None])[0].numpy()
    expected = by_matrix(signal, n_fft, hop)
    assert found.shape == (n_fft // 2 + 1, 20)
    assert (expected == 0).any() and (expected > 1).any()
    np.testing.assert_allclose(found, expected, atol=1e-3)


def test_the_log_spectrum_is_scipys() -> None:
    n_fft, hop = 64, 16
    signal = wave(40 * hop)
    # scipy, too, pads nothing here; its frame p starts at hop p of the padded signal.
    padded = np.pad(signal, (n_fft - hop) // 2)
    window = scipy.signal.get_window("hann", n_fft)
    _, _, scaled = scipy.signal.stft(
        padded, window=window, nperseg=n_fft, noverlap=n_fft - hop, boundary=None, padded=False, scaling="spectrum"
    )
    magnitude = np.abs(scaled) * window.sum()
    found = LogSpectrum(n_fft, hop)(torch.from_numpy(signal)[None])[0].numpy()
    np.testing.assert_allclose(found, np.log(np.maximum(magnitude, FLOOR) / FLOOR) / SCALE, atol=1e-3)


def test_silence_is_zero_and_a_full_scale_sine_is_known() -> None:
    n_fft, hop = 64, 16
    spectrum = LogSpectrum(n_fft, hop)
    assert not spectrum(torch.zeros(1, 10 * hop)).any()
    tone = torch.sin(2 * torch.pi * 5 * torch.arange(20 * hop) / n_fft)[None]
    found = spectrum(tone)[0, :, 10]
    # A sine of amplitude 1 on bin 5 under a Hann window of N: magnitude N / 4 there and N / 8 on either side.
    peak = torch.tensor([n_fft / 8, n_fft / 4, n_fft / 8])
    torch.testing.assert_close(found[4:7], (peak / FLOOR).log() / SCALE, atol=1e-4, rtol=0)
    assert not found[9:].any()


def test_a_frame_is_centred_on_its_hop() -> None:
    n_fft, hop = 32, 8
    for place in range(4 * hop, 8 * hop):
        click = torch.zeros(1, 12 * hop)
        click[0, place] = 1.0
        loudness = LogSpectrum(n_fft, hop)(click)[0].mean(dim=0)
        assert int(loudness.argmax()) == place // hop or place % hop == 0  # on a border two hops are as near


def test_a_louder_clip_is_higher_by_the_scaled_log_of_its_gain() -> None:
    """The log is of the magnitude, not of the power."""
    n_fft, hop = 32, 8
    signal = torch.randn(1, 20 * hop, generator=torch.Generator().manual_seed(0))
    found = LogSpectrum(n_fft, hop)(10 * signal) - LogSpectrum(n_fft, hop)(signal)
    loud = LogSpectrum(n_fft, hop)(signal) > 0.1
    torch.testing.assert_close(found[loud], torch.full_like(found[loud], np.log(10) / 3), atol=1e-4, rtol=0)
