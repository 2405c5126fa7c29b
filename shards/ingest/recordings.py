"""What is known of a recording before it is decoded, and the safe spelling of names that come from outside."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal
from urllib.parse import quote_from_bytes, unquote_to_bytes

Verdict = Literal["", "filtered", "duplicate", "quarantined"]


class RecordingError(Exception):
    """This recording cannot be used, and why; it goes to quarantine and the run goes on.

    The message names no path of this machine: it is stored in the ledger.
    """


@dataclass(frozen=True)
class Recording:
    """One input recording.

    Attributes:
        recording_id: unique in the source; the path below the source's root without ``.flac``, other suffixes kept.
        source: the path as the source spells it (below its root, or as in the manifest), escaped.
        location: where to read it now; never stored. Empty for a recording that lies inside a stream.
        sidecar: where its LibriLight JSON lies, if it has one.
        size_bytes: of the file.
        fingerprint: changes when the file or its JSON changes.
        start_s, end_s: the part of the file that is the recording; None is the file's own start or end.
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
    start_s: float | None = None
    end_s: float | None = None
    verdict: Verdict = ""
    detail: str = ""


def escape(name: str) -> str:
    """A name with everything unprintable (newlines, bytes that are not UTF-8) and ``%`` percent-encoded.

    >>> escape("a b\\n.flac")
    'a b%0A.flac'
    """
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
