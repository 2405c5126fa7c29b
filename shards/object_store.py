"""Handle what is particular to S3: complete listings, keys that expire, and writes that a server answers twice.

Servers that speak S3 differ in what they get wrong; what is found here is refused by name rather than believed.
"""

from __future__ import annotations

import io
import os
import time
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO, TypeVar

from fsspec import AbstractFileSystem

from syllabary.shards.errors import StorageError

T = TypeVar("T")
_EXPIRED = {"ExpiredToken", "ExpiredTokenException", "RequestExpired", "TokenRefreshRequired", "InvalidToken"}
_TAKEN = {"412", "409", "PreconditionFailed", "ConditionalRequestConflict", "OperationAborted"}
_RENEWALS_S = (0.0, 2.0, 10.0)  # new keys may be written a moment after the old ones have expired
_PAGE = 1000  # keys, more than which no server may put on a page


def list_keys(fs: AbstractFileSystem, path: str) -> Iterator[dict[str, Any]]:
    """Every object below ``bucket/prefix``, page by page, as S3 lists it: ``Key``, ``Size``, ``ETag``.

    Raises:
        StorageError: the listing is not complete, so that an object may be missing from it.
    """
    bucket, _, prefix = path.partition("/")
    prefix = prefix.strip("/") + "/" if prefix.strip("/") else ""
    token, before = "", ""
    while True:
        more = {"ContinuationToken": token} if token else {}
        page = fs.call_s3("list_objects_v2", Bucket=bucket, Prefix=prefix, **more)
        keys = page.get("Contents") or []
        yield from keys
        token, before = _next_page(page, token, before, f"s3://{path}")
        if not token:
            return


def _next_page(page: dict[str, Any], token: str, before: str, uri: str) -> tuple[str, str]:
    """(token of the next page or nothing, first key of this one). Raises StorageError."""
    keys = page.get("Contents") or []
    first = str(keys[0]["Key"]) if keys else before
    following = str(page.get("NextContinuationToken") or "")
    fault = ""
    if page.get("IsTruncated") and not following:
        fault = "cut off without a mark of where it goes on"
    elif page.get("IsTruncated") and (following == token or (keys and first <= before)):
        fault = "the same page again"
    elif not page.get("IsTruncated") and len(keys) > (page.get("MaxKeys") or _PAGE):
        fault = f"{len(keys):,} keys on its last page, more than a page may have"
    elif page.get("KeyCount") and not page.get("CommonPrefixes") and page["KeyCount"] != len(keys):
        fault = f"{page['KeyCount']:,} keys promised and {len(keys):,} sent"
    if fault:
        fix = "ask the server's vendor; its listing cannot be trusted"
        raise StorageError(f"the server gives an incomplete listing ({fault})", value=uri, fix=fix)
    return (following if page.get("IsTruncated") else ""), first


def renewing(connect: Callable[[], tuple[AbstractFileSystem, str]], call: Callable[[AbstractFileSystem, str], T]) -> T:
    """``call`` with the filesystem and path that ``connect`` gives; again with new keys when these have expired.

    New keys are read from where the old ones came from: the environment, a file, a role.

    Raises:
        StorageError: the keys have expired, and there are no new ones.
    """
    for wait_s in (None, *_RENEWALS_S):
        if wait_s is not None:
            time.sleep(wait_s)
            forget_keys()
        fs, path = connect()
        try:
            return call(fs, path)
        except Exception as error:
            if not _has_expired(error, fs, path):
                raise
            last = error
    raise StorageError("the keys of the object store have expired", fix=_renewal()) from last


def forget_keys() -> None:
    """Read the keys again at the next request."""
    import s3fs

    s3fs.S3FileSystem.clear_instance_cache()


def _renewal() -> str:
    if os.environ.get("AWS_ACCESS_KEY_ID"):
        return (
            "set new ones in AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_SESSION_TOKEN; or unset these: "
            "as long as they are set, nothing renews them"
        )
    return "renew them in the profile or role that they come from"


def _has_expired(error: BaseException, fs: AbstractFileSystem, path: str) -> bool:
    code = error_code(error)
    if code in ("403", "400") and getattr(fs, "protocol", None) in (("s3", "s3a"), ["s3", "s3a"], "s3"):
        try:  # the answer to HEAD has no body that would say why
            fs.call_s3("list_objects_v2", Bucket=path.partition("/")[0], MaxKeys=1)
        except Exception as said:
            code = error_code(said)
    return code in _EXPIRED


def error_code(error: BaseException | None) -> str:
    """S3's code of what went wrong, from the exception or what caused it; empty when none is told."""
    while error is not None:
        response = getattr(error, "response", None)
        if isinstance(response, dict):
            return str(response.get("Error", {}).get("Code", ""))
        error = error.__cause__
    return ""


def put(fs: AbstractFileSystem, path: str, data: bytes) -> None:
    """Write an object. A server that refuses because it is there already, with these bytes, has it from this writer."""
    try:
        fs.pipe_file(path, data)
    except OSError as error:
        if error_code(error) not in _TAKEN or fs.cat_file(path) != data:
            raise


class ResumingReader(io.RawIOBase):
    """A seekable reader of one object that goes on where it was when keys expire in the middle."""

    def __init__(self, connect: Callable[[], tuple[AbstractFileSystem, str]], block_size: int) -> None:
        self._connect, self._block_size = connect, block_size
        self._handle = self._open(0)

    def _open(self, position: int) -> BinaryIO:
        def opened(fs: AbstractFileSystem, path: str) -> BinaryIO:
            handle: BinaryIO = fs.open(path, "rb", block_size=self._block_size)
            handle.seek(position)
            return handle

        return renewing(self._connect, opened)

    def readable(self) -> bool:
        """Always."""
        return True

    def seekable(self) -> bool:
        """Always."""
        return True

    def tell(self) -> int:
        """The position."""
        return self._handle.tell()

    def seek(self, offset: int, whence: int = 0) -> int:
        """To ``offset`` from the start, the position or the end."""
        return self._handle.seek(offset, whence)

    def read(self, size: int = -1) -> bytes:
        """As a file's."""
        position = self._handle.tell()

        def call(fs: AbstractFileSystem, path: str) -> bytes:
            if self._handle.closed:
                self._handle = fs.open(path, "rb", block_size=self._block_size)
            self._handle.seek(position)
            try:
                return self._handle.read(size)
            except OSError:
                self._handle.close()
                raise

        return renewing(self._connect, call)

    def readinto(self, buffer: Any) -> int:
        """As a file's."""
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        """Close the object."""
        if not self.closed:
            self._handle.close()
        super().close()
