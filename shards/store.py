"""The one seam to storage: every file lives at a URI, and every write publishes whole files.

A URI is a local path (``./dir``, ``/data/x``, ``file:///data/x``) or ``s3://bucket/prefix``. S3 endpoint, region and
keys come from the standard variables (``AWS_ENDPOINT_URL``, ``AWS_ACCESS_KEY_ID``, ``AWS_SECRET_ACCESS_KEY``, ...).
``builtin:NAME`` is what ships with the package below ``shards/builtin``: read only, and the same name on every host,
wherever the package is installed there.

Publish, then exist: a file appears under its name only when it is complete, by a rename (local) or by one PUT or the
completion of one multipart upload (S3). Two writers of one name both succeed; as names are deterministic they write
the same bytes.

A :class:`Folder` is a URI as one value: what is in it, by names relative to it, is read, listed and published through
it.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import hashlib
import io
import json
import os
import shutil
import tempfile
import unicodedata
import uuid
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, TypeVar, cast

import fsspec
from fsspec import AbstractFileSystem

from syllabary.shards import object_store
from syllabary.shards.errors import (
    ConflictError,
    ExtraError,
    FormatError,
    InputError,
    NotFoundError,
    StorageError,
    UnavailableError,
    refuse_keys,
)

T = TypeVar("T")
TEMPORARY_PREFIX = ".tmp-"
_BLOCK_BYTES = 8 << 20
BUILTIN = "builtin:"
BUILTIN_FOLDER = Path(__file__).parent / "builtin"
_PASSING = {  # what s3fs makes of "slow down" and of 5xx answers, and the kernel of a connection that fails
    errno.EBUSY, errno.EREMOTEIO, errno.ETIMEDOUT, errno.ECONNREFUSED, errno.ECONNRESET, errno.EPIPE,
    errno.EHOSTUNREACH, errno.ENETUNREACH,
}  # fmt: skip
_S3_CONFIG = {"connect_timeout": 10, "read_timeout": 60, "retries": {"max_attempts": 5, "mode": "standard"}}


@dataclass(frozen=True)
class FileEntry:
    """One stored file: its ``uri``, its ``name`` relative to the listed folder (posix), its ``size_bytes``.

    ``etag`` is the object store's own mark of the content; empty for local files.
    """

    uri: str
    name: str
    size_bytes: int
    etag: str = ""


def is_remote(uri: str) -> bool:
    """Whether the URI names an object store rather than a local path."""
    return "://" in uri and not uri.startswith(("file://", BUILTIN))


def is_builtin(uri: str | os.PathLike[str]) -> bool:
    """Whether the URI names something that ships with the package."""
    return os.fspath(uri).startswith(BUILTIN)


def builtin_name(uri: str) -> str | None:
    """The name of a builtin, without what lies below it; None for any other URI."""
    return normalize(uri).removeprefix(BUILTIN).partition("/")[0] if is_builtin(uri) else None


def builtin_names() -> list[str]:
    """What ships with the package, by name."""
    return sorted(path.parent.name for path in BUILTIN_FOLDER.glob("*/config.json"))


def local_path(uri: str) -> Path:
    """Where a URI that is not remote lies on this machine. Raises InputError for an unknown builtin."""
    uri = normalize(uri)
    return _builtin_path(uri) if is_builtin(uri) else Path(uri)


def _builtin_path(uri: str) -> Path:
    name, _, rest = uri.removeprefix(BUILTIN).partition("/")
    names = builtin_names()
    if name not in names:
        there = ", ".join(BUILTIN + one for one in names)
        expected = there or "none: no builtin ships with this version"
        raise InputError("unknown builtin", value=BUILTIN + name, expected=expected, fix="or give a path or s3:// URI")
    if ".." in PurePosixPath(rest).parts:
        raise InputError("unsafe path", value=uri, expected="a relative path without '..'")
    return BUILTIN_FOLDER / name / rest


def _refuse_builtin(uri: str) -> None:
    if is_builtin(uri):
        fix = "give a path or s3://bucket/prefix"
        raise InputError("a builtin is read only", value=uri, expected="another URI to write to", fix=fix)


def normalize(uri: str | os.PathLike[str]) -> str:
    """The canonical spelling of a URI: absolute for local paths, without a trailing slash; a builtin keeps its name.

    Raises:
        InputError: an unknown scheme, or an S3 URI without a bucket.
    """
    text = os.fspath(uri)
    if not text:
        raise InputError("empty URI", expected="a path or s3://bucket/prefix")
    refuse_keys(text)
    if is_builtin(text):
        return BUILTIN + text.removeprefix(BUILTIN).strip("/")
    if text.startswith("file://"):
        text = text.removeprefix("file://")
    if "://" not in text:
        return os.path.normpath(_at_home(Path(text)).absolute())
    scheme, _, rest = text.partition("://")
    if scheme not in ("s3", "memory"):
        raise InputError("unknown URI scheme", value=text, expected="a path or s3://bucket/prefix")
    if scheme == "s3" and not rest.strip("/"):
        raise InputError("S3 URI without a bucket", value=text, expected="s3://bucket/prefix")
    return f"{scheme}://{rest.strip('/')}"


def _at_home(path: Path) -> Path:
    """The path with ``~`` or ``~user`` as the folder that it stands for; as it is where there is no such user."""
    try:
        return path.expanduser()
    except RuntimeError:  # a file may well be called ~a.wav
        return path


def is_within(uri: str, folder: str) -> bool:
    """Whether ``uri`` is the folder itself or lies below it, by name."""
    return f"{normalize(uri)}/".startswith(f"{normalize(folder)}/")


def join(uri: str, *parts: str) -> str:
    """``uri`` with ``parts`` below it.

    Raises:
        InputError: a part that would leave ``uri`` (absolute, or with ``..``): names from archives are not trusted.
    """
    for part in parts:
        if part.startswith("/") or ".." in PurePosixPath(part).parts or "\x00" in part:
            raise InputError("unsafe path", value=part, expected="a relative path without '..'")
    return "/".join([normalize(uri).rstrip("/"), *(p.strip("/") for p in parts)])


def filesystem(uri: str) -> tuple[AbstractFileSystem, str]:
    """The fsspec filesystem of a URI and the path inside it. Instances are cached per process by fsspec."""
    uri = normalize(uri)
    if uri.startswith("s3://"):
        if find_spec("s3fs") is None:
            raise ExtraError("an object store needs a package that is not installed", "s3fs", "s3")
        fs = fsspec.filesystem("s3", config_kwargs=_S3_CONFIG, use_listings_cache=False)
        return fs, uri.removeprefix("s3://")
    if uri.startswith("memory://"):
        return fsspec.filesystem("memory"), "/" + uri.removeprefix("memory://")
    return fsspec.filesystem("file"), str(local_path(uri))


@contextlib.contextmanager
def _storage_errors(action: str, uri: str) -> Iterator[None]:
    """Turn what fsspec, botocore and the kernel raise into one line of ours."""
    try:
        yield
    except (StorageError, InputError):
        raise
    except FileNotFoundError as error:
        raise _nothing_there(action, uri) from error
    except (NotADirectoryError, FileExistsError) as error:
        if action == "write":
            what, fix = f"cannot {action}, a file is where a folder should be", "give another folder, or move the file"
            raise StorageError(what, value=uri, fix=fix) from error
        raise _nothing_there(action, uri) from error
    except PermissionError as error:
        fix = (
            "check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and the bucket's policy"
            if is_remote(uri)
            else ("check the permissions of the folder")
        )
        raise StorageError(f"cannot {action}, access denied", value=uri, fix=fix) from error
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        what = f"cannot {action}, no space left" if full else f"cannot {action} ({error})"
        kind = UnavailableError if is_remote(uri) and _may_pass(error) else StorageError
        raise kind(what, value=uri, fix="free some space, then run again" if full else "") from error
    except Exception as error:
        if not type(error).__module__.startswith(("botocore", "aiobotocore", "s3fs", "aiohttp", "fsspec")):
            raise
        fix = "check AWS_ENDPOINT_URL, AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
        kind = UnavailableError if _may_pass(error) else StorageError
        raise kind(f"cannot {action} ({error})", value=uri, fix=fix) from error


def _nothing_there(action: str, uri: str) -> NotFoundError:
    what = "nothing there" if action == "look for" else f"cannot {action}, nothing there"  # no user asked to look
    return NotFoundError(what, value=uri, fix="check the URI")


def _may_pass(error: Exception) -> bool:
    """Overloaded, refused, reset or timed out, as botocore, aiohttp and the kernel tell it; not a bad request."""
    names = {kind.__name__ for kind in type(error).__mro__}
    return getattr(error, "errno", None) in _PASSING or bool(
        names & {"HTTPClientError", "ConnectionError", "ClientConnectionError", "ServerTimeoutError"}
    )


def _call(action: str, uri: str, call: Callable[[AbstractFileSystem, str], T]) -> T:
    """``call`` with the filesystem and path of ``uri``, its failures as ours."""
    with _storage_errors(action, uri):
        if not uri.startswith("s3://"):
            return call(*filesystem(uri))
        return object_store.renewing(lambda: filesystem(uri), call)


def exists(uri: str) -> bool:
    """Whether a file or a folder with something in it is there."""
    return _call("look for", uri, lambda fs, path: bool(fs.exists(path)))


def is_folder(uri: str) -> bool:
    """Whether something lies below that URI; one small request of an object store. Raises StorageError."""

    def look(fs: AbstractFileSystem, path: str) -> bool:
        if not uri.startswith("s3://"):
            return bool(fs.isdir(path))
        bucket, _, prefix = path.partition("/")
        below = prefix.strip("/") + "/" if prefix.strip("/") else ""
        return bool(fs.call_s3("list_objects_v2", Bucket=bucket, Prefix=below, MaxKeys=1).get("Contents"))

    return _call("list", uri, look)


def size_bytes(uri: str) -> int:
    """Size of the file. Raises NotFoundError."""
    return _call("read the size of", uri, lambda fs, path: int(fs.size(path) or 0))


def read_bytes(uri: str) -> bytes:
    """The whole file. Raises NotFoundError, StorageError."""
    return _call("read", uri, lambda fs, path: cast(bytes, fs.cat_file(path)))


def read_range(uri: str, offset: int, length: int) -> bytes:
    """``length`` bytes from ``offset``, with one range request. Raises NotFoundError, StorageError."""
    return _call("read", uri, lambda fs, path: cast(bytes, fs.cat_file(path, start=offset, end=offset + length)))


@contextlib.contextmanager
def open_read(uri: str, *, block_size: int = _BLOCK_BYTES) -> Iterator[BinaryIO]:
    """A seekable binary reader that fetches ``block_size`` bytes at a time."""
    with _storage_errors("open", uri):
        if uri.startswith("s3://"):
            handle = cast(BinaryIO, object_store.ResumingReader(lambda: filesystem(uri), block_size))
        else:
            fs, path = filesystem(uri)
            handle = fs.open(path, "rb", block_size=block_size)
    with handle, _storage_errors("read", uri):
        yield handle


def sha256_of(uri: str) -> str:
    """sha256 (hex) of a stored file, read in pieces. Raises NotFoundError, StorageError."""
    digest = hashlib.sha256()
    with open_read(uri) as file:
        while block := file.read(_BLOCK_BYTES):
            digest.update(block)
    return digest.hexdigest()


def list_files(uri: str, *, suffix: str = "") -> list[FileEntry]:
    """All files below ``uri``, sorted by name; files being written are not shown. Empty when nothing is there."""
    uri = normalize(uri)
    entries = _call("list", uri, _objects if uri.startswith("s3://") else functools.partial(_found, uri))
    kept = [
        entry
        for entry in entries
        if entry.name.endswith(suffix) and not PurePosixPath(entry.name).name.startswith(TEMPORARY_PREFIX)
    ]
    return sorted(kept, key=lambda entry: entry.name)


def _found(uri: str, fs: AbstractFileSystem, path: str) -> list[FileEntry]:
    try:
        infos = cast(dict[str, dict[str, Any]], fs.find(path, withdirs=False, detail=True))
    except FileNotFoundError:
        return []
    root = path.rstrip("/")
    names = {name: name.removeprefix(root).lstrip("/") for name in infos}
    return [
        FileEntry(join(uri, names[name]), names[name], int(info.get("size") or 0), _etag(info))
        for name, info in infos.items()
        if names[name]
    ]


def _objects(fs: AbstractFileSystem, path: str) -> list[FileEntry]:
    """Under the keys that the server told, whatever is in them."""
    bucket, _, prefix = path.partition("/")
    try:
        keys = list(object_store.list_keys(fs, path))
    except FileNotFoundError:
        return []
    return [
        FileEntry(f"s3://{bucket}/{own['Key']}", name, int(own.get("Size") or 0), _etag(own))
        for own in keys
        if (name := str(own["Key"]).removeprefix(prefix).lstrip("/")) and not name.endswith("/")
    ]


def file_entry(uri: str) -> FileEntry:
    """Look up one file; its name is the last part of the URI. Raises NotFoundError, StorageError."""

    def look(fs: AbstractFileSystem, path: str) -> FileEntry:
        info = fs.info(path)
        if info["type"] != "file":
            raise FileNotFoundError(path)
        return FileEntry(uri, PurePosixPath(path).name, int(info.get("size") or 0), _etag(info))

    return _call("look for", uri, look)


def _etag(info: dict[str, Any]) -> str:
    return str(info.get("ETag") or "").strip('"')


def publish_bytes(uri: str, data: bytes) -> None:
    """Write a file so that it appears whole or not at all; an existing file of that name is replaced whole."""
    _refuse_builtin(uri)
    if is_remote(uri):
        _call("write", uri, lambda fs, path: object_store.put(fs, path, data))
        return
    with publishing(uri) as temporary:
        temporary.write_bytes(data)


def publish_new(uri: str, data: bytes) -> None:
    """Write a file where there is none; the same bytes stay as they are, and others are never replaced.

    Raises:
        ConflictError: another file of that name is there.
    """
    try:
        is_there = read_bytes(uri) == data
    except NotFoundError:
        publish_bytes(uri, data)
        return
    if not is_there:
        raise another_file(uri)


def another_file(uri: str) -> ConflictError:
    """What is raised where a file is in the way of another: no file is replaced by another."""
    return ConflictError("another file is there already", value=uri, fix="give another --out, or move it away")


@contextlib.contextmanager
def publishing(uri: str) -> Iterator[Path]:
    """Give a local path to write to; the file appears at ``uri`` when the block ends without an exception.

    Raises:
        StorageError: no space, no permission, or the store refuses.
        InputError: a builtin, which is read only.
    """
    uri = normalize(uri)
    _refuse_builtin(uri)
    if not is_remote(uri):
        with _storage_errors("write", uri):
            yield from _publish_by_rename(Path(uri))
        return
    with tempfile.TemporaryDirectory(prefix="syllabary-") as folder:
        temporary = Path(folder) / "object"
        with _storage_errors("write", uri):
            yield temporary
            _call("write", uri, lambda fs, path: fs.put_file(str(temporary), path))


def _publish_by_rename(target: Path) -> Iterator[Path]:
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.parent / f"{TEMPORARY_PREFIX}{os.getpid()}-{uuid.uuid4().hex[:8]}"
    try:
        yield temporary
        with temporary.open("rb") as handle:
            os.fsync(handle.fileno())
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)


def folded(name: str) -> str:
    """A name as file systems see it that tell neither case nor normal forms apart (those of macOS and Windows).

    >>> folded("STRASSE/a.wav") == folded("straße/A.WAV")
    True
    """
    return unicodedata.normalize("NFC", unicodedata.normalize("NFD", name).casefold())


def folds_names(uri: str, one: str, other: str) -> bool:
    """Whether two names of one :func:`folded` form are one file in the folder at ``uri``; found out by trying.

    Object stores tell all names apart.
    """
    if is_remote(uri):
        return False
    root = Path(normalize(uri))
    with _storage_errors("write", uri):
        root.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f"{TEMPORARY_PREFIX}{os.getpid()}-", dir=root) as folder:
            first, second = (Path(folder) / name.replace("/", "_")[-80:] for name in (one, other))
            first.touch()
            return second.exists()


def delete(uri: str) -> None:
    """Delete a file or a folder with all below it; nothing there is no error."""
    _refuse_builtin(uri)
    with contextlib.suppress(NotFoundError):
        _call("delete", uri, lambda fs, path: fs.rm(path, recursive=True))


def sweep_temporary(uri: str, *, alive: frozenset[int] = frozenset()) -> int:
    """Remove the half-written temporaries that killed writers left below a local folder; returns how many.

    ``alive`` names processes whose temporaries stay. Object stores leave none.
    """
    if is_remote(uri) or is_builtin(uri) or not Path(normalize(uri)).is_dir():
        return 0
    orphans = [p for p in Path(normalize(uri)).rglob(TEMPORARY_PREFIX + "*") if _writer_is_dead(p, alive)]
    for orphan in orphans:
        shutil.rmtree(orphan) if orphan.is_dir() else orphan.unlink(missing_ok=True)
    return len(orphans)


def _writer_is_dead(temporary: Path, alive: frozenset[int]) -> bool:
    writer = temporary.name.removeprefix(TEMPORARY_PREFIX).partition("-")[0]
    if not writer.isdigit() or int(writer) in alive:
        return not writer.isdigit()
    try:
        os.kill(int(writer), 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return False


def fetch_to(uri: str, folder: Path, name: str = "") -> Path:
    """A local copy of a file, by its own or another ``name`` (the file itself when it is local already)."""
    if not is_remote(uri):
        return local_path(uri)
    local = folder / (name or PurePosixPath(uri).name)
    _call("fetch", uri, lambda fs, path: fs.get_file(path, str(local)))
    return local


def as_buffer(uri: str) -> io.BytesIO:
    """The whole file as a seekable buffer in memory."""
    return io.BytesIO(read_bytes(uri))


def read_json(uri: str) -> dict[str, Any]:
    """A JSON object. Raises NotFoundError, FormatError."""
    data = read_bytes(uri)
    try:
        value = json.loads(data)
    except ValueError as error:
        raise FormatError(f"not JSON ({error})", value=uri, fix="the file is damaged: restore it") from error
    if not isinstance(value, dict):
        raise FormatError("not a JSON object", value=uri)
    return value


def pretty_json(value: object) -> bytes:
    """JSON for people and diffs: sorted, indented, newline at the end."""
    return (json.dumps(value, sort_keys=True, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode()


@dataclass(frozen=True)
class Folder:
    """A folder of the local disk, of an object store, or of a builtin.

    Names are relative, with ``/`` between parts; one that would leave the folder is refused with InputError. What fails
    raises as the functions of this module do.
    """

    uri: str

    def __truediv__(self, name: str) -> Folder:
        """The folder of that name below this one."""
        return Folder(self.join(name))

    def join(self, name: str) -> str:
        """The URI of a file."""
        return join(self.uri, name)

    def exists(self, name: str) -> bool:
        """Whether a file or a folder of that name is there."""
        return exists(self.join(name))

    def list(self, *, suffix: str = "") -> list[FileEntry]:
        """All files below the folder, sorted by name; empty when nothing is there."""
        return list_files(self.uri, suffix=suffix)

    def read(self, name: str) -> bytes:
        """A whole file."""
        return read_bytes(self.join(name))

    def read_json(self, name: str) -> dict[str, Any]:
        """A file that holds a JSON object. Raises FormatError where it does not."""
        return read_json(self.join(name))

    def open(self, name: str) -> AbstractContextManager[BinaryIO]:
        """A seekable reader of a file."""
        return open_read(self.join(name))

    def publish(self, name: str, data: bytes) -> None:
        """Write a file so that it appears whole or not at all."""
        publish_bytes(self.join(name), data)

    def publish_json(self, name: str, value: object) -> None:
        """Write a value as JSON for people: sorted, indented."""
        self.publish(name, pretty_json(value))

    def publishing(self, name: str) -> AbstractContextManager[Path]:
        """A local path to write to; the file appears under its name when the block ends well."""
        return publishing(self.join(name))

    def delete(self, name: str) -> None:
        """Delete a file, or a folder with all that is in it; nothing where there is none."""
        delete(self.join(name))
