"""Mix several channels to one: find dead channels and those that cancel each other, and average the others."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from syllabary.shards.audio import Samples, to_mono
from syllabary.shards.ingest.config import IngestConfig
from syllabary.shards.ingest.decoding.decoder import Decoder
from syllabary.shards.ingest.recordings import RecordingError

_CANCELLED = 1e-3  # of the channels' power is left in their mean
_BLOCK = 1 << 16


@dataclass(frozen=True)
class Mixing:
    """Which channels the mean is made of (None: all), and a note about the others.

    Attributes:
        chosen: numbers of channels, counted from 0.
        note: for the ledger; empty when nothing is out of the ordinary.
    """

    chosen: tuple[int, ...] | None = None
    note: str = ""

    def mono(self, samples: Samples) -> Samples:
        """Mix [frames, channels] to [frames]."""
        return to_mono(samples if self.chosen is None else samples[:, list(self.chosen)])


@dataclass
class _Powers:
    """Sums of squares over a recording: of each channel, and of the mean of some of them."""

    channels: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))
    products: NDArray[np.float64] = field(default_factory=lambda: np.zeros((0, 0)))

    def of_mean(self, chosen: list[int]) -> float:
        return float(self.products[np.ix_(chosen, chosen)].sum()) / len(chosen) ** 2


def find_mixing(path: Path, config: IngestConfig) -> Mixing:
    """Decide how to mix a recording of several channels; reads it once.

    Raises:
        RecordingError: it does not decode, or its channels cancel and the configuration refuses that.
    """
    powers = _powers(path, config.max_value)
    loudest = int(np.argmax(powers.channels))
    num_channels = len(powers.channels)
    alive = list(range(num_channels))
    note = ""
    if config.dead_channel_db is not None and powers.channels[loudest] > 0:
        floor = powers.channels[loudest] * 10 ** (-config.dead_channel_db / 10)
        alive = [number for number in alive if powers.channels[number] > floor]
        if dead := [str(number + 1) for number in range(num_channels) if number not in alive]:
            note = f"dead channel: {', '.join(dead)} of {num_channels} left out"
    power = float(powers.channels[alive].mean())
    if len(alive) > 1 and config.cancelling_channels != "mean" and powers.of_mean(alive) < _CANCELLED * power:
        if config.cancelling_channels == "quarantine":
            raise RecordingError("channels cancel")
        return Mixing((loudest,), f"channels cancel: {loudest + 1} of {num_channels} taken")
    return Mixing(tuple(alive) if len(alive) < num_channels else None, note)


def _powers(path: Path, max_value: float) -> _Powers:
    with Decoder(path, whole=False) as decoder:
        products = np.zeros((decoder.channels, decoder.channels))
        while len(block := decoder.read(_BLOCK)):
            sound = np.where(np.abs(block) <= max_value, block, 0).astype(np.float64)
            products += sound.T @ sound
    return _Powers(np.diagonal(products).copy(), products)
