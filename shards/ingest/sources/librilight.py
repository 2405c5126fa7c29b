"""Read the JSON beside a LibriLight recording: speaker, language, SNR, voice activity and the book.

It is not strict JSON (bare ``NaN`` for an unknown SNR), ``book_meta.id`` is a string or a number, and voice activity
may be empty, unsorted, overlapping, past the end of the audio, or one segment of over an hour.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from syllabary.shards.ingest.recordings import RecordingError

_KNOWN = {"speaker", "snr", "voice_activity", "text", "gender", "book_meta"}
_BOOK = ("id", "title", "genre", "meta_genre", "authors")  # the rest are links, long descriptions and zeros


@dataclass(frozen=True)
class Sidecar:
    """The content of the JSON; None is "not given". ``voice_activity`` holds (onset, offset) in seconds, as found.

    ``extra`` is all else: of ``book_meta`` what names the book, and every key that is not LibriLight's.
    """

    speaker: str | None
    language: str | None
    snr_db: float | None
    voice_activity: tuple[tuple[float, float], ...] | None
    text: str | None = None
    gender: str | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)


def parse_sidecar(data: bytes) -> Sidecar:
    """Read a LibriLight JSON.

    Raises:
        RecordingError: it is not a JSON object, or its voice activity is not a list of intervals.
    """
    try:
        values = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise RecordingError("invalid JSON") from error
    if not isinstance(values, dict):
        raise RecordingError("invalid JSON: not an object")
    book = values.get("book_meta")
    language = book.get("language") if isinstance(book, dict) else None
    return Sidecar(
        _name(values.get("speaker")), _name(language), _finite(values.get("snr")), _intervals(values),
        _name(values.get("text")), _name(values.get("gender")), _extra(values),
    )  # fmt: skip


def _extra(values: dict[str, Any]) -> dict[str, Any]:
    own = {key: value for key, value in values.items() if key not in _KNOWN}
    book = values.get("book_meta")
    if isinstance(book, dict):
        book = {key: book[key] for key in _BOOK if book.get(key) not in (None, "", [])}
    return own | ({"book_meta": book} if book else {})


def _name(value: Any) -> str | None:
    if isinstance(value, bool) or not isinstance(value, str | int):
        return None
    return str(value).strip() or None


def _finite(value: Any) -> float | None:
    return float(value) if _is_number(value) and math.isfinite(value) else None


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _intervals(values: dict[str, Any]) -> tuple[tuple[float, float], ...] | None:
    intervals = values.get("voice_activity")
    if intervals is None:
        return None
    if not isinstance(intervals, list):
        raise RecordingError("invalid JSON: voice_activity is not a list")
    return tuple(_interval(item) for item in intervals)


def _interval(item: Any) -> tuple[float, float]:
    if not isinstance(item, list) or len(item) != 2 or not all(_is_number(edge) for edge in item):
        raise RecordingError("invalid JSON: a voice_activity entry is not [onset, offset]")
    onset, offset = float(item[0]), float(item[1])
    if not (math.isfinite(onset) and math.isfinite(offset)) or onset > offset or offset < 0:
        raise RecordingError(f"invalid JSON: voice_activity interval [{onset}, {offset}]")
    return onset, offset
