"""What a folder says of itself: its card, format text, reader and the like, and the checksums of them.

``about.sha256`` lists the sha256 of each as it was written, in the form that ``sha256sum -c`` reads; it comes last. A
card is there to be edited: what people made of it is told by :func:`check_about` and kept by :func:`publish_about`.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping

from syllabary.shards.errors import FormatError, InputError, NotFoundError
from syllabary.shards.store import Folder

CARD, SUMS = "README.md", "about.sha256"
_LINE = re.compile(r"([0-9a-f]{64})  (\S.*)")


def publish_about(uri: str, files: Mapping[str, bytes]) -> bool:
    """Write the files below the folder ``uri``, names with ``/`` between, and then their checksums.

    A card that somebody has edited stays as it is, and its checksum that of the text that was written.

    Returns:
        Whether the card was kept so.
    """
    folder, kept = Folder(uri), False
    for name, data in sorted(files.items()):
        present = _read(folder, name)
        if name == CARD and present not in (None, data) and _sha256(present or b"") != _known(uri).get(CARD):
            kept = True
        elif present != data:
            folder.publish(name, data)
    text = "".join(f"{_sha256(data)}  {name}\n" for name, data in sorted(files.items()))
    if _read(folder, SUMS) != text.encode():
        folder.publish(SUMS, text.encode())
    return kept


def check_about(uri: str) -> Iterator[tuple[str, str]]:
    """Name and fault of every file that is not as it was written; nothing where a folder has no checksums of them."""
    folder = Folder(uri)
    try:
        sums = read_sums(uri)
    except FormatError:
        yield SUMS, "the checksums of the folder's own text do not parse"
        return
    if not sums and _read(folder, CARD) is not None:
        yield SUMS, "the checksums of the folder's own text are missing"
    for name, expected in sums.items():
        data = _read(folder, name)
        if data is None:
            yield name, "is missing"
        elif _sha256(data) != expected:
            yield name, "has been edited since it was written" if name == CARD else "sha256 differs"


def read_sums(uri: str) -> dict[str, str]:
    """sha256 of each of the folder's own texts, by name; empty where there are none. Raises FormatError."""
    folder = Folder(uri)
    data = _read(folder, SUMS)
    try:
        lines = [] if data is None else data.decode().splitlines()
        matches = [_LINE.fullmatch(line) for line in lines]
        sums = {match[2]: match[1] for match in matches if match is not None}
        for name in sums:
            folder.join(name)  # refuses a name that leaves the folder
    except (UnicodeDecodeError, InputError) as error:
        raise FormatError("checksums do not parse", value=folder.join(SUMS)) from error
    if len(sums) != len(lines) or (data is not None and not sums):
        raise FormatError("checksums do not parse", value=folder.join(SUMS))
    return sums


def _known(uri: str) -> dict[str, str]:
    try:
        return read_sums(uri)
    except FormatError:
        return {}


def _read(folder: Folder, name: str) -> bytes | None:
    try:
        return folder.read(name)
    except NotFoundError:
        return None


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
