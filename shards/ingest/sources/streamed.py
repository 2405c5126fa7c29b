"""Recordings that lie inside something larger (a tar, Parquet), yielded one by one as they are read."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from syllabary.shards import store
from syllabary.shards.errors import FormatError
from syllabary.shards.ingest.recordings import Recording

VoiceActivity = tuple[tuple[float, float], ...]
_HEAD_BYTES = 512


@dataclass(frozen=True)
class Streamed:
    """A recording that was read from a stream.

    Attributes:
        recording: what is known of it.
        audio: where its bytes are spooled; None when it has none.
        place: where it lies in the source, so that it can be found again.
        voice_activity: when the source knows it.
    """

    recording: Recording
    audio: Path | None
    place: int
    voice_activity: VoiceActivity | None


class Stream(Protocol):
    """One pass over a source; the last four attributes are known when it is exhausted.

    Attributes:
        uri: of the source.
        md5: of its bytes; empty where it is several files.
        size_bytes: of all of it.
        notes: for the user, about what was found.
    """

    uri: str
    md5: str
    size_bytes: int
    notes: list[str]

    def recordings(self) -> Iterator[Streamed]:
        """Every recording; the audio file is the caller's to delete."""
        ...

    def again(self, place: int, size_bytes: int) -> bytes:
        """The bytes of a recording that was passed, by its place."""
        ...


def head_mark(uri: str) -> str:
    """sha256 of the first bytes: the same for a file and a part of its download. Raises StorageError, FormatError."""
    head = store.read_range(uri, 0, _HEAD_BYTES)
    if not head:
        raise FormatError("an empty file", value=uri, fix="check SOURCE")
    return hashlib.sha256(head).hexdigest()
