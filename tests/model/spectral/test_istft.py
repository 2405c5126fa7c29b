"""The inverse-STFT head against torch.istft and a plain overlap-add of cosines, and exact places in time."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from syllabary.model.spectral.istft import InverseStft, IstftHead

SHAPES = [(16, 4), (32, 8), (640, 160), (16, 8), (24, 12)]  # n_fft, hop


def inverse(n_fft: int, hop: int, polar: Tensor, mask: Tensor | None = None) -> Tensor:
    """Samples of log magnitude over phase [clips, n_fft + 2, positions]."""
    log_magnitude, phase = polar.chunk(2, dim=1)
    return InverseStft(n_fft, hop)(torch.polar(log_magnitude.exp(), phase), mask)


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
    found = inverse(n_fft, hop, torch.cat([log_magnitude, phase], dim=1))
    assert found.shape == (1, 6 * hop)
    expected = overlapped_cosines(log_magnitude[0].double().numpy(), phase[0].double().numpy(), n_fft, hop)
    np.testing.assert_allclose(found[0].numpy(), expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(("n_fft", "hop"), SHAPES)
def test_the_head_is_torchs_inverse_stft_where_all_windows_overlap(n_fft: int, hop: int) -> None:
    log_magnitude, phase = random_polar(n_fft, 20, clips=2)
    found = inverse(n_fft, hop, torch.cat([log_magnitude, phase], dim=1))
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
    found = inverse(n_fft, hop, analysed(click, n_fft, hop))[0].numpy()
    np.testing.assert_allclose(found, click, atol=1e-5)
    sine = 0.5 * np.sin(2 * np.pi * 3.3 * np.arange(length) / n_fft + 0.4)
    found = inverse(n_fft, hop, analysed(sine, n_fft, hop))[0].numpy()
    np.testing.assert_allclose(found[n_fft:-n_fft], sine[n_fft:-n_fft], atol=1e-5)


def test_a_sample_does_not_depend_on_where_its_clip_ends() -> None:
    """At the ends frames are missing, and the envelope is still that of an endless signal: known share by share."""
    n_fft, hop = 16, 4
    x = analysed(np.ones(20 * hop), n_fft, hop)[..., 10:11]  # one frame of ones, n_fft long, windowed
    found = inverse(n_fft, hop, x)[0].numpy()
    # Four squared Hann windows a quarter apart add up to 3/2; the frame's middle hop is what one frame gives back.
    np.testing.assert_allclose(found, hann(n_fft)[6:10] ** 2 / 1.5, atol=1e-6)


def test_invalid_positions_add_nothing_to_their_neighbours() -> None:
    log_magnitude, phase = random_polar(32, 9)
    x = torch.cat([log_magnitude, phase], dim=1)
    mask = torch.arange(9)[None] < 5
    alone = inverse(32, 8, x[..., :5])
    torch.testing.assert_close(inverse(32, 8, x, mask)[:, : 5 * 8], alone, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize(("n_fft", "hop"), SHAPES)
def test_spectra_are_those_that_the_inverse_gives_back(n_fft: int, hop: int) -> None:
    signal = torch.randn(1, 20 * hop, generator=torch.Generator().manual_seed(1))
    stft = InverseStft(n_fft, hop)
    spectra = stft.spectra(signal)
    log_magnitude, phase = analysed(signal[0].double().numpy(), n_fft, hop).chunk(2, dim=1)
    torch.testing.assert_close(spectra, torch.polar(log_magnitude.exp(), phase), atol=1e-5, rtol=1e-4)
    inner = slice(n_fft, -n_fft)
    torch.testing.assert_close(stft(spectra, None)[:, inner], signal[:, inner], atol=1e-5, rtol=1e-4)


def random_head() -> IstftHead:
    """A head for 6 channels, n_fft 16 and hop 4, whose norm and map are random."""
    torch.manual_seed(0)
    head = IstftHead(6, 16, 4)
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.normal_(std=0.5)  # logarithms of gains stay below the cap
    return head.requires_grad_(False)


def test_a_head_filters_pulses_and_noise_and_adds_the_rest() -> None:
    """The whole head by numpy: LayerNorm over channels, a linear map, five blocks of nine bins."""
    head, x = random_head(), torch.randn(2, 6, 7, generator=torch.Generator().manual_seed(2))
    pulses, noise = torch.randn(2, 2, 28, generator=torch.Generator().manual_seed(3))
    mean, deviation = x.mean(1, keepdim=True), x.var(1, unbiased=False, keepdim=True).add(1e-5).sqrt()
    normed = (x - mean) / deviation * head.norm.weight[:, None] + head.norm.bias[:, None]
    projected = torch.einsum("oc,bct->bot", head.project.weight[..., 0], normed) + head.project.bias[:, None]
    for clip, found in enumerate(head(x, None, pulses, noise)):
        gain, turn, noise_gain, magnitude, phase = projected[clip].double().numpy().reshape(5, 9, 7)
        spectra = []
        for sound in (pulses, noise):
            polar = analysed(sound[clip].double().numpy(), 16, 4)[0].double().numpy()
            spectra.append(np.exp(polar[:9] + 1j * polar[9:]))
        total = np.exp(gain + 1j * turn) * spectra[0] + np.exp(noise_gain) * spectra[1] + np.exp(magnitude + 1j * phase)
        expected = overlapped_cosines(np.log(np.abs(total)), np.angle(total), 16, 4)
        np.testing.assert_allclose(found, expected, atol=2e-4, rtol=1e-3)


def test_gains_and_magnitudes_are_capped_at_a_hundred() -> None:
    head, silence = random_head(), torch.zeros(1, 20)
    sound = torch.randn(1, 20, generator=torch.Generator().manual_seed(4))
    for block, (pulses, noise) in {0: (sound, silence), 2: (silence, sound), 3: (silence, silence)}.items():
        found = []
        for log in (50.0, float(np.log(100.0))):
            head.project.weight.zero_()
            head.project.bias.fill_(-50.0)
            head.project.bias[9 * block : 9 * block + 9] = log
            head.project.bias[9:18] = head.project.bias[36:] = 0.3  # phases
            found.append(head(torch.zeros(1, 6, 5), None, pulses, noise))
        assert found[0].abs().max() > 1
        torch.testing.assert_close(*found, atol=1e-4, rtol=1e-5)


def test_a_new_head_sounds_like_its_pulses() -> None:
    head = IstftHead(64, 64, 16)
    pulses = torch.zeros(1, 640)
    pulses[0, ::80] = 5.0
    generator = torch.Generator().manual_seed(5)
    x, noise = torch.randn(1, 64, 40, generator=generator), torch.randn(1, 640, generator=generator)
    with torch.no_grad():
        found, without = head(x, None, pulses, noise), head(x, None, torch.zeros(1, 640), noise)
    alone = (found - without)[0]
    peaks = alone[80:-80].abs().topk(6).indices + 80
    assert {int(p) % 80 for p in peaks} <= {0, 1, 2, 78, 79}
