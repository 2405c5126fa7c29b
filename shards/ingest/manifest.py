"""A JSONL manifest as a source: one recording a line, ``{"path": …, "speaker": …, "start_s": …, "end_s": …}``.

Only ``path`` is required: relative to the manifest, absolute, or ``s3://``. ``language`` is allowed too. A line that
cannot be understood refuses the whole manifest; a file that is not there is quarantined like any bad recording.
"""

from __future__ import annotations

import json
from pathlib import Path, PurePosixPath

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from syllabary.shards import store
from syllabary.shards.errors import InputError, StorageError, first_fault
from syllabary.shards.ingest.recordings import Recording, RecordingError, escape
from syllabary.shards.ingest.sources import SourceFile, fingerprint, in_order, recording_fault, speaker_of
from syllabary.shards.outputs import canonical_json


class ManifestLine(BaseModel):
    """One line. Times in seconds; the recording is start_s..end_s of the file."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    path: str = Field(min_length=1)
    speaker: str | None = Field(default=None, min_length=1)
    language: str | None = None
    start_s: float | None = Field(default=None, ge=0)
    end_s: float | None = Field(default=None, gt=0)

    @model_validator(mode="after")
    def _ends_after_start(self) -> ManifestLine:
        if self.end_s is not None and self.end_s <= (self.start_s or 0):
            raise ValueError(f"end_s {self.end_s} is not after start_s {self.start_s or 0}")
        return self

    @property
    def recording_id(self) -> str:
        """The path without what would leave a folder, and the span when there is one."""
        parts = PurePosixPath(self.path.replace("://", "/")).parts
        name = "/".join("%2E%2E" if part == ".." else escape(part) for part in parts if part not in ("/", "."))
        whole = self.start_s is None and self.end_s is None
        end = "end" if self.end_s is None else f"{self.end_s:g}"
        return name.removesuffix(".flac") + ("" if whole else f"#{self.start_s or 0:g}-{end}")


def list_manifest(uri: str) -> list[Recording]:
    """Every recording of a manifest, sorted by id.

    Raises:
        InputError: a line is not understood, the manifest is empty, or a recording is listed twice.
        StorageError: the manifest cannot be read.
    """
    lines = _parse(uri)
    if not lines:
        raise InputError("empty manifest", value=uri, expected='lines such as {"path": "a.flac"}')
    files = {path: _file(path, _location(uri, path)) for path in {line.path for line in lines}}
    return in_order(_recording(line, files[line.path]) for line in lines)


def _parse(uri: str) -> list[ManifestLine]:
    lines = []
    for number, text in enumerate(store.read_bytes(uri).split(b"\n"), start=1):
        if not text.strip():
            continue
        try:
            lines.append(ManifestLine.model_validate(json.loads(text)))
        except ValidationError as error:
            where, message, _ = first_fault(error)
            raise InputError(f"{uri} line {number}: {where or 'line'}: {message}", fix="mend that line") from error
        except ValueError as error:
            raise InputError(f"{uri} line {number} is not JSON ({error})", fix="mend that line") from error
    return lines


def _location(manifest: str, path: str) -> str:
    if "://" in path or Path(path).is_absolute():
        return path
    if store.is_remote(manifest):
        return store.join(manifest.rpartition("/")[0], path)
    return str(Path(store.normalize(manifest)).parent / path)


def _file(path: str, location: str) -> SourceFile:
    try:
        entry = store.file_entry(location)
    except StorageError as error:
        fault = recording_fault(error, location)
        if not isinstance(fault, RecordingError):
            raise
        return SourceFile(path, location, problem=str(fault))
    return SourceFile(path, location, entry.size_bytes, entry.etag)


def _recording(line: ManifestLine, file: SourceFile) -> Recording:
    return Recording(
        recording_id=line.recording_id, source=escape(line.path), location=file.location, size_bytes=file.size_bytes,
        fingerprint=fingerprint(file, canonical_json(line.model_dump()).decode()),
        speaker=escape(line.speaker or speaker_of(line.path.lstrip("/"), "folder")), language=line.language,
        start_s=line.start_s, end_s=line.end_s, verdict="quarantined" if file.problem else "", detail=file.problem,
    )  # fmt: skip
