"""The inverse-STFT head against torch.istft and a plain overlap-add of cosines, and exact places in time."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from syllabary.model.spectral.istft import IstftHead

SHAPES = [(16, 4), (32, 8), (640, 160), (16, 8), (24, 12)]  # n_fft, hop


def bare_head(n_fft: int, hop: int) -> IstftHead:
    """A head whose input is the log magnitude and phase themselves: no norm, no projection."""
    head = IstftHead(8, n_fft, hop)
    head.norm, head.project = nn.Identity(), nn.Identity()
    return head


def hann(n_fft: int) -> np.ndarray:
    """The periodic Hann window as its formula has it."""
    return np.sin(np.pi * np.arange(n_fft) / n_fft) ** 2


def random_polar(n_fft: int, positions: int, clips: int = 1) -> tuple[Tensor, Tensor]:
    """Log magnitude and phase [clips, bins, positions]."""
    generator = torch.Generator().manual_seed(positions)
    shape = (clips, n_fft // 2 + 1, positions)
    return torch.randn(shape, generator=generator), 3 * torch.randn(shape, generator=generator)


def overlapped_cosines(log_magnitude: np.ndarray, phase: np.ndarray, n_fft: int, hop: int) -> np.ndarray:
    """Samples of one clip [bins, positions]: every frame a sum of cosines, windowed, centred on its hop, added up and
    divided by the squared windows of an endless row of frames."""
    bins, positions = log_magnitude.shape
    n, window = np.arange(n_fft), hann(n_fft)
    margin = (n_fft - hop) // 2
    total = np.zeros((positions - 1) * hop + n_fft)
    for p in range(positions):
        segment = np.zeros(n_fft)
        for k in range(bins):
            times = 1 if k in (0, n_fft // 2) else 2
            segment += times * np.exp(log_magnitude[k, p]) * np.cos(2 * np.pi * k * n / n_fft + phase[k, p])
        total[p * hop : p * hop + n_fft] += window * segment / n_fft
    envelope = sum(np.roll(window, i * hop) ** 2 for i in range(n_fft // hop))
    return (total / np.tile(envelope, positions + n_fft)[: len(total)])[margin : margin + positions * hop]


def analysed(signal: np.ndarray, n_fft: int, hop: int) -> Tensor:
    """Log magnitude over phase [1, n_fft + 2, positions] of a signal of whole hops, zero outside; by numpy."""
    margin = (n_fft - hop) // 2
    padded = np.pad(signal, (margin, margin))
    frames = [padded[i : i + n_fft] * hann(n_fft) for i in range(0, len(signal), hop)]
    spectrum = np.fft.rfft(frames, axis=1).T
    log_magnitude = np.log(np.maximum(np.abs(spectrum), 1e-12))
    return torch.from_numpy(np.concatenate([log_magnitude, np.angle(spectrum)])[None]).float()


@pytest.mark.parametrize(("n_fft", "hop"), SHAPES)
def test_the_head_is_an_overlap_add_of_cosines(n_fft: int, hop: int) -> None:
    log_magnitude, phase = random_polar(n_fft, 6)
    found = bare_head(n_fft, hop)(torch.cat([log_magnitude, phase], dim=1), None)
    assert found.shape == (1, 6 * hop)
    expected = overlapped_cosines(log_magnitude[0].double().numpy(), phase[0].double().numpy(), n_fft, hop)
    np.testing.assert_allclose(found[0].numpy(), expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(("n_fft", "hop"), SHAPES)
def test_the_head_is_torchs_inverse_stft_where_all_windows_overlap(n_fft: int, hop: int) -> None:
    log_magnitude, phase = random_polar(n_fft, 20, clips=2)
    found = bare_head(n_fft, hop)(torch.cat([log_magnitude, phase], dim=1), None)
    spectrum = torch.polar(log_magnitude.exp(), phase)
    window = torch.hann_window(n_fft)
    inner = slice(n_fft, 20 * hop - n_fft)
    # torch centres its first frame on sample 0, the head on the middle of the first hop.
    expected = torch.istft(spectrum, n_fft, hop, window=window, center=True)
    shifted = slice(inner.start - hop // 2, inner.stop - hop // 2)
    torch.testing.assert_close(found[:, inner], expected[:, shifted], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(("n_fft", "hop"), [(16, 4), (640, 160)])
def test_a_click_and_a_sine_come_out_where_they_were(n_fft: int, hop: int) -> None:
    length, place = 12 * hop, 5 * hop + 3
    click = np.zeros(length)
    click[place] = 1.0
    found = bare_head(n_fft, hop)(analysed(click, n_fft, hop), None)[0].numpy()
    np.testing.assert_allclose(found, click, atol=1e-5)
    sine = 0.5 * np.sin(2 * np.pi * 3.3 * np.arange(length) / n_fft + 0.4)
    found = bare_head(n_fft, hop)(analysed(sine, n_fft, hop), None)[0].numpy()
    np.testing.assert_allclose(found[n_fft:-n_fft], sine[n_fft:-n_fft], atol=1e-5)


def test_a_sample_does_not_depend_on_where_its_clip_ends() -> None:
    """At the ends frames are missing, and the envelope is still that of an endless signal: known share by share."""
    n_fft, hop = 16, 4
    x = analysed(np.ones(20 * hop), n_fft, hop)[..., 10:11]  # one frame of ones, n_fft long, windowed
    found = bare_head(n_fft, hop)(x, None)[0].numpy()
    # Four squared Hann windows a quarter apart add up to 3/2; the frame's middle hop is what one frame gives back.
    np.testing.assert_allclose(found, hann(n_fft)[6:10] ** 2 / 1.5, atol=1e-6)


def test_magnitudes_are_capped_at_a_hundred() -> None:
    log_magnitude, phase = random_polar(16, 5)
    loud = log_magnitude.clone()
    loud[:, 3] = 50.0
    capped = log_magnitude.clone()
    capped[:, 3] = float(np.log(100.0))
    head = bare_head(16, 4)
    found = head(torch.cat([loud, phase], dim=1), None)
    torch.testing.assert_close(found, head(torch.cat([capped, phase], dim=1), None), atol=1e-4, rtol=1e-5)


def test_invalid_positions_add_nothing_to_their_neighbours() -> None:
    log_magnitude, phase = random_polar(32, 9)
    x = torch.cat([log_magnitude, phase], dim=1)
    mask = torch.arange(9)[None] < 5
    alone = bare_head(32, 8)(x[..., :5], None)
    torch.testing.assert_close(bare_head(32, 8)(x, mask)[:, : 5 * 8], alone, atol=1e-6, rtol=1e-5)


def test_the_first_half_of_the_projection_is_the_log_magnitude() -> None:
    """The whole head: LayerNorm over channels, a linear map, then magnitudes before phases."""
    torch.manual_seed(0)
    head, x = IstftHead(6, 16, 4), torch.randn(2, 6, 7)
    with torch.no_grad():
        head.norm.weight.normal_()
        head.norm.bias.normal_()
        found = head(x, None).numpy()
    mean, deviation = x.mean(1, keepdim=True), x.var(1, unbiased=False, keepdim=True).add(1e-5).sqrt()
    normed = (x - mean) / deviation * head.norm.weight[:, None] + head.norm.bias[:, None]
    projected = torch.einsum("oc,bct->bot", head.project.weight[..., 0], normed) + head.project.bias[:, None]
    for clip, polar in zip(found, projected.detach().double().numpy(), strict=True):
        np.testing.assert_allclose(clip, overlapped_cosines(polar[:9], polar[9:], 16, 4), atol=1e-5)
