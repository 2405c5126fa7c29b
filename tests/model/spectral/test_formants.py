"""The filter that raises formants, against its formula worked bin by bin in numpy, and what it may not change."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from syllabary.model.config import IstftDecoderConfig
from syllabary.model.spectral.formants import raise_formants
from syllabary.model.spectral.istft import Generator

BINS = 321  # of 640 samples; 25 Hz apart at 16 kHz
SMALL = {"channels": (32, 32, 16), "num_blocks": (1, 1, 1), "strides": (5, 8, 160), "attention_layers": (0, 0, 0)}


def spectra(seed: int = 0) -> Tensor:
    """Complex spectra [2, 321, 3] whose magnitudes span decades."""
    generator = torch.Generator().manual_seed(seed)
    log_magnitude = 2 * torch.randn(2, BINS, 3, generator=generator)
    return torch.polar(log_magnitude.exp(), 3 * torch.randn(2, BINS, 3, generator=generator))


def by_hand(magnitudes: np.ndarray, gain: float) -> np.ndarray:
    """Magnitudes of one frame: 11 bins (275 Hz) against 81 (2,025 Hz), bins beyond the ends as the last."""
    logs = np.log(magnitudes)
    factors = np.empty(len(logs))
    for k in range(len(logs)):
        narrow, wide = (
            np.mean([logs[min(max(i, 0), len(logs) - 1)] for i in range(k - reach, k + reach + 1)]) for reach in (5, 40)
        )
        factors[k] = np.exp(np.clip(gain * (narrow - wide), -1.5, 1.5))
    raised = magnitudes * factors
    return raised * np.sqrt(np.sum(magnitudes**2) / np.sum(raised**2))


@pytest.mark.parametrize("gain", [0.5, 1.0])
def test_the_filter_by_hand(gain: float) -> None:
    given = spectra()
    found = raise_formants(given, gain)
    for clip in range(2):
        for position in range(3):
            expected = by_hand(given[clip, :, position].abs().double().numpy(), gain)
            np.testing.assert_allclose(found[clip, :, position].abs().numpy(), expected, rtol=1e-4)
    torch.testing.assert_close(found.angle(), given.angle(), atol=1e-5, rtol=0)


def test_a_formant_stands_out_more_and_a_tilt_and_harmonics_stay() -> None:
    """A hill 12 dB high, 500 Hz wide at 1.5 kHz is raised by about its height over its surroundings; a tilt is not
    touched away from the ends, and harmonics 100 Hz apart keep the depth of the valleys between them."""
    hertz = 25.0 * torch.arange(BINS)
    hill = 1.4 * torch.exp(-(((hertz - 1500) / 250) ** 2))
    tilt, harmonics = -hertz / 4000, torch.cos(2 * torch.pi * hertz / 100)

    def raised(log_magnitude: Tensor) -> Tensor:
        return (
            raise_formants(torch.polar(log_magnitude.exp(), torch.zeros(BINS))[None, :, None], 1.0)[0, :, 0].abs().log()
        )

    peak, valley = 60, 100  # 1.5 and 2.5 kHz
    found = raised(hill)
    assert float(found[peak] - found[valley]) > 1.4 * float(hill[peak] - hill[valley])
    inner = slice(41, -41)
    moved = raised(tilt)[inner] - tilt[inner]
    assert float(moved.max() - moved.min()) < 1e-3
    moved = raised(harmonics)[inner] - harmonics[inner]
    # Of a cosine of 4 bins, 11 leave one of its values and 81 one of theirs: 2 / 11 - 2 / 81 of the 2 that it spans.
    assert float(moved.max() - moved.min()) == pytest.approx(2 / 11 - 2 / 81, rel=1e-2)


def test_silence_stays_silent_and_nothing_is_divided_by_it() -> None:
    assert bool((raise_formants(torch.zeros(1, BINS, 2, dtype=torch.complex64), 1.0) == 0).all())


def test_tokens_are_decoded_with_it_and_the_vocoder_learns_without() -> None:
    torch.manual_seed(0)
    config = IstftDecoderConfig.model_validate(SMALL | {"formant_gain": 1.0})
    with_it = Generator(config, 8, 16_000).eval()
    without = Generator(config.model_copy(update={"formant_gain": 0.0}), 8, 16_000).eval()
    without.load_state_dict(with_it.state_dict())
    values, length = torch.randn(1, 8, 4), torch.tensor([4 * 6400])
    with torch.no_grad():
        assert not with_it(values, length).allclose(without(values, length), atol=1e-4)
        features = with_it.trunk.with_source(with_it.trunk(values, None), None)
        assert with_it.vocoder(features, None).equal(without.vocoder(features, None))
