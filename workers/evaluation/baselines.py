"""Systems to compare the tokenizer with: real codecs at its bitrate, ceilings and floors. 16 kHz in, 16 kHz out.

Each takes its own delay out: what comes back lies where it was. The delays are constants of the codecs, found by
correlating envelopes of read speech with what came back, and a test finds them again.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from syllabary.shards import audio
from syllabary.workers.evaluation.codec2 import decoded_afresh
from syllabary.workers.evaluation.scoring import RATE, Samples, require_package
from syllabary.workers.report.card import Bitrates, System

CODEC2_RATE = 8_000
# In samples at 8 kHz: the window and overlap-add of each mode, 29, 19 and 19 ms.
CODEC2_DELAY = {700: 232, 1300: 152, 3200: 152}
OPUS_RATE, OPUS_FRAME_S = 48_000, 0.02
OPUS_BIT_RATE = 6_000


@dataclass(frozen=True)
class Speech:
    """An utterance: ``samples`` float32 [num_samples] at 16 kHz, and as ``stored`` at ``stored_rate``."""

    utterance_id: str
    samples: Samples
    stored: Samples
    stored_rate: int

    @classmethod
    def of(cls, utterance_id: str, stored: Samples, rate: int) -> Speech:
        """From the samples as they are stored."""
        return cls(utterance_id, audio.resample(stored, rate, RATE), stored, rate)

    @property
    def seed(self) -> int:
        """A number that follows from the name."""
        return int.from_bytes(hashlib.sha256(self.utterance_id.encode()).digest()[:8], "big")


@dataclass(frozen=True)
class Degraded:
    """The output of a system: float32 [num_samples] at 16 kHz, aligned, and the bits it needed (None: no codec)."""

    samples: Samples
    num_bits: int | None = None


class Codec(Protocol):
    """A system under test: described for the report, and callable on an utterance at 16 kHz."""

    @property
    def system(self) -> System:
        """What the report says of it."""

    def __call__(self, speech: Speech) -> Degraded:
        """The utterance as the system gives it back."""


@dataclass(frozen=True)
class Plain:
    """A ceiling or floor: a function of the samples and a seed."""

    system: System
    change: Callable[[Samples, int], Samples]

    def __call__(self, speech: Speech) -> Degraded:
        """The changed utterance."""
        return Degraded(self.change(speech.samples, speech.seed))


class Codec2:
    """Codec2 by David Rowe: a parametric vocoder at 8 kHz, of package pycodec2. ``mode`` is its bit rate."""

    def __init__(self, mode: int) -> None:
        self.mode = mode
        suffix = "c" if mode == 700 else ""
        self.system = System(
            name=f"codec2_{mode}{suffix}", label=f"Codec2 {mode}{suffix.upper()}", kind="baseline",
            description="Parametric vocoder for radio, 8 kHz.",
            bitrates=Bitrates(payload=float(mode), nominal=float(mode)),
        )  # fmt: skip

    def __call__(self, speech: Speech) -> Degraded:
        """Encoded and decoded, by a codec that has heard nothing before."""
        import pycodec2

        codec = pycodec2.Codec2(self.mode)
        size, delay = codec.samples_per_frame(), CODEC2_DELAY[self.mode]
        narrow = audio.to_int16(audio.resample(speech.samples, RATE, CODEC2_RATE))
        num_frames = -(-(len(narrow) + delay) // size)
        padded = np.pad(narrow, (0, num_frames * size - len(narrow)))
        frames = decoded_afresh(padded, self.mode, num_frames)
        decoded = frames[delay : delay + len(narrow)].astype(np.float32) / np.float32(audio.FULL_SCALE)
        num_bits = -(-len(narrow) // size) * codec.bits_per_frame()
        return Degraded(audio.fit_length(audio.resample(decoded, CODEC2_RATE, RATE), len(speech.samples)), num_bits)


class Opus:
    """Opus at 6 kbit/s (libopus by PyAV, voip, variable rate, frames of 20 ms); bits are those of its packets."""

    system = System(
        name="opus_6k", label="Opus 6 kbit/s", kind="baseline",
        description="libopus, voip, variable rate, frames of 20 ms: far above our rate.",
        bitrates=Bitrates(nominal=float(OPUS_BIT_RATE)),
    )  # fmt: skip

    def __call__(self, speech: Speech) -> Degraded:
        """Encoded into an Ogg file in memory and decoded from it; the container says what delay to skip."""
        wide = audio.to_int16(audio.resample(speech.samples, RATE, OPUS_RATE))
        packed, num_bits = _opus_file(wide)
        decoded = np.concatenate([*_opus_samples(packed), np.zeros(len(wide), np.float32)])[: len(wide)]
        return Degraded(audio.fit_length(audio.resample(decoded, OPUS_RATE, RATE), len(speech.samples)), num_bits)


def _opus_file(samples: NDArray[np.int16]) -> tuple[io.BytesIO, int]:
    import av

    buffer, num_bits = io.BytesIO(), 0
    size = int(OPUS_RATE * OPUS_FRAME_S)
    with av.open(buffer, "w", format="ogg") as container:
        stream: Any = container.add_stream("libopus", rate=OPUS_RATE, options={"application": "voip", "vbr": "on"})
        stream.bit_rate, stream.layout, stream.format = OPUS_BIT_RATE, "mono", "s16"
        for start in range(0, len(samples), size):
            block = np.pad(samples[start : start + size], (0, max(0, start + size - len(samples))))
            frame = av.AudioFrame.from_ndarray(block[None], format="s16", layout="mono")
            frame.sample_rate, frame.pts, frame.time_base = OPUS_RATE, start, Fraction(1, OPUS_RATE)
            for packet in stream.encode(frame):
                num_bits += 8 * packet.size
                container.mux(packet)
        for packet in stream.encode(None):
            num_bits += 8 * packet.size
            container.mux(packet)
    buffer.seek(0)
    return buffer, num_bits


def _opus_samples(packed: io.BytesIO) -> Iterator[Samples]:
    import av

    with av.open(packed, "r") as container:
        for frame in container.decode(audio=0):
            plane = frame.to_ndarray()
            mono = plane[0] if plane.shape[0] == 1 or frame.format.is_planar else plane.reshape(-1)
            if np.issubdtype(mono.dtype, np.integer):
                yield mono.astype(np.float32) / np.float32(audio.FULL_SCALE)
            else:
                yield mono.astype(np.float32)


def low_passed(samples: Samples, bandwidth_hz: int) -> Samples:
    """Without what lies above ``bandwidth_hz``: through its sample rate and back."""
    there = audio.resample(samples, RATE, 2 * bandwidth_hz)
    return audio.fit_length(audio.resample(there, 2 * bandwidth_hz, RATE), len(samples))


def noise_like(samples: Samples, seed: int) -> Samples:
    """White Gaussian noise of the samples' own level: nothing of the speech but its length and loudness."""
    level = float(np.sqrt(np.mean(np.square(samples, dtype=np.float64))))
    return (level * np.random.default_rng(seed).standard_normal(len(samples))).astype(np.float32)


