"""Thrift's compact protocol, in which Parquet's footer and page headers are written: structs to bytes and back.

A struct is a dict of field number to type and value; a list a pair of its elements' type and its values. What is not
known of a struct is kept, so one that is read and written again has the same bytes.
"""

from __future__ import annotations

from typing import Any

TRUE, FALSE, BYTE, I16, I32, I64, DOUBLE, BINARY, LIST, SET, MAP, STRUCT = range(1, 13)
Struct = dict[int, tuple[int, Any]]
_INTS, _LISTS = (I16, I32, I64), (LIST, SET)


def read_struct(data: bytes, at: int = 0) -> tuple[Struct, int]:
    """The struct that begins at ``at``, and where it ends."""
    found: Struct = {}
    number = 0
    while head := data[at]:
        at += 1
        if head >> 4:
            number += head >> 4
        else:
            number, at = _read_int(data, at)
        kind = head & 15
        if kind in (TRUE, FALSE):
            found[number] = kind, kind == TRUE
        else:
            value, at = _read(data, at, kind)
            found[number] = kind, value
    return found, at + 1


def write_struct(struct: Struct) -> bytes:
    """The bytes of a struct, its fields by number."""
    out, last = bytearray(), 0
    for number, (kind, value) in sorted(struct.items()):
        if kind in (TRUE, FALSE):
            kind = TRUE if value else FALSE
        step = number - last
        out += bytes([step << 4 | kind]) if step < 16 else bytes([kind]) + _int(number)
        if kind not in (TRUE, FALSE):
            out += _written(kind, value)
        last = number
    return bytes(out) + b"\0"


def varint(value: int) -> bytes:
    """A number of 0 or more, seven bits a byte, the lowest first."""
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


def _read(data: bytes, at: int, kind: int) -> tuple[Any, int]:
    if kind in _INTS:
        return _read_int(data, at)
    if kind == BINARY:
        size, at = _read_varint(data, at)
        return data[at : at + size], at + size
    if kind == STRUCT:
        return read_struct(data, at)
    if kind in _LISTS:
        return _read_list(data, at)
    size = {BYTE: 1, TRUE: 1, FALSE: 1, DOUBLE: 8}[kind]  # a map is nowhere in Parquet
    return data[at : at + size], at + size


def _read_list(data: bytes, at: int) -> tuple[tuple[int, list[Any]], int]:
    size, kind = data[at] >> 4, data[at] & 15
    at += 1
    if size == 15:
        size, at = _read_varint(data, at)
    values = []
    for _ in range(size):
        value, at = _read(data, at, kind)
        values.append(value)
    return (kind, values), at


def _read_varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        value |= (data[at] & 127) << shift
        at += 1
        if data[at - 1] < 128:
            return value, at
        shift += 7


def _read_int(data: bytes, at: int) -> tuple[int, int]:
    value, at = _read_varint(data, at)
    return value >> 1 ^ -(value & 1), at


def _int(value: int) -> bytes:
    return varint(value << 1 if value >= 0 else (-value << 1) - 1)


def _written(kind: int, value: Any) -> bytes:
    if kind in _INTS:
        return _int(value)
    if kind == BINARY:
        return varint(len(value)) + value
    if kind == STRUCT:
        return write_struct(value)
    if kind in _LISTS:
        own, values = value
        size = len(values)
        head = bytes([size << 4 | own]) if size < 15 else bytes([240 | own]) + varint(size)
        return head + b"".join(_written(own, one) for one in values)
    return bytes(value)
