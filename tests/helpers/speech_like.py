"""Clips like speech to a spectrum: pulse trains and noise through moving formants, phone by phone, with pauses.

Deterministic; every clip has its own voice, phones and rhythm. At -24 dBFS where something is said.
"""

from __future__ import annotations

import numpy as np
import scipy.signal
from numpy.typing import NDArray


def speech_like(number: int, seconds: float, rate: int) -> NDArray[np.float32]:
    """Clip ``number`` of a voice of its own: float32 [seconds * rate]."""
    rng = np.random.default_rng(number)
    length, pitch = int(seconds * rate), rng.uniform(85, 240)
    pieces: list[NDArray[np.float64]] = []
    while sum(map(len, pieces)) < length:
        samples = int(rng.uniform(0.06, 0.2) * rate)
        kind = rng.choice(["voiced", "noise", "pause"], p=[0.65, 0.2, 0.15])
        pieces.append(
            np.zeros(samples) if kind == "pause" else _phone(rng, samples, rate, pitch if kind == "voiced" else 0)
        )
    wave = np.concatenate(pieces)[:length]
    said = wave[wave != 0]
    return (wave * 10 ** (-24 / 20) / np.sqrt(np.mean(said**2))).astype(np.float32)


def _phone(rng: np.random.Generator, samples: int, rate: int, pitch: float) -> NDArray[np.float64]:
    """Pulses at the pitch, or noise where it is 0, through three resonances, faded in and out."""
    source = rng.standard_normal(samples)
    if pitch:
        phase = np.cumsum(pitch * np.linspace(*rng.uniform(0.85, 1.15, 2), samples) / rate)
        source = np.diff(np.floor(phase), prepend=0) * 30 + 0.1 * source
    formants = (
        [rng.uniform(*band) for band in ((250, 900), (900, 2300), (2300, 3500))] if pitch else [rng.uniform(2500, 6000)]
    )
    for hertz in formants:
        radius = np.exp(-np.pi * rng.uniform(60, 200) / rate)
        source = scipy.signal.lfilter(
            [1 - radius], [1, -2 * radius * np.cos(2 * np.pi * hertz / rate), radius**2], source
        )
    edge = min(samples // 4, rate // 100)
    fade = np.minimum(1, np.minimum(np.arange(1, samples + 1), np.arange(samples, 0, -1)) / edge)
    return source / np.sqrt(np.mean(source**2)) * fade * rng.uniform(0.4, 1.0)
