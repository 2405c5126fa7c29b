"""A recording read from start to end in bounded memory: mono, at the shard's rate, any window in order."""

from __future__ import annotations

import os
import stat
import struct
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
import soundfile
import soxr

from syllabary.shards.audio import RESAMPLING_QUALITY, Samples, fit_length, resampled_length, to_mono
from syllabary.shards.ingest.recordings import RecordingError

_BLOCK_S = 4
_SLACK_S = 0.1  # a manifest's end may pass the recording's by this much: durations are often rounded
_COUNTED_FORMATS = {"MP3", "MPEG", "OGG"}  # their headers do not promise an exact length
_UNKNOWN_RIFF_SIZES = {0, 0xFFFFFFFF}  # written by programs that could not seek back


class SampleStream:
    """Sequential reader of one recording.

    Attributes:
        rate: the rate of what is read: ``rate``, or the source's own up to ``max_rate``.
        num_samples: length of the recording at that rate.

    Raises:
        RecordingError: at any point: the file cannot be opened, is damaged, or ends early.
    """

    def __init__(
        self,
        path: Path,
        *,
        rate: int | None = None,
        max_rate: int | None = None,
        start_s: float | None = None,
        end_s: float | None = None,
    ) -> None:
        self._audio = open_audio(path)
        try:
            first, self._source_left = _span(self._audio.samplerate, num_frames(path, self._audio), start_s, end_s)
            _seek(self._audio, first)
        except BaseException:
            self._audio.close()
            raise
        self._source_rate = int(self._audio.samplerate)
        self.rate = rate or min(self._source_rate, max_rate or self._source_rate)
        self.num_samples = resampled_length(self._source_left, self._source_rate, self.rate)
        self._resampler = None
        if self.rate != self._source_rate:
            self._resampler = soxr.ResampleStream(
                self._source_rate, self.rate, 1, dtype="float32", quality=RESAMPLING_QUALITY
            )
        self._pieces: list[Samples] = []  # decoded and not yet forgotten
        self._start = self._stop = 0  # what the pieces cover

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._audio.close()

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
        """Decode what was not read, so that damage near the end is found too."""
        self._pieces.clear()
        while self._source_left:
            self._source_block()

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
        wanted = min(self._source_left, self._source_rate * _BLOCK_S)
        block = _read_block(self._audio, wanted)
        if len(block) < wanted:
            raise RecordingError("audio ends early")
        self._source_left -= wanted
        return block


def open_audio(path: Path) -> soundfile.SoundFile:
    """Open any audio file that libsndfile reads. Raises RecordingError."""
    try:
        _refuse_unfit(path)
        return soundfile.SoundFile(os.fsencode(path))  # as bytes: a name need not be UTF-8
    except soundfile.LibsndfileError as error:
        raise RecordingError(f"not readable audio ({_reason(error)})") from error
    except OSError as error:
        raise RecordingError(f"cannot be read ({error.strerror})") from error


def num_frames(path: Path, audio: soundfile.SoundFile) -> int:
    """Sample frames of a file, by decoding it when its header does not promise an exact number."""
    if audio.format not in _COUNTED_FORMATS:
        return int(audio.frames)
    total = 0
    with open_audio(path) as counted:
        while count := len(_read_block(counted, counted.samplerate * _BLOCK_S)):
            total += count
    return total


def _span(rate: int, total: int, start_s: float | None, end_s: float | None) -> tuple[int, int]:
    """First frame and number of frames of the part start_s..end_s."""
    start, stop = round((start_s or 0.0) * rate), total if end_s is None else round(end_s * rate)
    if start >= min(stop, total) or stop > total + _SLACK_S * rate:
        if start_s is None and end_s is None:
            raise RecordingError("no samples")
        shown = "end" if end_s is None else f"{end_s:g}"
        raise RecordingError(f"no audio at {start_s or 0:g}..{shown} s in a file of {total / rate:.3f} s")
    return start, min(stop, total) - start


def _seek(audio: soundfile.SoundFile, frame: int) -> None:
    try:
        if frame:
            audio.seek(frame)
    except soundfile.LibsndfileError as error:
        raise RecordingError(f"damaged audio ({_reason(error)})") from error


def _read_block(audio: soundfile.SoundFile, wanted: int) -> Samples:
    try:
        block = to_mono(audio.read(wanted, dtype="float32", always_2d=True))
    except soundfile.LibsndfileError as error:
        raise RecordingError(f"damaged audio ({_reason(error)})") from error
    if not np.isfinite(block).all():
        raise RecordingError("damaged audio (a sample is not a number)")
    return block


def _refuse_unfit(path: Path) -> None:
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise RecordingError("not a regular file")
    if status.st_size == 0:
        raise RecordingError("empty file")
    with path.open("rb") as handle:
        head = handle.read(8)
    # For a name in .mp3 libsndfile skips what it does not understand, and with it samples, without a word.
    if path.suffix.lower() == ".mp3" and head[:3] != b"ID3" and not _is_mpeg_frame(head):
        raise RecordingError("not readable audio (no MP3 header at its start)")
    # It takes a truncated WAV for a shorter one without a word.
    if head[:4] == b"RIFF" and len(head) == 8:
        size = struct.unpack("<I", head[4:])[0]
        if size not in _UNKNOWN_RIFF_SIZES and size + 8 > status.st_size:
            raise RecordingError("audio ends early")


def _is_mpeg_frame(head: bytes) -> bool:
    return len(head) > 1 and head[0] == 0xFF and head[1] & 0xE0 == 0xE0


def _reason(error: soundfile.LibsndfileError) -> str:
    return str(error.error_string).strip().rstrip(".").removeprefix("Error : ")
