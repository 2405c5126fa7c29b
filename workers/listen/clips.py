"""A stretch of one recording, as the page shows and plays it: an utterance, a time range, or what somebody just said.

Its sound is a WAV file that nobody has written: any range of its bytes is made when it is asked for, from the
utterances that lie there, with silence between. So a long recording sounds at once, and can be sought in.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from syllabary.shards import audio
from syllabary.shards.archive.packing import Packing
from syllabary.shards.archive.parts import ArchiveFormat
from syllabary.shards.errors import FormatError, InputError, NotFoundError
from syllabary.workers.listen.catalogue import Row
from syllabary.workers.listen.takes import ORIGINAL, RESTORED, Sound, Take
from syllabary.workers.report import media

HEADER_BYTES = 44
MOST_PICTURED_S = 60.0
MOST_SAVED_S = 1_800.0
_WIDTH = 2  # bytes a sample
_SILENCE = 1 << 16


@dataclass(frozen=True)
class Clip:
    """Rows of one recording by time, with tokens and salience, and the samples ``start`` .. ``stop`` of it.

    Attributes:
        title: for people.
        form: of the tokens.
        takes: what can be heard of a row, by name.
    """

    title: str
    rows: Sequence[Row]
    start: int
    stop: int
    rate: int
    form: ArchiveFormat
    takes: Mapping[str, Take]

    @property
    def num_samples(self) -> int:
        """Of the stretch."""
        return self.stop - self.start

    @property
    def duration_s(self) -> float:
        """Of the stretch."""
        return self.num_samples / self.rate

    @cached_property
    def frame_s(self) -> float:
        """Of each frame, counted from the start of its utterance."""
        return self.form.hop_length / self.form.model_sample_rate

    @property
    def size_bytes(self) -> int:
        """Of the WAV file. Raises InputError: too long for one."""
        size = HEADER_BYTES + _WIDTH * self.num_samples
        if size >= 1 << 32:
            raise InputError("too long for a WAV file", value=f"{self.duration_s:.0f} s", fix="ask for a shorter range")
        return size

    def wav(self, take: str, start: int, stop: int) -> Iterator[bytes]:
        """The bytes ``start`` .. ``stop`` of the WAV file.

        Raises:
            NotFoundError: there is no such take, or it is not at hand.
            DamageError: tokens do not decode.
        """
        if start < HEADER_BYTES:
            yield _header(self.rate, self.size_bytes)[start:stop]
        first, last = (max(at - HEADER_BYTES, 0) for at in (start, stop))
        skipped, left = first % _WIDTH, max(last - first, 0)
        for sound in self.samples(take, first // _WIDTH, -(-last // _WIDTH)):
            data = sound.astype("<i2", copy=False).tobytes()[skipped : skipped + left]
            skipped, left = 0, left - len(data)
            yield data

    def samples(self, take: str, start: int, stop: int) -> Iterator[Sound]:
        """Samples ``start`` .. ``stop`` from the clip's start on, utterance by utterance. Raises as :meth:`wav`."""
        sound_of = self._take(take)
        at, end = self.start + start, min(self.start + stop, self.stop)
        for row in self.rows:
            first, last = row["start_sample"], row["start_sample"] + row["num_samples"]
            if last <= at or first >= end:
                continue
            yield from _silence(max(first, at) - at)
            at, until = max(first, at), min(last, end)
            yield sound_of(row)[at - first : until - first]
            at = until
        yield from _silence(end - at)

    def flac(self, take: str) -> bytes:
        """The whole stretch as FLAC. Raises as :meth:`wav`, and InputError: longer than ``MOST_SAVED_S``."""
        if self.duration_s > MOST_SAVED_S or not self.num_samples:
            expected = f"above 0, at most {MOST_SAVED_S:.0f}"
            raise InputError("seconds to save", value=self.duration_s, expected=expected, fix="use `syllabary restore`")
        return audio.encode_flac(self._floats(take, 0, self.num_samples), self.rate)

    def picture(self, take: str, start_s: float, end_s: float) -> bytes:
        """A spectrogram of a window, as PNG; the takes of a window share their scale. Raises as :meth:`wav`."""
        first, last = (min(max(round(at * self.rate), 0), self.num_samples) for at in (start_s, end_s))
        if not 0 < last - first <= MOST_PICTURED_S * self.rate:
            expected = f"above 0, at most {MOST_PICTURED_S:.0f}"
            raise InputError("seconds of a picture", value=(last - first) / self.rate, expected=expected)
        samples = self._floats(take, first, last)
        scale = samples
        if take != ORIGINAL and ORIGINAL in self.takes:
            try:
                scale = self._floats(ORIGINAL, first, last)
            except (NotFoundError, FormatError, InputError):
                scale = samples
        return media.spectrogram_png(samples, self.rate, media.level_of(scale, self.rate))

    def told(self) -> dict[str, Any]:
        """What the page says of the clip."""
        return {
            "title": self.title,
            "duration_s": self.duration_s,
            "sample_rate": self.rate,
            "frame_s": self.frame_s,
            "takes": [name for name in (ORIGINAL, RESTORED) if name in self.takes and self._is_at_hand(name)],
            "lacks_original": ORIGINAL in self.takes and not self._is_at_hand(ORIGINAL),
            "utterances": [self._utterance(row) for row in self.rows],
            "sizes": self.sizes(),
        }

    def sizes(self) -> dict[str, int]:
        """Bytes of the clip: what its frames can tell at most, as they are stored, and as the sound itself."""
        frames = sum(self._frames_within(row) for row in self.rows)
        packing = self.form.packing
        return {
            "payload": math.ceil(frames * payload_bits(packing) / 8),
            "stored": frames * packing.num_groups * 2,
            "sound": self.num_samples * _WIDTH,
        }

    def frame(self, at_s: float) -> dict[str, Any] | None:
        """The frame that sounds at a moment, with its tokens; None in the silence between utterances."""
        sample = self.start + at_s * self.rate
        for row in self.rows:
            into_s = (sample - row["start_sample"]) / self.rate
            number = min(math.floor(into_s / self.frame_s + 1e-9), row["num_frames"] - 1)
            if 0 <= sample - row["start_sample"] < row["num_samples"]:
                return self._frame(row, number)
        return None

    def _frame(self, row: Row, number: int) -> dict[str, Any]:
        packing = self.form.packing
        tokens = np.asarray(row["tokens"], np.uint16).reshape(-1, packing.num_groups)[number]
        starts_s = (row["start_sample"] - self.start) / self.rate + number * self.frame_s
        return {
            "utterance_id": row["utterance_id"],
            "number": number,
            "num_frames": row["num_frames"],
            "start_s": starts_s,
            "end_s": starts_s + self.frame_s,
            "tokens": tokens.tolist(),
            "digits": packing.unpack(tokens[None])[0].tolist(),
            "salience": row["salience"][number],
        }

    def _frames_within(self, row: Row) -> int:
        """Frames of a row that begin before the clip ends and end after it begins."""
        if row["start_sample"] >= self.stop or row["start_sample"] + row["num_samples"] <= self.start:
            return 0  # a last frame is padded: it may reach beyond its utterance
        to_s = [(at - row["start_sample"]) / self.rate / self.frame_s for at in (self.start, self.stop)]
        first, last = max(math.floor(to_s[0]), 0), min(math.ceil(to_s[1]), row["num_frames"])
        return max(last - first, 0)

    def _utterance(self, row: Row) -> dict[str, Any]:
        hidden = ("tokens", "salience", "crc32c", "packing", "start_sample", "num_samples", "shard")
        return {
            "start_s": (row["start_sample"] - self.start) / self.rate,
            "duration_s": row["num_samples"] / self.rate,
            "salience": list(row["salience"]),
            "columns": {name: value for name, value in row.items() if name not in hidden and value is not None},
        }

    def _is_at_hand(self, name: str) -> bool:
        holds = getattr(self.takes[name], "holds", None)
        return holds is None or all(map(holds, self.rows))

    def _take(self, name: str) -> Take:
        if name not in self.takes:
            raise NotFoundError("nothing to hear", value=name[:40], expected=", ".join(self.takes) or "no take at all")
        return self.takes[name]

    def _floats(self, take: str, start: int, stop: int) -> audio.Samples:
        parts = list(self.samples(take, start, stop))
        joined = np.concatenate(parts) if parts else np.zeros(0, np.int16)
        floats: audio.Samples = joined.astype(np.float32) / np.float32(audio.FULL_SCALE)
        return floats


def payload_bits(packing: Packing) -> float:
    """The most bits that a frame can hold."""
    return packing.num_dims * math.log2(packing.levels)


def _silence(num_samples: int) -> Iterator[Sound]:
    while num_samples > 0:
        yield np.zeros(min(num_samples, _SILENCE), np.int16)
        num_samples -= _SILENCE


def _header(rate: int, size_bytes: int) -> bytes:
    """Of a mono WAV file of 16-bit samples."""
    form = struct.pack("<4sIHHIIHH", b"fmt ", 16, 1, 1, rate, rate * _WIDTH, _WIDTH, 8 * _WIDTH)
    return (
        struct.pack("<4sI4s", b"RIFF", size_bytes - 8, b"WAVE")
        + form
        + struct.pack("<4sI", b"data", size_bytes - HEADER_BYTES)
    )
