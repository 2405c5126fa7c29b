"""Ogg: its pages, and links of a chain (``cat a.ogg b.ogg``), of which a decoder reads the first alone."""

from __future__ import annotations

import mmap
import zlib

from syllabary.shards.ingest.decoding.pieces import Part
from syllabary.shards.ingest.recordings import RecordingError

MARK = b"OggS"
_FIRST_PAGE, _LAST_PAGE = 2, 4  # flags
_NO_END = "Ogg without its last page, so that it may have been cut off there"
_REVERSED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))


def ogg_parts(data: mmap.mmap) -> tuple[Part, ...]:
    """The links of a chain. The decoder knows the length of each from its pages.

    Raises:
        RecordingError: a page is cut off or damaged (a decoder passes over it), or bytes between pages belong to none.
    """
    starts, notes, position, in_heads, last = list[int](), list[str](), 0, False, _LAST_PAGE
    while position < len(data):
        header = data[position : position + 27]
        if header[:4] != MARK:
            if any(data[position : position + 4096]):
                raise RecordingError(f"damaged audio ({len(data) - position:,} bytes behind Ogg page are no page)")
            break
        body = data[position + 27 : position + 27 + header[26]] if len(header) == 27 else b""
        stop = position + 27 + len(body) + sum(body)
        if len(header) < 27 or len(body) < header[26] or stop > len(data):
            raise RecordingError(f"audio ends early (in an Ogg page, after {position:,} bytes)")
        if page_checksum(data[position:stop]) != int.from_bytes(header[22:26], "little"):
            raise RecordingError(f"damaged audio (wrong checksum of the Ogg page at byte {position:,})")
        is_first = bool(header[5] & _FIRST_PAGE)
        if is_first and not in_heads:
            starts.append(position)
            notes.append("" if last else _NO_END)
        in_heads, position, last = is_first, stop, header[5] & _LAST_PAGE
    if not starts:
        raise RecordingError("not readable audio (no first Ogg page)")
    stops, notes = [*starts[1:], position], [*notes[1:], "" if last else _NO_END]
    links = zip(starts, stops, notes, strict=True)
    return tuple(Part(((start, stop),), believed=True, note=note) for start, stop, note in links)


def page_checksum(page: bytes) -> int:
    """The CRC-32 of a page, its own field taken as 0: zlib's polynomial, but with bits in the other order."""
    whole = (page[:22] + bytes(4) + page[26:]).translate(_REVERSED)
    raw = zlib.crc32(whole, 0xFFFFFFFF) ^ 0xFFFFFFFF
    return int(f"{raw:032b}"[::-1], 2)
