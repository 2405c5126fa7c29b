"""A LibriLight ``.tar`` as a source: one sequential read, nothing unpacked, the md5 computed on the way.

A recording is given out as soon as both its FLAC and its JSON have passed, in any order; audio that waits lies in a
spool folder, so memory does not grow with the tar. Names are only labels: nothing is ever written under them.
"""

from __future__ import annotations

import hashlib
import shutil
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import IO, BinaryIO, cast

from syllabary.shards import store
from syllabary.shards.errors import DamageError, FormatError, InputError
from syllabary.shards.ingest.config import IngestConfig
from syllabary.shards.ingest.cutting import VoiceActivity
from syllabary.shards.ingest.librilight import Sidecar, parse_sidecar
from syllabary.shards.ingest.recordings import Recording, RecordingError, Verdict, escape, extra_json, id_of
from syllabary.shards.ingest.sources import AUDIO_SUFFIXES, Layout, SourceFile, fingerprint, require_sidecar, speaker_of

_BLOCK_BYTES = 4 << 20
_HEAD_BYTES = 512
_MAX_JSON_BYTES = 64 << 20


@dataclass(frozen=True)
class Streamed:
    """A recording of the tar: its spooled audio (None when it has none), its offset in the tar, its voice activity."""

    recording: Recording
    audio: Path | None
    offset: int
    voice_activity: VoiceActivity | None


def head_mark(uri: str) -> str:
    """sha256 of the first header: the same for a tar and a part of its download. Raises StorageError, FormatError."""
    head = store.read_range(uri, 0, _HEAD_BYTES)
    if len(head) < _HEAD_BYTES:
        raise FormatError("not a tar", value=uri, fix="check SOURCE")
    return hashlib.sha256(head).hexdigest()


class TarStream:
    """One pass over a tar. After :meth:`recordings` is exhausted, ``md5`` and ``size_bytes`` are known."""

    def __init__(self, uri: str, config: IngestConfig, spool: Path) -> None:
        self.uri, self.config, self.spool = uri, config, spool
        self.layout: Layout = "folder" if config.layout == "folder" else "librilight"
        self.md5, self.size_bytes = "", 0
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
                yield from self._members(reader)
            except (tarfile.TarError, EOFError) as error:
                fix = "fetch the rest of it, then run again: what is done stays"
                what = f"tar is damaged or ends early, after {reader.size_bytes:,} bytes ({error})"
                raise FormatError(what, value=self.uri, fix=fix) from error
            reader.drain()
        self.md5, self.size_bytes = reader.md5.hexdigest(), reader.size_bytes
        if not self._num_spooled:
            raise InputError("no audio found", value=self.uri, fix="check SOURCE")
        if self.config.tar_md5 not in (None, self.md5):
            raise DamageError(
                "wrong md5 of the tar", value=self.md5, expected=str(self.config.tar_md5), fix="download it again"
            )
        yield from self._leftovers()

    def _members(self, reader: _HashingReader) -> Iterator[Streamed]:
        with tarfile.open(fileobj=cast(BinaryIO, reader), mode="r|", bufsize=1 << 20, tarinfo=_StrictTarInfo) as tar:
            for member in tar:
                tar.members.clear()  # type: ignore[attr-defined]  # tarfile would remember all of them
                suffix = PurePosixPath(member.name).suffix.lower()
                if member.isdir() or suffix not in AUDIO_SUFFIXES | {".json"}:
                    continue
                yield from self._member(tar, member, suffix)

    def _member(self, tar: tarfile.TarFile, member: tarfile.TarInfo, suffix: str) -> Iterator[Streamed]:
        name = member.name.removeprefix("./")
        file = SourceFile(name, "", member.size, problem=self._problem(member, name))
        content = tar.extractfile(member) if not file.problem else None
        if content is None:
            yield self._streamed(replace(file, size_bytes=0), None)
        elif suffix == ".json":
            self._waiting_json[_stem(name)] = content.read()
            yield from self._complete(_stem(name))
        else:
            self._offsets[name] = member.offset_data
            self._waiting_audio[_stem(name)] = replace(file, location=str(self._spool_audio(content)))
            yield from self._complete(_stem(name))

    def _problem(self, member: tarfile.TarInfo, name: str) -> str:
        if not member.isreg():
            return "not a regular file in the tar"
        if name.startswith("/") or ".." in PurePosixPath(name).parts:
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
            yield self._streamed(self._waiting_audio.pop(stem), self._waiting_json.pop(stem, None))

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
            require_sidecar(said, self.layout, self.config)
        except RecordingError as error:
            verdict, detail = "quarantined", str(error)
        mark = hashlib.sha256(sidecar).hexdigest() if sidecar is not None else ""
        copies = self._names.get(file.name, 0)
        recording = Recording(
            recording_id=id_of(file.name) + (f"#{copies}" if file.problem and copies > 1 else ""),
            source=escape(file.name), location="", size_bytes=file.size_bytes, fingerprint=fingerprint(file, mark),
            speaker=escape((said and said.speaker) or speaker_of(file.name, self.layout)),
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

    def read(self, size: int) -> bytes:
        data = self._raw.read(size)
        self.md5.update(data)
        self.size_bytes += len(data)
        return data

    def drain(self) -> None:
        """Read what follows the end mark: padding, which the md5 covers."""
        while self.read(_BLOCK_BYTES):
            pass


class _StrictTarInfo(tarfile.TarInfo):
    """tarfile takes a broken or missing header for the end of the archive; only the end mark is."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> _StrictTarInfo:
        try:
            return super().frombuf(buf, encoding, errors)
        except tarfile.EOFHeaderError:  # type: ignore[attr-defined]
            raise
        except tarfile.HeaderError as error:
            raise tarfile.ReadError(f"no valid header: {error}") from error