def backwards(samples: Samples, _seed: int) -> Samples:
    """The samples from the last to the first: the same voice and loudness, and nothing where it was."""
    return np.ascontiguousarray(samples[::-1])


def standard_baselines(model_rate: int) -> tuple[Codec, ...]:
    """Every system that needs no checkpoint: four codecs, the ceilings and the floors.

    Args:
        model_rate: of the tokenizer, Hz: a model below 16 kHz gets the original at its own bandwidth as a ceiling.

    Raises:
        InputError: pycodec2 or PyAV is not installed.
    """
    require_package("pycodec2", "baseline codec2_700c")
    require_package("av", "baseline opus_6k")
    ceilings = [("original", "Original", "The speech itself: the best a metric can say.", lambda samples, _: samples)]
    bandwidths = {4_000} | ({model_rate // 2} if model_rate < RATE else set())
    plain: list[Codec] = [Plain(System(name=n, label=t, kind="ceiling", description=d), f) for n, t, d, f in ceilings]
    for hz in sorted(bandwidths, reverse=True):
        system = System(
            name=f"lowpass_{hz / 1000:g}k", label=f"Original to {hz / 1000:g} kHz", kind="ceiling",
            description=f"The original without what lies above {hz:,} Hz: what bandwidth alone costs.",
        )  # fmt: skip
        plain.append(Plain(system, lambda samples, _, hz=hz: low_passed(samples, hz)))  # type: ignore[misc]
    return (Codec2(700), Codec2(1300), Codec2(3200), Opus(), *plain, *_floors())


def _floors() -> tuple[Codec, Codec]:
    """Noise has no pitch to be wrong, and so no F0 RMSE; speech backwards has."""
    noise = "Noise of the same level: the worst to expect."
    reverse = "The speech backwards: the voice without a word or its melody. What still rates it high hears neither."
    return (
        Plain(System(name="noise", label="White noise", kind="floor", description=noise), noise_like),
        Plain(System(name="reversed", label="Original reversed", kind="floor", description=reverse), backwards),
    )
