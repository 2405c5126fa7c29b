"""A tar of audio as a source, packed (gzip, bzip2, xz) or not: one sequential read, nothing unpacked to a folder.

Its md5 is computed on the way. Tars that were joined (``cat a.tar b.tar``) are read one after the other.

A recording is yielded as soon as both its FLAC and its JSON have passed, in any order; audio that waits lies in a
spool folder, so memory does not grow with the tar. Names are only labels: nothing is ever written under them.
"""

from __future__ import annotations

import bz2
import gzip
import hashlib
import lzma
import shutil
import tarfile
import zlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import IO, BinaryIO, cast

from syllabary.shards import store
from syllabary.shards.errors import DamageError, FormatError, InputError
from syllabary.shards.ingest.config import IngestConfig
from syllabary.shards.ingest.decoding.decoder import is_audio
from syllabary.shards.ingest.recordings import (
    Recording,
    RecordingError,
    Verdict,
    escape,
    extra_json,
    id_of,
    speaker_name,
)
from syllabary.shards.ingest.sources.files import (
    AUDIO_SUFFIXES,
    UNREADABLE_SUFFIXES,
    SourceFile,
    fingerprint,
    is_passed_over,
)
from syllabary.shards.ingest.sources.folder import Layout, require_sidecar, speaker_of
from syllabary.shards.ingest.sources.librilight import Sidecar, parse_sidecar
from syllabary.shards.ingest.sources.streamed import Streamed

_BLOCK_BYTES = 4 << 20
_PROBE_BYTES = 4096
_UNDECIDED = 256  # audio that has passed without any JSON of its name: then it is no LibriLight
_LAYOUTS: dict[str, Layout] = {"folder": "folder", "librilight": "librilight"}
_MAX_JSON_BYTES = 64 << 20


