"""A part's tokens with a dictionary of all values from 0 on, so that a token's index is the token, in 14 bits.

Arrow writes a dictionary of numbers in the order in which they come, which no compressor can shorten: 39 KB a row group
for 16,384 values. That of :func:`zstd_range` takes one. And as the indices are the tokens, their bits are those of the
digits: where digits are skewed, so are the bytes of a page, and zstd codes what is left of them.

What is read is a part as Arrow writes it, its tokens as plain int32. Page by page, levels stay and values become
indices; the other columns move as they are. Everything in it is what Parquet has had from its beginning.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from syllabary.shards.archive.thrift import I32, I64, LIST, STRUCT, Struct, read_struct, write_struct
from syllabary.shards.archive.zstd_range import zstd_range

_MAGIC = b"PAR1"
_PLAIN, _RLE, _RLE_DICTIONARY = 0, 3, 8
_DATA_PAGE, _DICTIONARY_PAGE = 0, 2
_GROUPS_IN_A_RUN = 63  # of 8 values: what a header of one byte can say, and all writers write
_RUN = _GROUPS_IN_A_RUN * 8
_RUNS_AT_ONCE = 256


def with_token_dictionary(part: bytes, column: str, zstd_level: int) -> bytes:
    """The part, the values of ``column`` as indices into a dictionary of 0 to the largest of them.

    Args:
        part: a Parquet file of pyarrow's, its row groups in zstd, with page checksums, without page indexes.
        column: name of a column of unsigned integers of 16 bits, written without a dictionary.
        zstd_level: of its data pages.
    """
    (size,) = struct.unpack("<I", part[-8:-4])
    footer, _ = read_struct(part, len(part) - 8 - size)
    out = bytearray(_MAGIC)
    for group in _structs(footer, 4):
        begin, saved = len(out), 0
        for chunk in _structs(group, 1):
            own: Struct = chunk[3][1]
            first = min(own[number][1] for number in (9, 11) if number in own)
            data = part[first : first + own[7][1]]
            if b".".join(own[3][1][1]).decode() == column and own[5][1]:
                before = own[6][1]
                data = _chunk_with_dictionary(data, own, len(out), zstd_level)
                saved += before - own[6][1]
            else:
                for number in (9, 11):  # data page, dictionary page
                    if number in own:
                        own[number] = I64, own[number][1] - first + len(out)
            out += data
        group[2] = I64, group[2][1] - saved
        group[5], group[6] = (I64, begin), (I64, len(out) - begin)
    written = write_struct(footer)
    return bytes(out + written + struct.pack("<I", len(written)) + _MAGIC)


def packed_runs(values: NDArray[np.uint16], width: int) -> bytes:
    """Values of ``width`` bits as Parquet packs them: runs of up to 504, the lowest bit first, a byte before each."""
    whole = len(values) // _RUN
    made = bytearray()
    for first in range(0, whole, _RUNS_AT_ONCE):
        own = values[first * _RUN : min(first + _RUNS_AT_ONCE, whole) * _RUN]
        made += _runs(own.reshape(-1, _RUN), width)
    rest = values[whole * _RUN :]
    if len(rest):
        made += _runs(np.append(rest, np.zeros(-len(rest) % 8, np.uint16))[None], width)
    return bytes(made)


def _runs(values: NDArray[np.uint16], width: int) -> bytes:
    """Each row as a run."""
    num, size = values.shape
    bits = np.unpackbits(values.astype("<u2").view(np.uint8).reshape(-1, 2), axis=1, bitorder="little")
    packed = np.packbits(bits[:, :width], bitorder="little").reshape(num, size * width // 8)
    return np.insert(packed, 0, size // 8 << 1 | 1, axis=1).tobytes()


def _structs(parent: Struct, number: int) -> list[Struct]:
    """The structs in a list of structs."""
    return list(parent[number][1][1])


def _chunk_with_dictionary(data: bytes, own: Struct, at: int, zstd_level: int) -> bytes:
    """A column's pages with a dictionary before them; ``own``, its metadata, then says so, beginning at ``at``."""
    pages = list(_pages(data))
    largest = max(int(values.max(initial=0)) for _, _, values in pages)
    width = max(largest.bit_length(), 1)
    codec = pa.Codec("zstd", zstd_level)
    dictionary = zstd_range(largest + 1)
    told = {1: (I32, largest + 1), 2: (I32, _PLAIN)}
    head = _page_header(_DICTIONARY_PAGE, 4 * (largest + 1), dictionary, {7: (STRUCT, told)})
    uncompressed, made = len(head) + 4 * (largest + 1), bytearray(head + dictionary)
    data_at = at + len(made)
    for page, levels, values in pages:
        content = levels + bytes([width]) + packed_runs(values, width)
        compressed = codec.compress(content, asbytes=True)
        told = page[5][1] | {2: (I32, _RLE_DICTIONARY)}
        head = _page_header(_DATA_PAGE, len(content), compressed, {5: (STRUCT, told)})
        made += head + compressed
        uncompressed += len(head) + len(content)
    own[2] = LIST, (I32, [_PLAIN, _RLE, _RLE_DICTIONARY])
    own[6], own[7] = (I64, uncompressed), (I64, len(made))
    own[9], own[11] = (I64, data_at), (I64, at)
    counts = ((_DICTIONARY_PAGE, _PLAIN, 1), (_DATA_PAGE, _RLE_DICTIONARY, len(pages)))
    own[13] = LIST, (STRUCT, [{i + 1: (I32, value) for i, value in enumerate(one)} for one in counts])
    return bytes(made)


def _pages(data: bytes) -> Iterator[tuple[Struct, bytes, NDArray[np.uint16]]]:
    """Header, levels and values of every page of a column of lists without nulls."""
    codec, at = pa.Codec("zstd"), 0
    while at < len(data):
        page, at = read_struct(data, at)
        content = codec.decompress(data[at : at + page[3][1]], page[2][1], asbytes=True)
        at += page[3][1]
        values_at = 0
        for _ in ("repetition", "definition"):
            values_at += 4 + struct.unpack_from("<I", content, values_at)[0]
        values = np.frombuffer(content, "<i4", offset=values_at).astype(np.uint16)
        yield page, content[:values_at], values


def _page_header(kind: int, size: int, compressed: bytes, own: Struct) -> bytes:
    crc = struct.unpack("<i", struct.pack("<I", zlib.crc32(compressed)))[0]
    sizes = {1: (I32, kind), 2: (I32, size), 3: (I32, len(compressed)), 4: (I32, crc)}
    return write_struct(sizes | own)
