"""Parquet with the audio in it, as Hugging Face's datasets have it: a struct of ``bytes`` and ``path``, and columns.

The files are read one after the other, some rows at a time; the other columns are taken as those of a table.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from syllabary.shards import store
from syllabary.shards.errors import FormatError, InputError
from syllabary.shards.ingest.recordings import Recording, Verdict, escape, extra_json, id_of, speaker_name
from syllabary.shards.ingest.sources.files import SourceFile, list_source_files
from syllabary.shards.ingest.sources.flat import NAMES
from syllabary.shards.ingest.sources.lines import UNKNOWN, name_value, seconds_value, speaker_above
from syllabary.shards.ingest.sources.streamed import Streamed
from syllabary.shards.outputs import digest

MARK = b"PAR1"
_ROWS = 16
_AUDIO = ("audio", "speech", "sound", "wav")


class ParquetStream:
    """One pass over a Parquet file, or over all below a folder.

    Attributes:
        uri: of the source.
        md5: empty.
        size_bytes: of all files.
        notes: for the user, about what was found.
    """

    def __init__(self, uri: str, spool: Path) -> None:
        self.uri, self._spool = uri, spool
        self.files = parquet_files(uri)
        self.md5, self.size_bytes = "", sum(file.size_bytes for file in self.files)
        self.notes: list[str] = []
        self._num_unknown = self._num = 0
        self._names: set[str] = set()

    def recordings(self) -> Iterator[Streamed]:
        """Every row, in order.

        Raises:
            FormatError: no Parquet, or a damaged file.
            InputError: no column holds audio, or a value does not do.
        """
        for number, file in enumerate(self.files):
            with store.open_read(file.location) as handle:
                for row, values in enumerate(_rows(handle, file)):
                    yield self._streamed(file, number, row, values)
        if self._num_unknown:
            self.notes.append(f"{self._num_unknown:,} of {self._num:,} recordings name no speaker: unknown")

    def again(self, place: int, size_bytes: int) -> bytes:
        """The audio of a row, by its place."""
        number, row = place >> 40, place & (1 << 40) - 1
        with store.open_read(self.files[number].location) as handle:
            for at, values in enumerate(_rows(handle, self.files[number])):
                if at == row:
                    return bytes(values["audio"] or b"")
        raise FormatError("a row is gone", value=self.files[number].name, fix="leave the source as it was")

    def _streamed(self, file: SourceFile, number: int, row: int, values: dict[str, Any]) -> Streamed:
        where = f"{file.name} row {row}"
        audio, path = values.pop("audio"), values.pop("path")
        said = {name: self._said(values, name, where) for name in ("speaker", "language", "gender", "text")}
        duration_s = seconds_value(_taken(values, "duration_s"), f"{where}: duration")
        name, verdict, detail = self._name(file, path, row), "", ""
        if not audio:
            verdict, detail = "quarantined", "no audio in this row: its bytes lie elsewhere" if path else "no audio"
        speaker = said.pop("speaker") or speaker_above(path or "")
        self._num, self._num_unknown = self._num + 1, self._num_unknown + (speaker == UNKNOWN)
        extra = extra_json(values | ({"duration": duration_s} if duration_s is not None else {}))
        recording = Recording(
            recording_id=id_of(name), source=escape(name), location="", size_bytes=len(audio or b""),
            fingerprint=digest([len(audio or b""), said, speaker, extra])[:32], speaker=speaker_name(speaker),
            extra=extra, verdict=_verdict(verdict), detail=detail, language=said["language"], gender=said["gender"],
            text=said["text"],
        )  # fmt: skip
        return Streamed(recording, self._put(number, row, audio) if audio else None, number << 40 | row, None)

    def _said(self, values: dict[str, Any], column: str, where: str) -> str | None:
        return name_value(_taken(values, column), f"{where}: {column}")

    def _name(self, file: SourceFile, path: str | None, row: int) -> str:
        """The audio's own path where it has one of its own, else the file's name and the row."""
        name = "/".join(part for part in PurePosixPath(path or "").parts if part not in ("/", "..", "."))
        if not name or name in self._names:
            name = f"{file.name}/{row:06d}" + (f"-{PurePosixPath(name).name}" if name else "")
        self._names.add(name)
        return name

    def _put(self, number: int, row: int, audio: bytes) -> Path:
        path = self._spool / f"{number:04d}-{row:09d}"
        path.write_bytes(audio)
        return path


def parquet_files(uri: str) -> list[SourceFile]:
    """The Parquet files at a URI, in order of their names. Raises NotFoundError, StorageError."""
    if (not store.is_remote(uri) and Path(store.normalize(uri)).is_file()) or uri.endswith(".parquet"):
        entry = store.file_entry(uri)
        return [SourceFile(entry.name, store.normalize(uri), entry.size_bytes, entry.etag)]
    return [file for file in list_source_files(uri)[0] if file.suffix == ".parquet"]


def _rows(handle: Any, file: SourceFile) -> Iterator[dict[str, Any]]:
    """Rows with "audio" (bytes) and "path" beside the other columns."""
    try:
        parquet = pq.ParquetFile(handle)
        column = _audio_column(parquet.schema_arrow, file)
        for batch in parquet.iter_batches(_ROWS):
            for values in batch.to_pylist():
                sound = values.pop(column)
                own = sound if isinstance(sound, dict) else {"bytes": sound}
                yield {**values, "audio": own.get("bytes"), "path": own.get("path") or values.get("path")}
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise FormatError(f"damaged Parquet ({error})", value=file.name, fix="fetch it again") from error


def _audio_column(schema: pa.Schema, file: SourceFile) -> str:
    for field in sorted(schema, key=lambda field: field.name not in _AUDIO):
        own = field.type
        if pa.types.is_struct(own) and any(own.field(i).name == "bytes" for i in range(own.num_fields)):
            return str(field.name)
        if field.name in _AUDIO and (pa.types.is_binary(own) or pa.types.is_large_binary(own)):
            return str(field.name)
    names = ", ".join(schema.names)[:200]
    raise InputError(f"no column of {file.name} holds audio", value=names, expected="a struct with bytes and path")


def _taken(values: dict[str, Any], column: str) -> Any:
    """The value of a known column under any of its names, taken out of the row."""
    name = next((own for own in NAMES[column] if own in values), None)
    return None if name is None else values.pop(name)


def _verdict(text: str) -> Verdict:
    return "quarantined" if text else ""
