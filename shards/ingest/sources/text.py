"""Read the lines of a text file: plain or gzip, with any line ends, whatever its name is."""

from __future__ import annotations

import gzip
import json
import re
import zlib
from collections.abc import Iterator
from typing import Any

from syllabary.shards import store
from syllabary.shards.errors import FormatError, InputError

GZIP = b"\x1f\x8b"
_LINE_END = re.compile(rb"\r\n|\n|\r")


def read_text(uri: str) -> bytes:
    """The whole file, unpacked, without a byte order mark.

    Raises:
        FormatError: gzip that is damaged or ends early.
        StorageError: it cannot be read.
    """
    data = store.read_bytes(uri)
    if data[:2] == GZIP:
        try:
            data = gzip.decompress(data)
        except (EOFError, OSError, zlib.error) as error:
            fix = "fetch it again"
            raise FormatError(f"gzip is damaged or ends early ({error})", value=uri, fix=fix) from error
    return data.removeprefix(b"\xef\xbb\xbf")


def text_lines(uri: str) -> Iterator[tuple[int, str]]:
    """(number, line) of every line that is not blank. Raises FormatError, StorageError; InputError: not UTF-8."""
    for number, line, _ in ended_lines(uri, read_text(uri)):
        if line.strip():
            yield number, line


def ended_lines(uri: str, data: bytes) -> Iterator[tuple[int, str, str]]:
    """(number, line, its end) of every line of a file's text, blank ones too. Raises InputError: not UTF-8."""
    for number, (line, end) in enumerate(_split(data), start=1):
        try:
            yield number, line.decode(), end.decode()
        except UnicodeDecodeError as error:
            raise InputError(f"{uri} line {number} is not UTF-8 ({error.reason})", fix="mend that line") from error


def _split(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """The lines with their ends, one at a time: a list of a million of them would be as large as the file again."""
    start = 0
    for end in _LINE_END.finditer(data):
        yield data[start : end.start()], end.group()
        start = end.end()
    yield data[start:], b""


def json_objects(uri: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """(number, object) of a file with one JSON object per line, or with one JSON list of objects.

    Raises:
        FormatError, StorageError: it cannot be read.
        InputError: a line is no JSON object.
    """
    for number, line in text_lines(uri):
        if number == 1 and line.lstrip().startswith("["):
            yield from _listed(uri)
            return
        yield number, _object(line, f"{uri} line {number}")


def _listed(uri: str) -> Iterator[tuple[int, dict[str, Any]]]:
    try:
        values = json.loads(read_text(uri))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{uri} is no JSON list ({error})", fix="mend it") from error
    for number, value in enumerate(values, start=1):
        if not isinstance(value, dict):
            raise InputError(f"{uri} entry {number} is no JSON object", fix="mend that entry")
        yield number, value


def _object(line: str, where: str) -> dict[str, Any]:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{where} is not JSON ({error})", fix="mend that line") from error
    if not isinstance(value, dict):
        raise InputError(f"{where} is no JSON object", fix="mend that line")
    return value
