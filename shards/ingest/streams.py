"""Read a recording from start to end in bounded memory: mono, at the shard's rate, any window in order."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
import soxr

from syllabary.shards.audio import RESAMPLING_QUALITY, Samples, fit_length, resampled_length
from syllabary.shards.ingest.channels import Mixing
from syllabary.shards.ingest.decoding.decoder import Decoder, count_frames
from syllabary.shards.ingest.recordings import MiscountedError, Recording, RecordingError

_BLOCK_S = 4
_SLACK_S = 0.1  # a manifest's end may pass the recording's by this much: durations are often rounded


@dataclass(frozen=True)
class Reading:
    """The part of a file to be read, and how it is read.

    Attributes:
        start_s, end_s: the part of the file; None is the file's own start or end.
        duration_s: of the whole file as its source has it; a longer file is read as far as this.
        counted: sample frames of the whole file, where its header counts wrongly.
        mixing: of the channels.
        max_value: a larger sample is no sound.
    """

    start_s: float | None = None
    end_s: float | None = None
    duration_s: float | None = None
    counted: int | None = None
    mixing: Mixing = field(default_factory=Mixing)
    max_value: float = float("inf")

    @classmethod
    def of(cls, recording: Recording) -> Reading:
        """The part of the file that is the recording."""
        return cls(recording.start_s, recording.end_s, recording.duration_s)

    @property
    def is_whole(self) -> bool:
        """Whether the recording is the file."""
        return self.start_s is None and self.end_s is None


WHOLE = Reading()


class SampleStream:
    """Sequential reader of one recording.

    Attributes:
        rate: the rate of what is read: ``rate``, or the source's own up to ``max_rate``.
        source_rate: of the file.
        num_samples: length of the recording at ``rate``.
        promised: the length at ``rate`` that header or list promise; None where they do not say.

    Raises:
        RecordingError: at any point: the file cannot be opened, is damaged, or ends early.
        MiscountedError: the file is sound and has another number of samples than its header says.
    """

    def __init__(
        self, path: Path, reading: Reading = WHOLE, *, rate: int | None = None, max_rate: int | None = None
    ) -> None:
        self._decoder = Decoder(path, whole=reading.is_whole, believing=reading.counted is None)
        self._reading = reading
        try:
            total = reading.counted or self._decoder.num_frames or count_frames(path)
            first, self._source_left = _span(self._decoder.rate, total, reading)
            self._ends_with_file = reading.is_whole and self._source_left == total
            self._decoder.skip(first)
        except BaseException:
            self._decoder.close()
            raise
        self.source_rate = self._decoder.rate
        self.rate = rate or min(self.source_rate, max_rate or self.source_rate)
        self.num_samples = self._at_rate(self._source_left)
        self.promised = self._promised()
        self._resampler = None
        if self.rate != self.source_rate:
            self._resampler = soxr.ResampleStream(
                self.source_rate, self.rate, 1, dtype="float32", quality=RESAMPLING_QUALITY
            )
        self._pieces: list[Samples] = []  # decoded and not yet forgotten
        self._start = self._stop = 0  # what the pieces cover
        self._source_done = 0
        self._lowest, self._highest = np.float32(np.inf), np.float32(-np.inf)
        self._no_sound: list[tuple[int, int]] = []  # at the rate of the file

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._decoder.close()

    @property
    def notes(self) -> list[str]:
        """What was mended so far, for the ledger."""
        mixing = self._reading.mixing.note
        return [*self._decoder.notes, *([mixing] if mixing else [])]

    @property
    def is_constant(self) -> bool:
        """Whether every sample so far is the same."""
        return bool(self._lowest == self._highest)

    def has_no_sound(self, start: int, stop: int) -> bool:
        """Whether a sample in start..stop is not a number, or larger than any sound; it was read as 0."""
        scale = self.source_rate / self.rate
        return any(first < stop * scale and start * scale < last for first, last in self._no_sound)

    def read(self, start: int, stop: int) -> Samples:
        """Samples [stop - start]; whatever lies before ``start`` is forgotten."""
        assert self._start <= start <= stop <= self.num_samples, "windows are read in order, inside the recording"
        self._forget_before(start)
        while self._stop < stop:
            self._decode_block()
            self._forget_before(start)
        if len(self._pieces) != 1:
            self._pieces = [np.concatenate([np.empty(0, np.float32), *self._pieces])]
        return self._pieces[0][start - self._start : stop - self._start]

    def finish(self) -> None:
        """Decode what was not read, so that damage near the end is found too, and what lies behind it."""
        self._pieces.clear()
        while self._source_left:
            self._source_block()
        if not self._ends_with_file:
            return
        while len(self._decoder.read(self.source_rate * _BLOCK_S)):
            pass
        if self._decoder.num_decoded != self._source_done:
            raise MiscountedError(self._decoder.num_decoded)

    def _at_rate(self, num_frames: int) -> int:
        return resampled_length(num_frames, self._decoder.rate, self.rate)

    def _promised(self) -> int | None:
        if self._reading.is_whole:
            return None if self._decoder.promised is None else self._at_rate(self._decoder.promised)
        if self._reading.end_s is None:
            return None
        return round((self._reading.end_s - (self._reading.start_s or 0.0)) * self.rate)

    def _forget_before(self, start: int) -> None:
        while self._pieces and self._start + len(self._pieces[0]) <= start:
            self._start += len(self._pieces.pop(0))
        if self._pieces and self._start < start:
            self._pieces[0] = self._pieces[0][start - self._start :]
            self._start = start
        elif not self._pieces:
            self._start = self._stop

    def _decode_block(self) -> None:
        block = self._source_block()
        if self._resampler is not None:
            last = self._source_left == 0
            block = np.asarray(self._resampler.resample_chunk(block, last=last), np.float32)
            if last:
                block = fit_length(block, self.num_samples - self._stop)
        self._pieces.append(block)
        self._stop += len(block)

    def _source_block(self) -> Samples:
        wanted = min(self._source_left, self.source_rate * _BLOCK_S)
        block = self._decoder.read(wanted)
        if len(block) < wanted:
            if self._ends_with_file and self._source_done + len(block):
                raise MiscountedError(self._source_done + len(block))
            raise RecordingError("audio ends early")
        mono = self._reading.mixing.mono(self._sound_of(block))
        self._lowest, self._highest = min(self._lowest, mono.min()), max(self._highest, mono.max())
        self._source_left -= wanted
        self._source_done += wanted
        return mono

    def _sound_of(self, block: Samples) -> Samples:
        """The block with 0 for what is no sound; where that was is remembered, as few stretches."""
        with np.errstate(invalid="ignore"):
            largest = np.abs(block).max()
            if largest <= self._reading.max_value and np.isfinite(largest):
                return block
            sound = (np.abs(block) <= self._reading.max_value) & np.isfinite(block)
        places = np.flatnonzero(~sound.all(axis=1))
        first, last = self._source_done + int(places[0]), self._source_done + int(places[-1]) + 1
        if len(places) > 1 and np.diff(places).max() > self.source_rate // 10:
            breaks = np.flatnonzero(np.diff(places) > self.source_rate // 10)
            edges = [(int(run[0]), int(run[-1]) + 1) for run in np.split(places, breaks + 1)]
            self._no_sound += [(self._source_done + a, self._source_done + b) for a, b in edges]
        elif self._no_sound and first - self._no_sound[-1][1] <= self.source_rate // 10:
            self._no_sound[-1] = (self._no_sound[-1][0], last)
        else:
            self._no_sound.append((first, last))
        return np.where(sound, block, np.float32(0))


def _span(rate: int, total: int, reading: Reading) -> tuple[int, int]:
    """First frame and number of frames of the part that is read."""
    if reading.is_whole:
        return 0, _whole_length(rate, total, reading.duration_s)
    start = round((reading.start_s or 0.0) * rate)
    stop = total if reading.end_s is None else round(reading.end_s * rate)
    if start >= min(stop, total) or stop > total + _SLACK_S * rate:
        shown = "end" if reading.end_s is None else f"{reading.end_s:g}"
        raise RecordingError(f"no audio at {reading.start_s or 0:g}..{shown} s in a file of {total / rate:.3f} s")
    return start, min(stop, total) - start


def _whole_length(rate: int, total: int, duration_s: float | None) -> int:
    if not total:
        raise RecordingError("no samples")
    if duration_s is None or abs(duration_s * rate - total) <= _SLACK_S * rate:
        return total
    if duration_s * rate > total:
        raise RecordingError(f"audio ends early (its source promises {duration_s:g} s, {total / rate:.3f} s are there)")
    return round(duration_s * rate)