class TarStream:
    """One pass over a tar. After :meth:`recordings` is exhausted, ``md5``, ``size_bytes`` and ``notes`` are known."""

    def __init__(self, uri: str, config: IngestConfig, spool: Path) -> None:
        self.uri, self.config, self.spool = uri, config, spool
        self.layout: Layout | None = _LAYOUTS.get(config.layout)  # None: not known yet
        self.md5, self.size_bytes = "", 0
        self.notes: list[str] = []
        self._num_passed_over, self._num_unsafe, self._other = 0, 0, ""
        self._waiting_audio: dict[str, SourceFile] = {}
        self._waiting_json: dict[str, bytes] = {}
        self._names: dict[str, int] = {}
        self._offsets: dict[str, int] = {}
        self._num_spooled = 0

    def recordings(self) -> Iterator[Streamed]:
        """Every recording, in the order in which they are complete; the audio file is the caller's to delete.

        Raises:
            FormatError: not a tar, or one that ends early.
            DamageError: the md5 is not the one the configuration asks for.
            InputError: there is no audio in it.
        """
        with store.open_read(self.uri, block_size=_BLOCK_BYTES) as raw:
            reader = _HashingReader(raw)
            try:
                yield from self._members(cast(BinaryIO, _unpacked(reader)))
            except (tarfile.TarError, EOFError, OSError, zlib.error, lzma.LZMAError) as error:
                if isinstance(error, OSError) and not isinstance(error, gzip.BadGzipFile):
                    raise
                fix = "fetch the rest of it, then run again: what is done stays"
                what = f"tar is damaged or ends early, after {reader.size_bytes:,} bytes ({error})"
                raise FormatError(what, value=self.uri, fix=fix) from error
            reader.drain()
        self.md5, self.size_bytes = reader.md5.hexdigest(), reader.size_bytes
        self._tell()
        if not self._num_spooled and self._num_unsafe:
            what = f"each of the {self._num_unsafe:,} recordings in the tar has an absolute name or one with '..'"
            raise InputError(what, value=self.uri, fix="pack it again with names relative to a folder (tar -C)")
        if not self._num_spooled:
            raise InputError("no audio found", value=self.uri, fix="check SOURCE")
        if self.config.tar_md5 not in (None, self.md5):
            raise DamageError(
                "wrong md5 of the tar", value=self.md5, expected=str(self.config.tar_md5), fix="download it again"
            )
        self.layout = self.layout or ("librilight" if self._waiting_json else "folder")
        yield from self._leftovers()

    def again(self, place: int, size_bytes: int) -> bytes:
        """The bytes of a member, by its offset. From a packed tar all before it is unpacked again."""
        with store.open_read(self.uri, block_size=_BLOCK_BYTES) as raw:
            reader = _HashingReader(raw)
            stream = _unpacked(reader)
            if stream is reader:
                return store.read_range(self.uri, place, size_bytes)
            while place:
                place -= len(stream.read(min(place, _BLOCK_BYTES)))
            return stream.read(size_bytes)

    def _tell(self) -> None:
        if self._num_passed_over:
            self.notes.append(f"{self._num_passed_over:,} hidden files and files of the system are passed over")
        if self._other:
            self.notes.append(f"files that are no audio are passed over, such as {escape(self._other)}")

    def _members(self, reader: BinaryIO) -> Iterator[Streamed]:
        # ignore_zeros: behind the end mark of one tar another may begin.
        with tarfile.open(fileobj=reader, mode="r|", bufsize=1 << 20, tarinfo=_strict_info(), ignore_zeros=True) as tar:
            for member in tar:
                tar.members.clear()  # type: ignore[attr-defined]  # tarfile would remember all of them
                if member.isdir():
                    continue
                if is_passed_over(member.name.removeprefix("./").lstrip("/")):
                    self._num_passed_over += 1
                else:
                    yield from self._member(tar, member, PurePosixPath(member.name).suffix.lower())

    def _member(self, tar: tarfile.TarFile, member: tarfile.TarInfo, suffix: str) -> Iterator[Streamed]:
        name = member.name.removeprefix("./")
        named_audio = suffix in AUDIO_SUFFIXES | UNREADABLE_SUFFIXES
        if not named_audio and suffix != ".json" and not member.isreg():
            return
        file = SourceFile(name, "", member.size)
        content: IO[bytes] | None = tar.extractfile(member) if member.isreg() else None
        if suffix not in AUDIO_SUFFIXES | {".json"} and content is not None:
            head = content.read(_PROBE_BYTES)
            if not is_audio(head):
                if named_audio:
                    problem = f"{suffix} is not readable here: convert it to FLAC"
                    yield self._streamed(replace(file, size_bytes=0, problem=problem), None)
                else:
                    self._other = self._other or name
                return
            content = cast(IO[bytes], _Pushed(head, content))
        file = replace(file, problem=self._problem(member, name))
        if file.problem or content is None:
            yield self._streamed(replace(file, size_bytes=0), None)
        elif suffix == ".json":
            self._know_json(name)
            self._waiting_json[_stem(name)] = content.read()
            yield from self._complete(_stem(name))
        else:
            self._offsets[name] = member.offset_data
            self._wait(replace(file, location=str(self._spool_audio(content))))
            yield from self._complete(_stem(name))
            if self.layout is None and len(self._waiting_audio) >= _UNDECIDED:
                self.layout = "folder"
                for stem in list(self._waiting_audio):
                    yield from self._complete(stem)

    def _wait(self, file: SourceFile) -> None:
        """Until its JSON has passed. One stem in two formats: the second is complete by its whole name."""
        stem = _stem(file.name)
        self._waiting_audio[stem if stem not in self._waiting_audio else file.name] = file

    def _know_json(self, name: str) -> None:
        if self.layout is None and _stem(name) in self._waiting_audio:
            self.layout = "librilight"

    def _problem(self, member: tarfile.TarInfo, name: str) -> str:
        if not member.isreg():
            return "not a regular file in the tar"
        if name.startswith("/") or ".." in PurePosixPath(name).parts:
            self._num_unsafe += 1
            return "unsafe name in the tar"
        if PurePosixPath(name).suffix == ".json" and member.size > _MAX_JSON_BYTES:
            return "JSON too large"
        self._names[name] = self._names.get(name, 0) + 1
        return "second member of this name" if self._names[name] > 1 else ""

    def _spool_audio(self, content: IO[bytes]) -> Path:
        path = self.spool / f"{self._num_spooled:09d}"
        self._num_spooled += 1
        with path.open("wb") as target:
            shutil.copyfileobj(content, target, _BLOCK_BYTES)
        return path

    def _complete(self, stem: str) -> Iterator[Streamed]:
        if stem in self._waiting_audio and (stem in self._waiting_json or self.layout == "folder"):
            sidecar = self._waiting_json.pop(stem, None)
            self.layout = self.layout or "librilight"
            yield self._streamed(self._waiting_audio.pop(stem), sidecar)

    def _leftovers(self) -> Iterator[Streamed]:
        for stem in sorted(self._waiting_audio):
            yield self._streamed(self._waiting_audio[stem], None)
        for stem in sorted(self._waiting_json) if self.layout == "librilight" else ():
            yield self._streamed(SourceFile(stem + ".json", "", problem="JSON without its FLAC"), None)

    def _streamed(self, file: SourceFile, sidecar: bytes | None) -> Streamed:
        said: Sidecar | None = None
        verdict: Verdict = ""
        detail = ""
        try:
            if file.problem:
                raise RecordingError(file.problem)
            said = parse_sidecar(sidecar) if sidecar is not None and self.layout == "librilight" else None
            require_sidecar(said, self.layout or "folder", self.config)
        except RecordingError as error:
            verdict, detail = "quarantined", str(error)
        mark = hashlib.sha256(sidecar).hexdigest() if sidecar is not None else ""
        copies = self._names.get(file.name, 0)
        recording = Recording(
            recording_id=id_of(file.name) + (f"#{copies}" if file.problem and copies > 1 else ""),
            source=escape(file.name), location="", size_bytes=file.size_bytes, fingerprint=fingerprint(file, mark),
            speaker=speaker_name((said and said.speaker) or speaker_of(file.name, self.layout or "folder")),
            language=said.language if said else None, snr_db=said.snr_db if said else None,
            text=said.text if said else None, gender=said.gender if said else None,
            extra=extra_json(said.extra) if said else None, verdict=verdict, detail=detail,
        )  # fmt: skip
        audio = Path(file.location) if file.location else None
        offset = self._offsets.pop(file.name, 0) if audio else 0
        return Streamed(recording, audio, offset, said.voice_activity if said else None)


