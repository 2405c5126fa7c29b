"""The integers 0, 1, 2, ... as a zstd frame of a kilobyte: what a dictionary of all token values is.

As int32 they are 64 KB for 16,384 values, of which zstd makes 39 KB at most levels and 17 KB at the highest: it finds
that bytes repeat, and pays a literal for each value all the same. Yet 256 values that follow one another differ from
the 256 before them in one byte, and always by the same. So they are a block of their own (RFC 8878), in which all
literals are that one byte and all sequences the same: "one literal, then three bytes from 1,024 bytes back". A block in
which everything is alike is 13 bytes.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

_MAGIC = struct.pack("<I", 0xFD2FB528)
_SIZE_OF_4, _WINDOW_OF_64_KB = 0b1000_0000, 6 << 3
_RAW, _COMPRESSED = 0, 2
_RAW_LITERALS, _ONE_LITERAL = 0 | 1 << 2, 1 | 1 << 2  # with a size of 12 bits
_ALL_ALIKE = 0b01_01_01_00  # codes of literal lengths, offsets and match lengths: each one byte for a whole block
_AS_BEFORE = 0  # code of an offset
_NUM_REPEATED = 3  # offset values that stand for offsets of before
_ROW, _WIDTH = 256, 4
Block = tuple[int, bytes]


def zstd_range(size: int) -> bytes:
    """A zstd frame of ``0, 1, ..., size - 1`` as little-endian int32; ``size`` is 1 to 65,536.

    Nothing but RFC 8878 decides its bytes: no version of a library, no level.
    """
    assert 0 < size <= _ROW * _ROW
    blocks = list(_blocks(size))
    head = _MAGIC + bytes([_SIZE_OF_4, _WINDOW_OF_64_KB]) + struct.pack("<I", size * _WIDTH)
    return head + b"".join(_block(*block, is_last=i == len(blocks) - 1) for i, block in enumerate(blocks))


def _blocks(size: int) -> Iterator[Block]:
    yield _RAW, bytes(_WIDTH)
    yield from _sequences(bytes(range(1, min(size, _ROW))), _WIDTH)
    if size > _ROW:
        yield _RAW, b"\0"  # the first byte of the next row; a row's last sequence brings that of the row behind
    for row in range(1, -(-size // _ROW)):
        num = min(_ROW, size - row * _ROW - 1)  # behind the very last value there is none
        yield from _sequences(bytes([row]) * num, _ROW * _WIDTH if row == 1 else 0)
    if size > _ROW:
        yield _RAW, struct.pack("<i", size - 1)[1:]


def _sequences(literals: bytes, offset: int) -> Iterator[Block]:
    """A sequence for each literal: itself, then three bytes from ``offset`` back, or with 0 as in the block before."""
    for own, back in ((literals[:1], offset), (literals[1:], 0)) if offset else ((literals, 0),):
        if own:
            yield _COMPRESSED, _alike(own, back)


def _alike(literals: bytes, offset: int) -> bytes:
    num = len(literals)
    kind, kept = (_ONE_LITERAL, literals[:1]) if len(set(literals)) == 1 else (_RAW_LITERALS, literals)
    count = bytes([num]) if num < 128 else bytes([(num >> 8) + 128, num & 255])
    value = offset + _NUM_REPEATED
    code = value.bit_length() - 1 if offset else _AS_BEFORE
    bits = value.to_bytes(-(-(code + 1) // 8), "little") if offset else b"\1"  # begin below their highest 1
    return struct.pack("<H", kind | num << 4) + kept + count + bytes([_ALL_ALIKE, 1, code, 0]) + bits


def _block(kind: int, content: bytes, *, is_last: bool) -> bytes:
    return struct.pack("<I", is_last | kind << 1 | len(content) << 3)[:3] + content
