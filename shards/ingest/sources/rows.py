"""Read the rows of a table: fields by a delimiter, quoted or not; a quoted one may span several lines.

Quotes mean something in comma-separated tables; in those by tab or ``|`` a text may begin with one, so there they mean
something only where the table cannot be read otherwise. A quote that is opened and never closed would swallow the rows
behind it: it is refused by line.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator
from pathlib import PurePosixPath
from typing import NamedTuple

from syllabary.shards.errors import InputError
from syllabary.shards.ingest.sources.text import ended_lines, read_text

_DELIMITERS = ("\t", "|", ";", ",")
_ALWAYS_QUOTED = ",;"
_LONGEST = 1 << 24  # characters of a row: what is longer is a quote that nobody closed
OPEN_QUOTE = 'mend that line: a quotation mark within a quoted field is doubled ("")'
csv.field_size_limit(1 << 26)

Ended = tuple[int, str, str]  # number, line, its end


class Row(NamedTuple):
    """The number of the line that a row begins on, its fields, and each line behind its first as fields of its own."""

    number: int
    fields: list[str]
    behind: tuple[list[str], ...] = ()


def table_rows(uri: str, known: Iterable[str]) -> Iterator[Row]:
    """The rows of a table, its header first; lines between them that are blank are none.

    Args:
        uri: of the table.
        known: names of columns: where only quoted reading finds one in the header, the table is quoted.

    Raises:
        InputError: empty; a line is not UTF-8; a quote is opened and not closed.
        FormatError, StorageError: it cannot be read.
    """
    data = read_text(uri)
    first = next((line for _, line, _ in ended_lines(uri, data) if line.strip()), "")
    if not first:
        raise InputError("empty manifest", value=uri, expected="a header and rows")
    delimiter = _delimiter(first)
    if delimiter in _ALWAYS_QUOTED or header_is_quoted(first, known):
        return _quoted(ended_lines(uri, data), delimiter, uri)
    if b'"' in data and _needs_quotes(uri, data, delimiter):
        return _quoted(ended_lines(uri, data), delimiter, uri)
    return _plain(ended_lines(uri, data), delimiter)


def split_row(line: str, known: Iterable[str]) -> list[str]:
    """The fields of a table's first line, by the delimiter that it has most of."""
    delimiter = _delimiter(line)
    if delimiter in _ALWAYS_QUOTED or header_is_quoted(line, known):
        return _lenient(line, delimiter)
    return line.split(delimiter)


def header_is_quoted(line: str, known: Iterable[str]) -> bool:
    """Whether a header names a known column only when its quotes are taken for quotes."""
    names, delimiter = set(known), _delimiter(line)
    plain = {name.strip().casefold() for name in line.split(delimiter)}
    return not plain & names and bool({name.strip().casefold() for name in _lenient(line, delimiter)} & names)


def hidden_row(row: Row, column: int, num_columns: int) -> bool:
    """Whether a line behind the first of a row is a row itself: then a quote that was text has swallowed it.

    Args:
        row: of a table.
        column: where the path stands.
        num_columns: of the table.
    """
    suffix = PurePosixPath(row.fields[column].strip()).suffix.lower()
    paths = [fields[column].strip() for fields in row.behind if len(fields) == num_columns]
    if suffix:
        return any(PurePosixPath(path).suffix.lower() == suffix for path in paths)
    return any(path and not any(map(str.isspace, path)) for path in paths)


def _delimiter(line: str) -> str:
    return max(_DELIMITERS, key=line.count)


def _lenient(line: str, delimiter: str) -> list[str]:
    try:
        return next(csv.reader([line], delimiter=delimiter), [])
    except csv.Error as error:
        raise InputError(f"no row of a table ({error})", value=line[:80], fix="mend that line") from error


def _plain(lines: Iterator[Ended], delimiter: str) -> Iterator[Row]:
    return (Row(number, line.split(delimiter)) for number, line, _ in lines if line.strip())


def _needs_quotes(uri: str, data: bytes, delimiter: str) -> bool:
    """Whether all rows have as many columns as the header with quotes, and not all without."""
    counts = {len(row.fields) for row in _plain(ended_lines(uri, data), delimiter)}
    if len(counts) == 1:
        return False
    try:
        return len({len(row.fields) for row in _quoted(ended_lines(uri, data), delimiter, uri)}) == 1
    except InputError:
        return False


def _quoted(lines: Iterator[Ended], delimiter: str, uri: str) -> Iterator[Row]:
    for number, line, end in lines:
        if not line.strip():
            continue
        try:
            yield Row(number, next(csv.reader([line], delimiter=delimiter, strict=True)))
        except csv.Error as error:
            if not _is_open(error):
                yield Row(number, _lenient(line, delimiter))  # words behind a closing quote, on one line
            else:
                yield _continued(number, line + end, lines, delimiter, uri)


def _continued(number: int, text: str, lines: Iterator[Ended], delimiter: str, uri: str) -> Row:
    """The row that begins with an open quote on line ``number``, taken on to the line that closes it."""
    behind: list[list[str]] = []
    pieces, length, num_quotes = [text], len(text), 0
    for _, line, end in lines:
        behind.append(line.split(delimiter))
        pieces.append(line + end)
        length += len(line)
        num_quotes += line.count('"')
        if length > _LONGEST:
            break
        if num_quotes % 2:  # else the field is still open: "" within it is one
            try:
                fields = next(csv.reader(pieces, delimiter=delimiter, strict=True))
                return Row(number, fields, tuple(behind))
            except csv.Error as error:
                if not _is_open(error):
                    raise InputError(f"{uri} line {number}: a quote is not closed ({error})", fix=OPEN_QUOTE) from error
                num_quotes = 0
    raise InputError(f"{uri} line {number}: a quote is opened and closed nowhere", fix=OPEN_QUOTE)


def _is_open(error: csv.Error) -> bool:
    return "unexpected end of data" in str(error)
