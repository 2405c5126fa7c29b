"""FLAC: its stream info, and streams that were joined into one file."""

from __future__ import annotations

import mmap
import re

import numpy as np

from syllabary.shards.ingest.decoding.pieces import Part

MARK = b"fLaC"
# the first block of metadata is the stream info, of 34 bytes, and may be the last one too
_HEAD = re.compile(MARK + rb"[\x00\x80]\x00\x00\x22")
_EVEN, _ODD = (np.frombuffer(MARK[at : at + 2], np.uint16)[0] for at in (0, 1))
_WINDOW = 1 << 16  # words, which the nearest cache holds with their comparison
_TOTAL = slice(18, 26)  # in 64 bits: rate 20, channels 3, bits 5, total samples 36
_MD5 = slice(26, 42)
_TOTAL_MASK = (1 << 36) - 1


def flac_parts(data: mmap.mmap, start: int) -> tuple[Part, ...]:
    """The streams of a file that begins with one at ``start``.

    The length is set to unknown, so that the decoder decodes whatever frames there are, and they are counted.
    """
    starts = [start]
    while (head := _next_head(data, starts[-1] + 42)) >= 0:
        starts.append(head)
    return tuple(_part(data, a, b) for a, b in zip(starts, [*starts[1:], len(data)], strict=True))


def _next_head(data: mmap.mmap, start: int) -> int:
    """Where the next stream begins, -1 when none does.

    Of ``fLaC`` at any place, ``fL`` or ``La`` is one of the words of two bytes that the file is made of: numpy compares
    these in half the time that an expression takes for the bytes.
    """
    words = np.frombuffer(data, np.uint16, len(data) // 2)
    for first in range(start // 2, len(words), _WINDOW):
        window = words[first : first + _WINDOW]
        marked = window == _EVEN
        marked |= window == _ODD
        for at in np.flatnonzero(marked):
            place = 2 * (first + int(at))
            for begin in (place - 1, place):
                if begin >= start and _HEAD.match(data, begin):
                    return begin
    return -1


def _part(data: mmap.mmap, start: int, stop: int) -> Part:
    head = data[start : start + 42]
    if len(head) < 42:
        return Part(((start, stop),))
    packed = int.from_bytes(head[_TOTAL])
    total, bits = packed & _TOTAL_MASK, (packed >> 36 & 31) + 1
    unknown = (packed & ~_TOTAL_MASK).to_bytes(8)
    md5 = head[_MD5] if any(head[_MD5]) else b""
    stop = _without_tag(data, stop)
    pieces = ((start, start + 18), unknown, (start + 26, stop))
    return Part(pieces, total or None, believed=bool(total), md5=md5, bits=bits)


def _without_tag(data: mmap.mmap, stop: int) -> int:
    """``stop``, or where an ID3v1 tag before it begins."""
    return stop - 128 if data[max(0, stop - 128) : stop][:3] == b"TAG" else stop
