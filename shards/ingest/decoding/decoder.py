"""Any audio file decoded from start to end, by its content, with an account of what was promised and what was there.

A file is taken apart into its streams (:class:`~syllabary.shards.ingest.decoding.pieces.Part`), which are decoded one
after the other. At the end of each, the frames that came out are held against what the container promises, and against
FLAC's MD5 of the samples.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import mmap
import stat
import struct
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self, cast

import numpy as np
import soundfile
from numpy.typing import NDArray

from syllabary.shards.audio import Samples
from syllabary.shards.ingest.decoding import chunks, flac, mpeg, ogg
from syllabary.shards.ingest.decoding.pieces import Part, PiecedFile
from syllabary.shards.ingest.recordings import RecordingError

Integers = NDArray[np.int16] | NDArray[np.int32]
_BLOCK = 1 << 16
_PROBE = 4096
MOST_FRAMES_A_BYTE = 256  # more than real files have


class Sound(soundfile.SoundFile):
    """Read in order to wherever it ends: soundfile itself would stop at, or seek to, the end that a header claims."""

    def seekable(self) -> bool:
        """Never, so that it is read in order."""
        return False


class Decoder:
    """Sequential reader of one audio file.

    Args:
        whole: checks what comes out against what the container promises; False is for a part of a file.
        believing: stops where a FLAC header says that the samples end; False decodes as long as there are frames.

    Attributes:
        rate: sample rate of all its streams.
        channels: of all its streams.
        promised: sample frames that the container promises; None where it does not say.
        num_frames: that will be decoded if nothing is wrong; None where only decoding shows it.
        notes: what was mended on the way, for the ledger.
        num_decoded: sample frames so far, with those that lay behind the end that a header claims.

    Raises:
        RecordingError: here or in :meth:`read`: not audio, damaged, or not what its container promises.
    """

    def __init__(self, path: Path, *, whole: bool = True, believing: bool = True) -> None:
        self._path, self._whole, self._believing = path, whole, believing
        self._parts = list(parts_of(path))
        self.notes: list[str] = []
        self.num_decoded = 0
        self._index = -1
        self._sound: Sound | None = None
        self._expected: int | None = None
        self._buffer: Integers = np.empty((0, 0), np.int16)
        try:
            self._next_part()
            self._count_promises()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        if self._sound is not None:
            self._sound.close()
            self._file.close()
            self._sound = None

    def read(self, num_frames: int) -> Samples:
        """Up to ``num_frames`` frames, float32 [frames, channels]; fewer, or none, only at the very end."""
        blocks, missing = [], num_frames
        while missing and self._sound is not None:
            block = self._read_part(missing)
            missing -= len(block)
            if len(block):
                blocks.append(block)
            else:
                self._end_part()
                self._next_part()
        self.num_decoded += num_frames - missing
        if len(blocks) == 1:
            return blocks[0]
        return np.concatenate(blocks) if blocks else np.zeros((0, self.channels), np.float32)

    def skip(self, num_frames: int) -> None:
        """Pass over frames at the start of a part of the file; without decoding them where the format allows."""
        if num_frames and len(self._parts) == 1 and self._sound is not None:
            with _told("damaged audio"):
                self._sound.seek(num_frames)
            self._done = num_frames
            return
        while num_frames:
            skipped = len(self.read(min(num_frames, _BLOCK)))
            if not skipped:
                return
            num_frames -= skipped

    def _count_promises(self) -> None:
        opened = [self._frames_of(part) for part in self._parts]
        self.num_frames = None if None in opened else sum(number for number in opened if number is not None)
        if (self.num_frames or 0) > MOST_FRAMES_A_BYTE * self._path.stat().st_size:
            self.num_frames = None  # a header may say anything: what it says is nowhere taken for a size of memory
        pairs = zip(self._parts, opened, strict=True)
        promises = [number if part.promised is None else part.promised for part, number in pairs]
        self.promised = None if None in promises else sum(number for number in promises if number is not None)
        if len(self._parts) > 1:
            self.notes.append(f"{len(self._parts)} streams in one file")

    def _frames_of(self, part: Part) -> int | None:
        if part.md5 or _is_flac(part):
            return part.promised
        if part is self._parts[self._index] and self._sound is not None:
            return self._expected
        with PiecedFile(self._path, part.pieces) as file, _told("not readable audio"), Sound(file) as sound:
            self._require_same(sound)
            return int(sound.frames) if part.kept is None else min(part.kept, int(sound.frames))

    def _require_same(self, sound: Sound) -> None:
        if (sound.samplerate, sound.channels) != (self.rate, self.channels):
            formats = f"{self.rate} Hz, {self.channels} channels and {sound.samplerate} Hz, {sound.channels} channels"
            raise RecordingError(f"streams of different kinds in one file ({formats})")

    def _next_part(self) -> None:
        self.close()
        self._index += 1
        if self._index == len(self._parts):
            return
        part = self._parts[self._index]
        pieces = part.pieces if self._whole else _as_it_is(part)
        self._file = PiecedFile(self._path, pieces)
        with _told("not readable audio"):
            self._sound = Sound(self._file)
        if self._index == 0:
            self.rate, self.channels = int(self._sound.samplerate), int(self._sound.channels)
        self._require_same(self._sound)
        self._done = 0
        self._hash = hashlib.md5(usedforsecurity=False) if part.md5 and self._whole else None
        self._expected = int(self._sound.frames)
        if _is_flac(part):
            self._expected = part.promised if self._believing else None
        if part.kept is not None and self._expected is not None:
            self._expected = self._within_last_block(part.kept, self._expected)

    def _within_last_block(self, kept: int, decoded: int) -> int:
        if kept > decoded:
            raise RecordingError(f"audio ends early (its header promises {kept:,} samples, {decoded:,} are there)")
        return kept

    def _read_part(self, num_frames: int) -> Samples:
        """From the open part, or nothing when it has ended."""
        assert self._sound is not None
        left = num_frames if self._expected is None else min(num_frames, self._expected - self._done)
        if left <= 0:
            return np.zeros((0, self.channels), np.float32)
        with _told("damaged audio"):
            if self._hash is None:
                block: Samples = self._sound.read(left, dtype="float32", always_2d=True)
            else:
                block = self._hashed(left)
        self._done += len(block)
        return block

    def _hashed(self, num_frames: int) -> Samples:
        assert self._sound is not None and self._hash is not None
        bits = self._parts[self._index].bits
        samples = self._integers(num_frames, np.int16 if bits <= 16 else np.int32)
        is_as_hashed = bits == 8 * samples.dtype.itemsize
        self._hash.update(samples.data if is_as_hashed else _narrow(samples, bits))
        return _scaled(samples)

    def _integers(self, num_frames: int, kind: type[np.int16] | type[np.int32]) -> Integers:
        """Up to ``num_frames`` frames as integers, in memory that the next call writes over."""
        assert self._sound is not None
        if len(self._buffer) < num_frames or self._buffer.dtype != kind:
            self._buffer = cast(Integers, np.empty((num_frames, self.channels), kind))
        samples: Integers = self._sound.read(out=self._buffer[:num_frames])
        return samples

    def _end_part(self) -> None:
        """Hold what came out of the part against its promises."""
        part = self._parts[self._index]
        if not self._whole:
            return
        fits = self._hash is not None and self._hash.digest() == part.md5
        if self._expected is not None and self._done == self._expected and _is_flac(part):
            fits = self._read_on(part, fits)
        promised = part.promised if _is_flac(part) else self._expected
        if promised is not None and self._done != promised:
            said = f"header promises {promised:,} samples, {self._done:,} are there"
            if not fits:
                raise RecordingError(f"{'audio ends early' if self._done < promised else 'wrong length'} (its {said})")
            self.notes.append(f"{said}, and their MD5 is right")
        elif self._hash is not None and not fits:
            raise RecordingError("damaged audio (wrong MD5 of the samples)")
        if part.note:
            self.notes.append(part.note)
        if part.promised is not None and not _is_flac(part) and part.promised != self._done:
            self.notes.append(f"header promises {part.promised:,} samples, {self._done:,} are there")

    def _read_on(self, part: Part, fits: bool) -> bool:
        """Behind the last frame that a FLAC header counts: whether the MD5 fits at the end that is reached."""
        assert self._sound is not None
        expected, self._expected = self._expected, None
        try:
            while block := len(self._read_part(_PROBE)):
                fits = False
                self.num_decoded += block
        except RecordingError:
            if self._done != expected:
                raise
            if not fits:
                what = f"its header counts {expected:,} samples, what follows them does not decode, and no MD5 tells"
                raise RecordingError(f"bytes behind the end of the audio ({what})") from None
            self.notes.append("bytes behind the end that are no audio")
            return True
        return fits or (self._hash is not None and self._hash.digest() == part.md5)


def count_frames(path: Path) -> int:
    """Sample frames of a file, by decoding it. Raises RecordingError."""
    with Decoder(path) as decoder:
        while len(decoder.read(_BLOCK)):
            pass
        return decoder.num_decoded


class Decodable(NamedTuple):
    """The part of a file before the first damage: its rate (0: it is no audio), frames, and frames promised."""

    rate: int = 0
    num_frames: int = 0
    promised: int | None = None


def decodable(path: Path) -> Decodable:
    """Measure how much of a file decodes, whatever is wrong with it."""
    try:
        with Decoder(path) as decoder:
            with contextlib.suppress(RecordingError):
                while len(decoder.read(_PROBE)):
                    pass
            return Decodable(decoder.rate, decoder.num_decoded, decoder.promised)
    except RecordingError:
        return _by_its_header(path)


def _by_its_header(path: Path) -> Decodable:
    """The same of a file that is not whole, as far as the library decodes it at all."""
    if not path.is_file():
        return Decodable()
    try:
        with path.open("rb") as file, Sound(file) as sound:
            count, promised = 0, int(sound.frames)
            with contextlib.suppress(soundfile.LibsndfileError):
                while block := len(sound.read(_PROBE, dtype="float32", always_2d=True)):
                    count += block
            return Decodable(int(sound.samplerate), count, promised if promised < 1 << 40 else None)
    except (soundfile.LibsndfileError, OSError):
        return Decodable()


def parts_of(path: Path) -> tuple[Part, ...]:
    """Find the streams of an audio file by its content.

    Raises:
        RecordingError: not a regular file, empty, not audio, cut off, or with bytes that belong to no stream.
    """
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise RecordingError("not a regular file")
        if status.st_size == 0:
            raise RecordingError("empty file")
        return _parts_of(path, (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns))
    except (struct.error, IndexError) as error:
        raise RecordingError("not readable audio (a header is cut off)") from error
    except OSError as error:
        raise RecordingError(f"cannot be read ({error.strerror})") from error


@functools.lru_cache(maxsize=8)
def _parts_of(path: Path, _state: tuple[int, ...]) -> tuple[Part, ...]:
    """The streams of a file in one state: it is opened several times for what is one recording."""
    with path.open("rb") as handle, mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ) as data:
        return _parts(data)


def _parts(data: mmap.mmap) -> tuple[Part, ...]:
    start = 0
    while data[start : start + 3] == b"ID3" and len(data) > start + 10:
        start = mpeg.behind_id3(data, start)
    head = data[start : start + 12]
    if head[:4] == flac.MARK:
        return flac.flac_parts(data, start)
    if head[:4] == ogg.MARK:
        return ogg.ogg_parts(data)
    if head[:4] in (b"RIFF", b"RF64", b"RIFX") and head[8:12] == b"WAVE":
        return chunks.riff_parts(data, start)
    if (frame := mpeg.first_frame(data, start)) >= 0:
        return mpeg.mpeg_parts(data, frame)
    chunks.require_whole(data)
    return (Part(((start, len(data)),), believed=True),)


def is_audio(head: bytes) -> bool:
    """Whether the first bytes of a file are those of audio that is read here; a few kB are enough."""
    if head[:4] in (b"fLaC", b"OggS", b"FORM", b".snd", b"caff", b"riff", b"RF64") or head[:7] == b"NIST_1A":
        return True
    if head[:4] == b"RIFF":
        return head[8:12] == b"WAVE"
    if head[:3] == b"ID3":
        return True
    frame = mpeg.frame_at(head, 0)
    return frame is not None and mpeg.frame_at(head, frame.size) is not None


def _is_flac(part: Part) -> bool:
    return len(part.pieces) == 3 and isinstance(part.pieces[1], bytes) and len(part.pieces[1]) == 8


def _as_it_is(part: Part) -> tuple[tuple[int, int] | bytes, ...]:
    """The pieces without our change: a FLAC decoder that does not know the length cannot seek."""
    if _is_flac(part) and part.promised:
        first, last = part.pieces[0], part.pieces[2]
        assert isinstance(first, tuple) and isinstance(last, tuple)
        return ((first[0], last[1]),)
    return part.pieces


def _scaled(samples: Integers) -> Samples:
    """Integers as the library would give them in float32: multiplied by a power of two, which is exact."""
    one = np.float32(2.0 ** (1 - 8 * samples.dtype.itemsize))
    sound: Samples = np.multiply(samples, one, dtype=np.float32)
    return sound


def _narrow(samples: Integers, bits: int) -> bytes:
    """Samples as FLAC hashes them: little-endian in whole bytes; the library justifies them to the left."""
    width = -(-bits // 8)
    size = samples.dtype.itemsize
    whole = np.right_shift(samples, 8 * size - bits).astype(f"<i{size}")
    return whole.reshape(-1, 1).view(np.uint8)[:, :width].tobytes()


@contextlib.contextmanager
def _told(what: str) -> Iterator[None]:
    try:
        yield
    except soundfile.LibsndfileError as error:
        reason = str(error.error_string).strip().rstrip(".").removeprefix("Error : ")
        raise RecordingError(f"{what} ({reason or 'its frames do not decode'})") from error
