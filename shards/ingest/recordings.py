"""A recording before it is decoded, and the safe spelling of names that come from outside."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal
from urllib.parse import quote_from_bytes, unquote_to_bytes

from syllabary.shards.outputs import canonical_json

Verdict = Literal["", "filtered", "duplicate", "quarantined"]


class RecordingError(Exception):
    """Raised where a recording cannot be used: it is quarantined and the run goes on.

    The message names no path of this machine: it is stored in the ledger.
    """


class FilteredError(RecordingError):
    """Raised where a rule of the recipe leaves out a whole recording; the message is the rule."""


class MiscountedError(RecordingError):
    """A recording is sound, and has another number of samples than it promised: to be read again with the right one."""

    def __init__(self, num_frames: int) -> None:
        super().__init__(f"has {num_frames:,} samples, not as many as it promised")
        self.num_frames = num_frames


@dataclass(frozen=True, slots=True)
class Recording:
    """One input recording.

    Attributes:
        recording_id: unique in the source; the path below the source's root without ``.flac``, other suffixes kept.
        source: the path as the source spells it (below its root, or as in the manifest), escaped.
        location: where to read it now; never stored. Empty for a recording that lies inside a stream.
        sidecar: where its LibriLight JSON lies, if it has one.
        size_bytes: of the file.
        fingerprint: changes when the file or its JSON changes.
        text, gender: what the source says; the text is of the whole recording.
        extra: whatever else the source says, as a canonical JSON object; None when it says nothing else.
        channel: the one channel of the file that is the recording, counted from 0; None is all of them.
        duration_s: of the whole file as a list of the source has it, where that gives no part.
        start_s, end_s: the part of the file that is the recording; None is the file's own start or end.
        is_listed: a list names it, and is believed; never stored.
        verdict, detail: what was decided before decoding, and why; empty verdict means "to be cut".
    """

    recording_id: str
    source: str
    location: str
    size_bytes: int
    fingerprint: str
    speaker: str
    sidecar: str | None = None
    language: str | None = None
    snr_db: float | None = None
    text: str | None = None
    gender: str | None = None
    extra: str | None = None
    channel: int | None = None
    duration_s: float | None = None
    start_s: float | None = None
    end_s: float | None = None
    is_listed: bool = False
    verdict: Verdict = ""
    detail: str = ""


def speaker_name(name: str) -> str:
    """A speaker as all stages spell it: composed (NFC), so that one name is one speaker, and escaped."""
    return escape(unicodedata.normalize("NFC", name))


def extra_json(values: Mapping[str, Any]) -> str | None:
    """Encode what a source gives beyond the known columns as canonical JSON; None where there is nothing.

    Values that JSON cannot hold (NaN, dates, bytes) are kept as text.
    """
    said = {key: _plain(value) for key, value in values.items() if value is not None}
    return canonical_json(said).decode("utf-8", "replace") if said else None


def _plain(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()  # a lone surrogate is no text
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, Mapping):
        return {str(_plain(str(key))): _plain(own) for key, own in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(own) for own in value]
    return str(value)


def escape(name: str) -> str:
    """A name with everything unprintable (newlines, bytes that are not UTF-8) and ``%`` percent-encoded.

    >>> escape("a b\\n.flac")
    'a b%0A.flac'
    """
    if name.isprintable() and "%" not in name:
        return name
    return "".join(_escape_character(character) for character in name)


def _escape_character(character: str) -> str:
    if character.isprintable() and character != "%":
        return character
    return quote_from_bytes(character.encode("utf-8", "surrogateescape"), safe="")


def unescape(name: str) -> str:
    """The name that :func:`escape` spelled."""
    return unquote_to_bytes(name).decode("utf-8", "surrogateescape")


def id_of(relative: str) -> str:
    """The recording id of a path below the root: escaped, without ``.flac``; other suffixes stay to keep it unique."""
    return escape(relative).removesuffix(".flac")