def _stem(name: str) -> str:
    return str(PurePosixPath(name).with_suffix(""))


class _HashingReader:
    """Counts and hashes what passes; all that tarfile needs of a stream."""

    def __init__(self, raw: BinaryIO) -> None:
        self._raw = raw
        self.md5 = hashlib.md5(usedforsecurity=False)
        self.size_bytes = 0
        self._head = b""

    def peek(self, size: int) -> bytes:
        """The first bytes, before any are read."""
        self._head = self._read(size)
        return self._head

    def read(self, size: int) -> bytes:
        """As a file's, of all that passes."""
        head, self._head = self._head, b""
        if len(head) > size:
            head, self._head = head[:size], head[size:]
            return head
        return head + self._read(size - len(head))

    def readable(self) -> bool:
        """Always."""
        return True

    def seekable(self) -> bool:
        """Never."""
        return False

    def close(self) -> None:
        """Nothing: the raw stream is the caller's."""

    closed = False

    def _read(self, size: int) -> bytes:
        data = self._raw.read(size)
        self.md5.update(data)
        self.size_bytes += len(data)
        return data

    def drain(self) -> None:
        """Read what follows the end mark: padding, which the md5 covers."""
        while self.read(_BLOCK_BYTES):
            pass


class _Pushed:
    """A stream whose first bytes were looked at."""

    def __init__(self, head: bytes, rest: IO[bytes]) -> None:
        self._head, self._rest = head, rest

    def read(self, size: int = -1) -> bytes:
        head, self._head = self._head, b""
        return head if head else self._rest.read(size)


def _unpacked(reader: _HashingReader) -> _HashingReader | IO[bytes]:
    """The unpacked stream; its packing is recognized by its first bytes."""
    head = reader.peek(6)
    if head[:2] == b"\x1f\x8b":
        return cast(IO[bytes], gzip.GzipFile(fileobj=cast(BinaryIO, reader)))
    if head[:3] == b"BZh":
        return cast(IO[bytes], bz2.BZ2File(cast(BinaryIO, reader)))
    if head == b"\xfd7zXZ\0":
        return cast(IO[bytes], lzma.LZMAFile(cast(BinaryIO, reader)))
    return reader


def _strict_info() -> type[tarfile.TarInfo]:
    """A TarInfo for one pass: a tar ends with its end mark.

    tarfile takes a broken or a missing header for the end of the archive, too; and it passes over what stands behind.
    """

    class StrictTarInfo(tarfile.TarInfo):
        ended = False

        @classmethod
        def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> StrictTarInfo:
            try:
                info = super().frombuf(buf, encoding, errors)
            except tarfile.EOFHeaderError:  # type: ignore[attr-defined]
                cls.ended = True
                raise
            except tarfile.EmptyHeaderError as error:  # type: ignore[attr-defined]
                if cls.ended:
                    raise
                raise tarfile.ReadError(f"no end mark: {error}") from error
            except tarfile.HeaderError as error:
                if cls.ended:
                    raise tarfile.ReadError("bytes behind the end of the tar that are no tar") from error
                raise tarfile.ReadError(f"no valid header: {error}") from error
            cls.ended = False
            return info

    return StrictTarInfo
