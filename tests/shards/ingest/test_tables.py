"""Tables as people write them: fields in quotes, over several lines, and quotes that mean nothing."""

from __future__ import annotations

import csv
import gzip
import io
from pathlib import Path

import pytest

from syllabary.shards.errors import InputError
from syllabary.shards.ingest.sources.flat import table_lines
from syllabary.shards.ingest.sources.rows import header_is_quoted

HEADER = ["file_name", "text", "note"]
TEXTS = [
    "one line",
    "two\nlines",
    'he said ""well""\n\nand left, "slowly"',
    "  \n",
    "a,b;c|d\te\n",
    '"',
    '"\n"',
    "\r\nend",
]
ROWS = [[f"{number}.flac", text, f"n{number}"] for number, text in enumerate(TEXTS)]


def table(*rows: list[str], **options: object) -> bytes:
    buffer = io.StringIO()
    csv.writer(buffer, **options).writerows([HEADER, *rows])  # type: ignore[arg-type]
    return buffer.getvalue().encode()


def read(tmp_path: Path, data: bytes) -> list[tuple[str, str | None, object]]:
    (tmp_path / "t.csv").write_bytes(data)
    lines = list(table_lines(str(tmp_path / "t.csv")))
    return [(line.path, line.text, line.extra.get("note")) for line in lines]


def told(rows: list[list[str]]) -> list[tuple[str, str | None, object]]:
    """Texts are trimmed, and none where nothing is left."""
    return [(path, text.strip() or None, note) for path, text, note in rows]


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
@pytest.mark.parametrize("end", ["\r\n", "\n"])
@pytest.mark.parametrize("quoting", [csv.QUOTE_MINIMAL, csv.QUOTE_ALL, csv.QUOTE_NONNUMERIC])
def test_a_quoted_field_has_as_many_lines_as_it_has(tmp_path: Path, delimiter: str, end: str, quoting: int) -> None:
    data = table(*ROWS, delimiter=delimiter, lineterminator=end, quoting=quoting)
    assert read(tmp_path, data) == told(ROWS)
    assert read(tmp_path, gzip.compress(b"\xef\xbb\xbf" + data)) == told(ROWS)


def test_messages_name_the_line_that_a_row_begins_on(tmp_path: Path) -> None:
    data = b'path,text\na.flac,"x\ny"\n\nb.flac,"x\n",z\n'
    with pytest.raises(InputError, match=r"t.csv line 5 has 3 columns; expected 2"):
        read(tmp_path, data)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ('a.flac,"tis the season,x\nb.flac,well,y\n', "line 2: a quote is opened and closed nowhere"),
        ('a.flac,x,y\nb.flac,"x', "line 3: a quote is opened and closed nowhere"),
        ('a.flac,"tis,x\nb.flac,say "what",y\nc.flac,"z",z\n', "line 2: a quote is opened and closed nowhere"),
        ('a.flac,"tis,x\nb.flac,say "what,y\n', r"line 2: a quote is not closed \(',' expected"),
        ('a.flac,"tis the season,x\nb.flac,he said ",y\n', "line 2: a quote is opened that takes rows behind it"),
        ('a,"tis the season,x\nb,he said ",y\n', "line 2: a quote is opened that takes rows behind it"),
    ],
)
def test_a_quote_that_is_not_closed_swallows_no_rows(tmp_path: Path, rows: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        read(tmp_path, b"file_name,text,note\n" + rows.encode())


def test_a_million_lines_behind_an_open_quote_are_refused_at_once(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="line 2: a quote is opened and closed nowhere"):
        read(tmp_path, b'path,text\na.flac,"\n' + b"b.flac,some words of a sentence\n" * 300_000)


@pytest.mark.parametrize("delimiter", ["\t", "|"])
def test_quotes_mean_nothing_where_the_table_reads_without(tmp_path: Path, delimiter: str) -> None:
    rows = [["a.flac", '"Well', "x"], ["b.flac", 'no" he said', "y"], ["c.flac", '"all of it"', "z"]]
    data = "\n".join(delimiter.join(row) for row in [HEADER, *rows]).encode()
    assert read(tmp_path, data) == told(rows)


def test_words_behind_a_closing_quote_are_kept_on_their_line(tmp_path: Path) -> None:
    assert read(tmp_path, b'path,text,note\na.flac,"hi" there,x\nb.flac,so,y\n') == [
        ("a.flac", "hi there", "x"), ("b.flac", "so", "y"),
    ]  # fmt: skip


def test_ljspeech_with_a_quoted_field_of_two_lines(tmp_path: Path) -> None:
    data = b'LJ1|"in two\nlines"|in two lines\nLJ2|of one line|of one line\n'
    assert [(path, text) for path, text, _ in read(tmp_path, data)] == [
        ("LJ1", "in two\nlines"),
        ("LJ2", "of one line"),
    ]


@pytest.mark.parametrize(
    ("line", "is_quoted"),
    [
        ('"file_name";"text"', True),
        ('"file_name, or path";"file_name"', True),
        ("file_name;text", False),
        ('file_name;"text"', False),  # as it stands, too: a quote may be part of a name
        ('"sound";"words"', False),  # no name that is known, with its quotes or without
        ("sound;words", False),
    ],
)
def test_a_header_is_quoted_where_only_its_quotes_hide_a_known_name(line: str, is_quoted: bool) -> None:
    assert header_is_quoted(line, HEADER) is is_quoted
