"""Where recordings come from: a folder of audio or of LibriLight, local or on S3, or a JSONL manifest of files.

:func:`list_recordings` names every input once, in order, without decoding any; what cannot be used is listed too, with
its reason, so that the ledger can account for it.
"""

from __future__ import annotations

import hashlib
import itertools
import os
import stat
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal

from syllabary.shards import store
from syllabary.shards.errors import InputError, NotFoundError, StorageError
from syllabary.shards.ingest.config import IngestConfig
from syllabary.shards.ingest.librilight import Sidecar, parse_sidecar
from syllabary.shards.ingest.recordings import Recording, RecordingError, Verdict, escape, extra_json, id_of

AUDIO_SUFFIXES = frozenset({
    ".flac", ".wav", ".mp3", ".ogg", ".oga", ".opus", ".aif", ".aiff", ".aifc", ".au", ".snd", ".w64", ".rf64", ".caf",
    ".sph", ".voc", ".avr",
})  # fmt: skip
UNREADABLE_SUFFIXES = frozenset({
    ".m4a", ".aac", ".wma", ".amr", ".g722", ".webm", ".mp4", ".ape", ".wv", ".spx", ".ra", ".3gp", ".mka",
})  # fmt: skip
_PEEK_BYTES = 4096
_READERS = 16
Layout = Literal["librilight", "folder"]


@dataclass(frozen=True)
class SourceFile:
    """A file of the source: ``name`` below the root (not escaped), where it lies, its size, and why it is unusable."""

    name: str
    location: str
    size_bytes: int = 0
    etag: str = ""
    problem: str = ""

    @property
    def suffix(self) -> str:
        """Lower-case suffix with its dot."""
        return PurePosixPath(self.name).suffix.lower()


def list_recordings(source: str, config: IngestConfig) -> list[Recording]:
    """Every recording of a folder, sorted by id.

    Raises:
        InputError: no audio there, or two recordings of one id.
        StorageError: the source cannot be listed.
    """
    files = [file for file in _list(source) if _is_input(file)]
    layout = _layout(files, config)
    with ThreadPoolExecutor(_READERS) as pool:
        recordings = list(pool.map(lambda job: job(), _describers(files, layout, config)))
    if not any(file.suffix in AUDIO_SUFFIXES for file in files):
        raise InputError(
            "no audio found",
            value=source,
            expected="a folder with .flac, .wav, .mp3, .ogg or .opus files",
            fix="check SOURCE",
        )
    return in_order(recordings)


def in_order(recordings: Iterable[Recording]) -> list[Recording]:
    """Sorted by id. Raises InputError when two share one."""
    ordered = sorted(recordings, key=lambda recording: recording.recording_id)
    for one, other in itertools.pairwise(ordered):
        if one.recording_id == other.recording_id:
            raise InputError(
                "two recordings of one name", value=f"{one.source}, {other.source}", fix="rename one of them"
            )
    return ordered


def _is_input(file: SourceFile) -> bool:
    return bool(file.problem) or file.suffix in AUDIO_SUFFIXES | UNREADABLE_SUFFIXES | {".json"}


def _layout(files: list[SourceFile], config: IngestConfig) -> Layout:
    if config.layout in ("librilight", "folder"):
        return "librilight" if config.layout == "librilight" else "folder"
    names = {file.name for file in files}
    paired = any(_sidecar_name(file.name) in names for file in files if file.suffix == ".flac")
    return "librilight" if paired else "folder"


def _sidecar_name(name: str) -> str:
    return str(PurePosixPath(name).with_suffix(".json"))


def _describers(files: list[SourceFile], layout: Layout, config: IngestConfig) -> Iterator["_Describer"]:
    by_name = {file.name: file for file in files}
    for file in files:
        if file.suffix != ".json" or file.problem:
            sidecar = by_name.get(_sidecar_name(file.name)) if layout == "librilight" else None
            yield _Describer(file, sidecar, layout, config)
        elif layout == "librilight" and str(PurePosixPath(file.name).with_suffix(".flac")) not in by_name:
            orphan = SourceFile(file.name, file.location, file.size_bytes, file.etag, "JSON without its FLAC")
            yield _Describer(orphan, None, layout, config)


@dataclass(frozen=True)
class _Describer:
    """Turns a file (and its JSON) into a recording; called in threads, as it reads a little of each file."""

    file: SourceFile
    sidecar: SourceFile | None
    layout: Layout
    config: IngestConfig

    def __call__(self) -> Recording:
        try:
            said, mark = self._read_sidecar()
            verdict, detail = self._judge(said)
        except RecordingError as error:
            said, mark, verdict, detail = None, "", "quarantined", str(error)
        return Recording(
            recording_id=id_of(self.file.name), source=escape(self.file.name), location=self.file.location,
            size_bytes=self.file.size_bytes, fingerprint=fingerprint(self.file, mark),
            speaker=escape((said and said.speaker) or speaker_of(self.file.name, self.layout)),
            sidecar=self.sidecar.location if self.sidecar else None, language=said.language if said else None,
            snr_db=said.snr_db if said else None, text=said.text if said else None,
            gender=said.gender if said else None, extra=extra_json(said.extra) if said else None,
            verdict=verdict, detail=detail,
        )  # fmt: skip

    def _read_sidecar(self) -> tuple[Sidecar | None, str]:
        if self.sidecar is None:
            return None, ""
        data = read_input(self.sidecar.location)
        return parse_sidecar(data), hashlib.sha256(data).hexdigest()

    def _judge(self, said: Sidecar | None) -> tuple[Verdict, str]:
        if self.file.problem:
            raise RecordingError(self.file.problem)
        if self.file.suffix in UNREADABLE_SUFFIXES:
            raise RecordingError(f"{self.file.suffix} is not readable here: convert it to FLAC")
        require_sidecar(said, self.layout, self.config)
        return "", ""


