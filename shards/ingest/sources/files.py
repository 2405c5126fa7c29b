"""The files of a source, local or on S3: what is there, what is passed over, whose fault an unreadable one is."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from syllabary.shards import store
from syllabary.shards.errors import NotFoundError, StorageError
from syllabary.shards.ingest.recordings import RecordingError

AUDIO_SUFFIXES = frozenset({
    ".flac", ".wav", ".mp3", ".ogg", ".oga", ".opus", ".aif", ".aiff", ".aifc", ".au", ".snd", ".w64", ".rf64", ".caf",
    ".sph", ".voc", ".avr",
})  # fmt: skip
UNREADABLE_SUFFIXES = frozenset({
    ".m4a", ".aac", ".wma", ".amr", ".g722", ".webm", ".mp4", ".ape", ".wv", ".spx", ".ra", ".3gp", ".mka",
})  # fmt: skip
_SYSTEM = frozenset({
    "__macosx", "@eadir", "lost+found", "$recycle.bin", "#recycle", "system volume information", "thumbs.db",
    "desktop.ini", ".ds_store", "network trash folder", "temporary items",
})  # fmt: skip
_PEEK_BYTES = 4096
_PROBE_BYTES = 4096


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


def is_passed_over(name: str) -> bool:
    """Whether a path below a root is no part of the corpus: what systems leave when a disk is copied about.

    AppleDouble files (``._x``), hidden folders, and the folders and files that systems keep for themselves.
    """
    *folders, last = PurePosixPath(name).parts or ("",)
    if last.startswith("._") or last.casefold() in _SYSTEM:
        return True
    return any(folder.casefold() in _SYSTEM or (folder[0] == "." and folder not in (".", "..")) for folder in folders)


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
        return store.fetch_to(location, folder, "audio")  # a key of an object store may be no name here
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


def list_source_files(source: str) -> tuple[list[SourceFile], int]:
    """The files below a folder or prefix, sorted by name, and how many more were passed over.

    Raises:
        NotFoundError: nothing is there.
        StorageError: it cannot be listed.
    """
    if store.is_remote(source):
        entries = store.list_files(source)
        if not entries:
            raise NotFoundError("nothing at SOURCE", value=source, fix="check the URI")
        files = [SourceFile(entry.name, entry.uri, entry.size_bytes, entry.etag) for entry in entries]
    else:
        root = Path(store.normalize(source))
        if not is_folder(source):
            expected = "a folder, a tar, or a file that lists audio"
            raise NotFoundError("no such folder", value=source, expected=expected, fix="check SOURCE")
        files = sorted(_walk(root, "", ()), key=lambda file: file.name)
    kept = [file for file in files if not is_passed_over(file.name + ("/." if file.problem else ""))]
    return kept, len(files) - len(kept)


def head_of(location: str) -> bytes:
    """The first bytes of a file: what it is shows in them. Raises StorageError."""
    return store.read_range(location, 0, _PROBE_BYTES)


def is_folder(source: str) -> bool:
    """Whether a local path is a folder. Raises StorageError when that cannot be found out."""
    root = Path(store.normalize(source))
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
