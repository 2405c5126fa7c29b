"""Log-mel spectra against a mel filter bank of transformers', a Fourier matrix, and sines whose figures are known."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from transformers.audio_utils import mel_filter_bank

from syllabary.model.config import CodecLossConfig
from syllabary.model.spectral.mel import LogMel, mel_triangles, mel_windows

FLOOR = 1e-5


def theirs(rate: int, n_fft: int, bands: int) -> np.ndarray:
    """HTK's triangles [bands, bins], each divided by its sum."""
    triangles = mel_filter_bank(n_fft // 2 + 1, bands, 0.0, rate / 2, rate, norm=None, mel_scale="htk").T
    return triangles / triangles.sum(axis=1, keepdims=True)


def by_matrix(signal: np.ndarray, rate: int, n_fft: int, hop: int, bands: int) -> np.ndarray:
    """Log-mel [bands, positions] in double precision; position p is centred on the middle of hop p."""
    n, k = np.arange(n_fft), np.arange(n_fft // 2 + 1)
    window = 0.5 - 0.5 * np.cos(2 * np.pi * n / n_fft)
    transform = np.exp(-2j * np.pi * np.outer(k, n) / n_fft)
    front, positions = (n_fft - hop) // 2, -(-len(signal) // hop)
    padded = np.concatenate([np.zeros(front), signal.astype(np.float64), np.zeros(n_fft + hop)])
    frames = np.stack([padded[p * hop : p * hop + n_fft] for p in range(positions)], axis=1)
    magnitude = 2 * np.abs(transform @ (window[:, None] * frames)) / window.sum()
    return np.log(np.maximum(theirs(rate, n_fft, bands) @ magnitude, FLOOR))


def sine(hertz: float, amplitude: float, samples: int, rate: int) -> np.ndarray:
    return (amplitude * np.sin(2 * np.pi * hertz * np.arange(samples) / rate + 0.3)).astype(np.float32)


@pytest.mark.parametrize(("rate", "n_fft", "bands"), [(16_000, 1024, 100), (24_000, 2048, 128), (16_000, 512, 40)])
def test_the_triangles_are_htks_of_area_one(rate: int, n_fft: int, bands: int) -> None:
    found = mel_triangles(rate, n_fft, bands)
    assert found.shape == (bands, n_fft // 2 + 1)
    np.testing.assert_allclose(found.numpy(), theirs(rate, n_fft, bands), atol=1e-5)
    np.testing.assert_allclose(found.sum(dim=1).numpy(), 1, atol=1e-6)


def test_bands_too_narrow_for_any_bin_are_left_out() -> None:
    """At 128 bins of 125 Hz the lowest of 80 bands lie between two bins."""
    triangles = mel_filter_bank(65, 80, 0.0, 8000, 16_000, norm=None, mel_scale="htk").T
    empty = int((triangles.sum(axis=1) == 0).sum())
    assert empty > 10
    mel = LogMel(16_000, 128, 80)
    assert mel.bands == 80 - empty == mel(torch.zeros(1, 640)).shape[1]


@pytest.mark.parametrize(("n_fft", "hop"), [(64, None), (64, 16), (128, 20), (64, 40)])
@pytest.mark.parametrize("samples", [640, 601, 15])
def test_the_spectrum_is_its_formula(n_fft: int, hop: int | None, samples: int) -> None:
    signal = np.random.default_rng(samples).standard_normal(samples).astype(np.float32) * np.geomspace(1, 1e-5, samples)
    mel = LogMel(2000, n_fft, 10, hop)
    assert mel.hop_length == (hop or n_fft // 4)
    found = mel(torch.from_numpy(signal.astype(np.float32))[None])[0].numpy()
    expected = by_matrix(signal.astype(np.float32), 2000, n_fft, mel.hop_length, 10)
    assert found.shape == (10, -(-samples // mel.hop_length)) == expected.shape
    np.testing.assert_allclose(found, expected, atol=2e-3)


@pytest.mark.parametrize("n_fft", [2048, 1024, 512])
@pytest.mark.parametrize("amplitude", [0.5, 0.03])
def test_a_sine_reads_its_amplitude_in_every_window(n_fft: int, amplitude: float) -> None:
    """Bins around a sine on a bin read 1/2, 1, 1/2 of it: their weighted sum is known from the triangles alone."""
    rate, bin_ = 16_000, n_fft // 8  # 2 kHz
    mel = LogMel(rate, n_fft, 80)
    wave = sine(bin_ * rate / n_fft, amplitude, 8 * n_fft, rate)
    middle = mel(torch.from_numpy(wave)[None])[0, :, 16].exp().numpy()
    weights = theirs(rate, n_fft, 80)[:, bin_ - 1 : bin_ + 2] @ np.array([0.5, 1, 0.5])
    np.testing.assert_allclose(middle, np.maximum(amplitude * weights, FLOOR), atol=amplitude * 2e-3)


def test_silence_is_the_floor() -> None:
    assert LogMel(16_000, 512, 40)(torch.zeros(2, 1000)).unique().tolist() == pytest.approx([math.log(FLOOR)])


def test_a_click_is_seen_by_the_frames_centred_near_it() -> None:
    """Frame p covers hop p and three eighths of a window on either side: a click in hop 10 is seen by 9 to 11 and, at
    the window's edge, by 8 and 12 no more."""
    mel = LogMel(2000, 64, 10)
    wave = torch.zeros(1, 20 * 16)
    wave[0, 10 * 16 + 8] = 1.0  # the middle of its hop
    heard = mel(wave)[0].exp().sum(dim=0) > 10 * FLOOR * 1.5
    assert heard.nonzero()[:, 0].tolist() == [9, 10, 11]
    levels = mel(wave)[0].mean(dim=0).exp()
    assert float(levels[9] / levels[10]) == pytest.approx(0.5, rel=1e-3)  # sin^2 of a quarter of the window


def test_the_windows_of_the_loss_are_those_of_its_configuration() -> None:
    windows = list(mel_windows(CodecLossConfig(mel_ffts=(1024, 256), mel_bands=(80, 20)), 16_000))
    assert [(w.n_fft, w.hop_length, w.bands) for w in windows] == [(1024, 256, 80), (256, 64, 20)]
    assert not list(windows[0].state_dict())
