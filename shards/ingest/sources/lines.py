"""Turn the lines of any list of audio into recordings, and find lines that repeat one.

Every list there is (JSONL, NeMo, Lhotse, Kaldi, CSV) is read into :class:`Line`; what follows is the same for all.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from syllabary.shards import store
from syllabary.shards.errors import InputError, StorageError
from syllabary.shards.ingest.recordings import Recording, RecordingError, escape, extra_json, speaker_name
from syllabary.shards.ingest.sources.files import SourceFile, fingerprint, recording_fault
from syllabary.shards.outputs import digest

UNKNOWN = "unknown"
_NO_SPEAKERS = frozenset({
    "wav", "wavs", "wave", "flac", "mp3", "ogg", "opus", "audio", "audios", "clips", "sound", "sounds", "speech",
    "data", "recordings", "files", "train", "dev", "valid", "validation", "test", "corpus", "dataset",
})  # fmt: skip


@dataclass(frozen=True, slots=True)
class Line:
    """One recording as a list has it.

    Attributes:
        number: of the line, for messages.
        path: of the audio as the list spells it: relative to the list, absolute, ``file://`` or ``s3://``.
        start_s, end_s: the part of the file that is meant; None is the file's own start or end.
        duration_s: of the whole file, where no part is meant.
        extra: what else the line says.
    """

    number: int
    path: str
    speaker: str | None = None
    language: str | None = None
    gender: str | None = None
    text: str | None = None
    start_s: float | None = None
    end_s: float | None = None
    duration_s: float | None = None
    channel: int | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)

    @property
    def recording_id(self) -> str:
        """The path without what would leave a folder, and the part when there is one."""
        name = _safe_path(self.path).removesuffix(".flac")
        if self.start_s is not None or self.end_s is not None:
            end = "end" if self.end_s is None else f"{self.end_s:.10g}"
            name += f"#{self.start_s or 0:.10g}-{end}"
        return name if self.channel is None else f"{name}#channel-{self.channel + 1}"


def recordings_of(uri: str, lines: Iterable[Line], notes: list[str]) -> list[Recording]:
    """The recordings of a list that lies at ``uri``, sorted by id.

    Args:
        uri: of the list; its paths are relative to the folder it lies in.
        lines: of the list.
        notes: gets a line where speakers are not known.

    Raises:
        InputError: two lines are the same recording, or there is none.
        StorageError: the store is at fault.
    """
    files: dict[str, tuple[SourceFile, str]] = {}
    by_id: dict[str, Recording] = {}
    numbers = array("q")  # in the order of ``found``
    known: dict[str, str] = {}
    for line in lines:
        if line.path not in files:
            file = _file(line.path, _location(uri, line.path))
            files[line.path] = (file, fingerprint(file))
        recording = _recording(line, *files[line.path], known)
        if recording.recording_id in by_id:
            first = numbers[list(by_id).index(recording.recording_id)]
            what = f"lines {first} and {line.number} of {uri} are the same recording"
            raise InputError(what, value=line.path, fix="leave one of them out")
        by_id[recording.recording_id] = recording
        numbers.append(line.number)
    if not by_id:
        raise InputError("empty manifest", value=uri, expected='lines such as {"path": "a.flac"}')
    if unknown := sum(recording.speaker == UNKNOWN for recording in by_id.values()):
        notes.append(
            f"{unknown:,} of {len(by_id):,} recordings name no speaker and lie in no speaker's folder: unknown"
        )
    return [by_id[name] for name in sorted(by_id)]


def speaker_above(path: str) -> str:
    """The folder above a file where that can be a speaker's, else "unknown".

    >>> speaker_above("s3://bucket/spk7/a.flac"), speaker_above("../spk7/a.flac"), speaker_above("s3://bucket/a.flac")
    ('spk7', 'spk7', 'unknown')
    """
    scheme, separator, rest = path.rpartition("://")
    folders = PurePosixPath(rest).parts[:-1]
    if separator and scheme != "file":
        folders = folders[1:]  # the bucket
    above = folders[-1] if folders else ""
    return UNKNOWN if above in ("", ".", "..", "/") or above.casefold() in _NO_SPEAKERS else above


def name_value(value: Any, what: str) -> str | None:
    """A name, as text or as a number; None where there is none. Raises InputError."""
    if value is None:
        return None
    if isinstance(value, str):
        return value.strip() or None
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise InputError(f"{what}: no name", value=value, fix="mend that line")
    return str(int(value)) if value == int(value) else str(value)


def seconds_value(value: Any, what: str) -> float | None:
    """Seconds, as a number or as text; None where there are none. Raises InputError."""
    if value is None or (isinstance(value, str) and not value.strip()):
        return None
    try:
        seconds = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        seconds = math.nan
    if not math.isfinite(seconds) or seconds < 0:
        raise InputError(f"{what}: no seconds", value=value, expected="0 or more", fix="mend that line")
    return seconds


def part_of(
    start_s: float | None, end_s: float | None, duration_s: float | None, what: str
) -> tuple[float | None, float | None, float | None]:
    """start_s, end_s and duration_s of a :class:`Line`: a duration from the start of a file is that of the file.

    Raises:
        InputError: the part ends before it starts.
    """
    if end_s is None and duration_s is not None and duration_s > 0:
        if not start_s:
            return None, None, duration_s
        end_s = start_s + duration_s
    if end_s is not None and end_s <= (start_s or 0.0):
        raise InputError(f"{what}: end_s {end_s:g} is not after start_s {start_s or 0:g}", fix="mend that line")
    return start_s, end_s, None


def _safe_path(path: str) -> str:
    if path.isprintable() and "%" not in path and "/." not in path and "//" not in path and path[0] not in "./":
        return path
    parts = PurePosixPath(path.replace("://", "/")).parts
    return "/".join("%2E%2E" if part == ".." else escape(part) for part in parts if part not in ("/", "."))


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
    return SourceFile(path, store.normalize(location), entry.size_bytes, entry.etag)


def _recording(line: Line, file: SourceFile, mark: str, known: dict[str, str]) -> Recording:
    """``known`` holds each name once: a million recordings have few speakers and few files."""

    def one(name: str) -> str:
        return known.setdefault(name, name)

    extra = extra_json(line.extra)
    said = [
        line.speaker,
        line.language,
        line.gender,
        line.text,
        line.start_s,
        line.end_s,
        line.duration_s,
        line.channel,
    ]
    return Recording(
        recording_id=line.recording_id,
        source=one(escape(line.path)),
        location=file.location,
        size_bytes=file.size_bytes,
        fingerprint=digest([mark, said, extra])[:32],
        speaker=one(speaker_name(line.speaker or speaker_above(line.path))),
        language=line.language and one(line.language),
        gender=line.gender and one(line.gender),
        text=line.text,
        extra=extra and one(extra),
        channel=line.channel,
        duration_s=line.duration_s,
        start_s=line.start_s,
        end_s=line.end_s,
        is_listed=True,
        verdict="quarantined" if file.problem else "",
        detail=file.problem,
    )