def require_sidecar(said: Sidecar | None, layout: Layout, config: IngestConfig) -> None:
    """Refuse a LibriLight recording whose voice activity is needed and not known. Raises RecordingError."""
    if layout == "folder" or config.coverage == "all":
        return
    if said is None:
        raise RecordingError("missing JSON")
    if said.voice_activity is None:
        raise RecordingError("JSON without voice_activity")


def speaker_of(name: str, layout: Layout) -> str:
    """The speaker a path names: LibriLight's SPEAKER/BOOK/FILE; else the first folder below the root, or "unknown"."""
    folders = PurePosixPath(name).parts[:-1]
    if layout == "librilight" and len(folders) >= 2:
        return folders[-2]
    return folders[0] if folders else "unknown"


def fingerprint(file: SourceFile, sidecar_mark: str = "") -> str:
    """Changes with the file's size, its first and last 4 KiB (on S3: its ETag) or its JSON. Reads no more than that."""
    mark = file.etag if file.etag or file.problem else _peek(file)
    return hashlib.sha256(f"{file.size_bytes} {mark} {sidecar_mark}".encode()).hexdigest()[:32]


def _peek(file: SourceFile) -> str:
    try:
        with Path(file.location).open("rb") as handle:
            head = handle.read(_PEEK_BYTES)
            handle.seek(max(0, file.size_bytes - _PEEK_BYTES))
            return hashlib.sha256(head + handle.read(_PEEK_BYTES)).hexdigest()
    except OSError as error:
        return f"unreadable: {error.strerror}"


def read_input(location: str) -> bytes:
    """A whole small input file. Raises RecordingError when it alone is at fault, StorageError when the store is."""
    try:
        return store.read_bytes(location)
    except StorageError as error:
        raise recording_fault(error, location) from error


def fetch_input(location: str, folder: Path) -> Path:
    """A local path of an input file. Raises RecordingError when it alone is at fault, else StorageError."""
    try:
        return store.fetch_to(location, folder)
    except StorageError as error:
        raise recording_fault(error, location) from error


def recording_fault(error: StorageError, location: str) -> RecordingError | StorageError:
    """Whose fault it is: a file that is gone or closed to us is the recording's, anything else the store's."""
    cause = error.__cause__
    if isinstance(error, NotFoundError) or isinstance(cause, PermissionError):
        return RecordingError(
            "cannot be read (not found)" if isinstance(error, NotFoundError) else "cannot be read (Permission denied)"
        )
    if not store.is_remote(location) and isinstance(cause, OSError):
        return RecordingError(f"cannot be read ({cause.strerror})")
    return error


def _list(source: str) -> Iterable[SourceFile]:
    if store.is_remote(source):
        entries = store.list_files(source)
        if not entries:
            raise NotFoundError("nothing at SOURCE", value=source, fix="check the URI")
        return [SourceFile(entry.name, entry.uri, entry.size_bytes, entry.etag) for entry in entries]
    root = Path(store.normalize(source))
    if not _is_folder(root):
        raise NotFoundError("no such folder", value=source, expected="a folder, .tar or .jsonl", fix="check SOURCE")
    return sorted(_walk(root, "", ()), key=lambda file: file.name)


def _is_folder(root: Path) -> bool:
    try:
        return root.is_dir()
    except OSError as error:
        what = f"SOURCE cannot be read ({error.strerror})"
        raise StorageError(what, value=str(root), fix="check its permissions") from error


def _walk(folder: Path, prefix: str, above: tuple[tuple[int, int], ...]) -> Iterator[SourceFile]:
    """Files below a folder, links followed; what cannot be followed is listed with its problem."""
    try:
        status = folder.stat()
        identity = (status.st_dev, status.st_ino)
        if identity in above:
            yield SourceFile(prefix.rstrip("/"), str(folder), problem="link that leads back to a folder above it")
            return
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError as error:
        yield SourceFile(prefix.rstrip("/") or ".", str(folder), problem=f"folder cannot be read ({error.strerror})")
        return
    for entry in entries:
        yield from _walk_entry(entry, prefix, (*above, identity))


def _walk_entry(entry: "os.DirEntry[str]", prefix: str, above: tuple[tuple[int, int], ...]) -> Iterator[SourceFile]:
    name = prefix + entry.name
    try:
        status = entry.stat()
    except OSError as error:
        if SourceFile(name, "").suffix in AUDIO_SUFFIXES | {".json"} or not PurePosixPath(name).suffix:
            yield SourceFile(name, entry.path, problem=f"cannot be read ({error.strerror})")
        return
    if stat.S_ISDIR(status.st_mode):
        yield from _walk(Path(entry.path), name + "/", above)
    elif stat.S_ISREG(status.st_mode):
        if not entry.name.startswith(store.TEMPORARY_PREFIX):
            yield SourceFile(name, entry.path, status.st_size)
    elif SourceFile(name, "").suffix in AUDIO_SUFFIXES:
        yield SourceFile(name, entry.path, problem="not a regular file")
