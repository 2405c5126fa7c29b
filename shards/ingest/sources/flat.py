"""Lists with one flat record an utterance: our own JSONL, NeMo's manifests, and tables (CSV, TSV, LJSpeech's ``|``).

A record is known by its column for the audio; the other known columns are spelled in the ways that corpora spell them.
What no column is known for is kept as ``extra``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import lru_cache
from pathlib import PurePosixPath
from typing import Any

from syllabary.shards import store
from syllabary.shards.errors import InputError, StorageError
from syllabary.shards.ingest.sources.lines import Line, name_value, part_of, seconds_value
from syllabary.shards.ingest.sources.rows import OPEN_QUOTE, hidden_row, split_row, table_rows
from syllabary.shards.ingest.sources.text import json_objects

NAMES = {
    "path": ("path", "audio_filepath", "audio_path", "file_name", "filename", "file_path", "filepath", "file", "audio",
             "wav", "wav_path", "wav_filename", "audio_file"),
    "speaker": ("speaker", "speaker_id", "speaker_name", "spk", "spk_id", "client_id"),
    "language": ("language", "lang", "locale"),
    "gender": ("gender", "sex"),
    "text": ("text", "sentence", "transcript", "transcription", "normalized_text", "orig_text"),
    "start_s": ("start_s", "offset", "start", "start_time", "begin"),
    "end_s": ("end_s", "end", "end_time"),
    "duration_s": ("duration_s", "duration"),
}  # fmt: skip
_LJSPEECH = ("path", "text", "normalized_text")
_FOLDERS = ("", "wavs/", "clips/", "audio/", "wav/", "flac/")
_SUFFIXES = ("", ".wav", ".flac", ".mp3", ".ogg", ".opus")


def manifest_lines(uri: str) -> Iterator[Line]:
    """The lines of a JSONL manifest, our own or NeMo's. Raises InputError: a line is not understood; StorageError."""
    for number, values in json_objects(uri):
        yield flat_line(values, number, f"{uri} line {number}")


def table_lines(uri: str) -> Iterator[Line]:
    """The lines of a table with a header, or of LJSpeech's without one.

    Names of audio may leave out the folder (``wavs/``, ``clips/``, ...) and the suffix: the first row shows which.

    Raises:
        InputError: no column names the audio, a row has another number of columns, or a quote is not closed.
        StorageError: it cannot be read.
    """
    rows = table_rows(uri, NAMES["path"])
    header = next(rows).fields
    place: tuple[str, str] | None = None
    if path_column(header) is None:
        if not is_ljspeech(header):
            fix = "name the column of the audio path"
            raise InputError("no column names the audio", value=", ".join(header)[:200], fix=fix)
        rows, header = table_rows(uri, NAMES["path"]), list(_LJSPEECH[: len(header)])
    at = header.index(path_column(header) or "")
    for row in rows:
        where = f"{uri} line {row.number}"
        if len(row.fields) != len(header):
            raise InputError(f"{where} has {len(row.fields)} columns", expected=f"{len(header)}, as the header")
        if row.behind and hidden_row(row, at, len(header)):
            raise InputError(f"{where}: a quote is opened that takes rows behind it for text", fix=OPEN_QUOTE)
        values = {name: value for name, value in zip(header, row.fields, strict=True) if value != ""}
        line = flat_line(values, row.number, where)
        place = place or _place(uri, line.path)
        yield line if place == ("", "") else _placed(line, place)


def is_ljspeech(fields: list[str]) -> bool:
    """Whether the first row of a table is one of LJSpeech: a name without blanks, and one or two texts."""
    return 2 <= len(fields) <= 3 and not any(character.isspace() for character in fields[0]) and " " in fields[1]


def first_fields(line: str) -> list[str]:
    """The fields of a table's first line."""
    return split_row(line, NAMES["path"])


def path_column(header: list[str]) -> str | None:
    """The name of the column of the audio, None when there is none."""
    names = {name.strip().casefold(): name for name in header}
    return next((names[name] for name in NAMES["path"] if name in names), None)


def flat_line(values: Mapping[str, Any], number: int, where: str) -> Line:
    """The line of one record. Raises InputError."""
    spelled = _spelled(tuple(values))
    known = {column: values[name] for column, name in spelled.items()}
    path = known.get("path")
    if not isinstance(path, str) or not path.strip("/. "):
        raise InputError(f"{where}: path: no audio is named", value=path, expected='"path" or "audio_filepath"')
    start_s, end_s, duration_s = (
        seconds_value(known.get(name), f"{where}: {name}") for name in ("start_s", "end_s", "duration_s")
    )
    start_s, end_s, whole_s = part_of(start_s, end_s, duration_s, where)
    used = spelled.values()
    extra = {name: value for name, value in values.items() if name not in used}
    speaker, language, gender, text = (
        name_value(known.get(name), f"{where}: {name}") for name in ("speaker", "language", "gender", "text")
    )
    return Line(
        number, path, speaker=speaker, language=language, gender=gender, text=text,
        start_s=start_s, end_s=end_s, duration_s=whole_s,
        extra=extra | ({"duration": duration_s} if duration_s is not None else {}),
    )  # fmt: skip


@lru_cache(maxsize=64)  # the lines of a list have mostly the same names
def _spelled(names: tuple[Any, ...]) -> dict[str, Any]:
    """How a record with these names spells the columns that are known."""
    own = {str(name).strip().casefold(): name for name in names}
    first = {column: next((own[name] for name in known if name in own), None) for column, known in NAMES.items()}
    return {column: name for column, name in first.items() if name is not None}


def _place(uri: str, path: str) -> tuple[str, str]:
    """Folder and suffix that lead from the first row's name to a file; none where nothing does."""
    if "://" in path or path.startswith("/"):
        return "", ""
    folder = uri.rpartition("/")[0] if store.is_remote(uri) else str(store.normalize(uri)).rpartition("/")[0]
    for prefix in _FOLDERS:
        for suffix in _SUFFIXES if not PurePosixPath(path).suffix else ("",):
            try:
                store.file_entry(store.join(folder, prefix + path + suffix))
            except (StorageError, InputError):
                continue
            return prefix, suffix
    return "", ""


def _placed(line: Line, place: tuple[str, str]) -> Line:
    return replace(line, path=place[0] + line.path + place[1])
