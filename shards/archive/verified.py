"""``verified.json`` of an archive: which parts a verification found intact, so that the next reads only the new.

A part is known by shard and size in bytes, what a listing tells. Bytes that change later in a known part are found by
the scrub, which reads everything.
"""

from __future__ import annotations

from collections.abc import Mapping

from syllabary.shards.errors import FormatError
from syllabary.shards.store import Folder

RECORD = "verified.json"
_FIX = "verify everything, without --new: it writes the record anew"


def read_verified(archive_uri: str) -> dict[str, int] | None:
    """Read which parts were found intact, as size in bytes by shard; None where nobody has recorded it.

    Raises:
        FormatError: the record is damaged.
    """
    archive = Folder(archive_uri)
    if not archive.exists(RECORD):
        return None
    try:
        parts = archive.read_json(RECORD).get("parts")
    except FormatError:
        parts = None
    if not isinstance(parts, dict) or not all(isinstance(size, int) for size in parts.values()):
        raise FormatError("a damaged record of verified parts", value=archive.join(RECORD), fix=_FIX)
    return parts


def record_verified(archive_uri: str, parts: Mapping[str, int]) -> None:
    """Record the intact parts, size in bytes by shard."""
    Folder(archive_uri).publish_json(RECORD, {"parts": dict(parts)})
