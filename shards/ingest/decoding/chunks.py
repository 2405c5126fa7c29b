"""Containers of chunks that say how long their sound is (WAV, RF64, AIFF, W64, AU, CAF, SPHERE): is all of it there?

Decoders take a file that was cut off for a shorter one, and what lies behind the end for nothing. Here the promise of
the header is held against the bytes.
"""

from __future__ import annotations

import mmap
import struct
from dataclasses import dataclass

from syllabary.shards.ingest.decoding.pieces import Part
from syllabary.shards.ingest.recordings import RecordingError

_UNKNOWN = {0, 0xFFFFFFFF, 0x7FFFFFFF, 0x7FFFF000, 0x80000000}  # written by programs that could not seek back
_MARKS = (b"FORM", b".snd", b"caff", b"riff", b"NIST", b"RIFF", b"fLaC", b"OggS", b"Crea", b"2BIT")
_UNCOUNTED_IS_LOST = (b"FORM", b".snd", b"dns.", b"caff")  # the decoder stops where their header does
_SIDE_CHUNKS = frozenset({
    b"list", b"id3 ", b"bext", b"cue ", b"smpl", b"inst", b"fact", b"peak", b"junk", b"pad ", b"fllr", b"ixml", b"axml",
    b"_pmx", b"afsp", b"acid", b"disp", b"cart", b"levl", b"umid", b"minf", b"elm1", b"chna", b"md5 ", b"plst",
})  # fmt: skip
_BLOCK_FORMATS = {0x0002, 0x0011, 0x0031, 0x0040}  # ADPCM and GSM: the last block is padded


@dataclass
class _Wave:
    """What the chunks of one RIFF form said."""

    tag: int = 0
    block_align: int = 0
    fact: int | None = None
    data_size64: int | None = None
    data: tuple[int, int] | None = None  # start, and size as the header has it
    size_at: int = 0  # where that size stands


def riff_parts(data: mmap.mmap, start: int = 0) -> tuple[Part, ...]:
    """The RIFF or RF64 forms of a file, one behind the other.

    Raises:
        RecordingError: no fmt or data chunk; the sound ends early; bytes behind it that are no chunk.
    """
    parts: list[Part] = []
    while start < len(data):
        if data[start : start + 4] not in (b"RIFF", b"RF64", b"RIFX"):
            break
        part, start = _form(data, start)
        parts.append(part)
    return tuple(parts)


def _form(data: mmap.mmap, start: int) -> tuple[Part, int]:
    order = ">" if data[start : start + 4] == b"RIFX" else "<"
    wave, at = _Wave(), start + 12
    while at + 8 <= len(data):
        name, size = data[at : at + 4], struct.unpack(order + "I", data[at + 4 : at + 8])[0]
        if wave.data is not None and not _is_chunk(name, size, len(data) - at - 8):
            break
        body = at + 8
        if name == b"data":
            wave.data, wave.size_at = (body, size), at + 4
            size = _data_size(wave, size, len(data) - body)
        elif name == b"fmt ":
            wave.tag, wave.block_align = _format(data[body : body + 40], order)
        elif name == b"fact" and size >= 4:
            wave.fact = struct.unpack(order + "I", data[body : body + 4])[0]
        elif name == b"ds64":
            wave.data_size64 = struct.unpack("<Q", data[body + 8 : body + 16])[0]
        at = body + size + size % 2
    at = min(at, len(data))
    if not wave.tag and not wave.block_align:
        raise RecordingError("not readable audio (no fmt chunk)")
    if wave.data is None:
        raise RecordingError("not readable audio (no data chunk)")
    return _wave_part(data, start, at, wave, order), _behind_zeros(data, at)


def _is_chunk(name: bytes, size: int, there: int) -> bool:
    """Whether a chunk begins here, behind the sound: sound that is not counted may look like an unknown name."""
    if name in (b"RIFF", b"RF64", b"RIFX") or not all(32 <= byte < 127 for byte in name):
        return False
    return size <= there or name.lower() in _SIDE_CHUNKS


def _format(body: bytes, order: str) -> tuple[int, int]:
    if len(body) < 16:
        raise RecordingError("not readable audio (fmt chunk too short)")
    tag, _, _, _, block_align = struct.unpack(order + "HHIIH", body[:14])
    if tag == 0xFFFE and len(body) >= 26:
        tag = struct.unpack(order + "H", body[24:26])[0]
    return tag, block_align


def _data_size(wave: _Wave, size: int, there: int) -> int:
    if wave.data_size64 is not None and size == 0xFFFFFFFF:
        return wave.data_size64
    return there if size in _UNKNOWN and (size or there) else size


def _wave_part(data: mmap.mmap, start: int, stop: int, wave: _Wave, order: str) -> Part:
    assert wave.data is not None
    body, said = wave.data
    size = _data_size(wave, said, len(data) - body)
    align = max(1, wave.block_align)
    if body + size > len(data):
        there = (len(data) - body) // align
        raise RecordingError(f"audio ends early (its header promises {size // align:,} blocks, {there:,} are there)")
    behind = _behind_zeros(data, stop)
    if (
        behind < len(data)
        and data[behind : behind + 4] not in (b"RIFF", b"RF64", b"RIFX")
        and not _is_tag(data, behind)
    ):
        left = len(data) - behind
        raise RecordingError(
            f"bytes behind the end of the audio (its header counts {size:,} bytes of sound, {left:,} follow it)"
        )
    kept = wave.fact if wave.tag in _BLOCK_FORMATS and wave.fact else None
    if size == said or wave.data_size64 is not None:
        return Part(((start, stop),), believed=True, kept=kept)
    at = wave.size_at
    own = struct.pack(order + "I", min(size, 0xFFFFFFFE))
    return Part(((start, at), own, (at + 4, body + size)), believed=True, kept=kept)


def _behind_zeros(data: mmap.mmap, at: int) -> int:
    while at < len(data) and not any(block := data[at : at + 4096]):
        at += len(block)
    return at


def _is_tag(data: mmap.mmap, at: int) -> bool:
    return data[at : at + 3] in (b"TAG", b"ID3") or data[at : at + 8] == b"APETAGEX" or len(data) - at < 2


def require_whole(data: mmap.mmap) -> None:
    """Check the other containers of chunks. Raises RecordingError: the sound ends early, or a second file follows."""
    head = data[:64]
    end = _end_of(data, head)
    if end is None:
        return
    if end > len(data):
        raise RecordingError(f"audio ends early (its header promises {end:,} bytes, {len(data):,} are there)")
    behind = _behind_zeros(data, end)
    is_sound = head[:4] in _UNCOUNTED_IS_LOST and behind < len(data) and not _is_tag(data, behind)
    if data[end : end + 4] in _MARKS or is_sound:
        raise RecordingError(
            f"bytes behind the end of the audio (its header counts {end:,} bytes, {len(data) - end:,} follow it)"
        )


def _end_of(data: mmap.mmap, head: bytes) -> int | None:
    if head[:4] == b"FORM":
        size = int.from_bytes(head[4:8])
        return None if size in _UNKNOWN else end_of_form(data, 8 + size)
    if head[:4] in (b".snd", b"dns."):
        order = ">" if head[:4] == b".snd" else "<"
        start, size = struct.unpack(order + "II", head[4:12])
        return None if size in _UNKNOWN else start + size
    if head[:4] == b"riff" and len(head) >= 24:
        size = int.from_bytes(head[16:24], "little")
        return None if size in (0, (1 << 64) - 1) else size
    if head[:4] == b"caff":
        return _end_of_caf(data)
    if head[:19] == b"Creative Voice File":
        return _end_of_voc(data)
    if head[:4] == b"2BIT":
        return _end_of_avr(head)
    if head[:7] == b"NIST_1A":
        return _end_of_sphere(data)
    return None


def end_of_form(data: mmap.mmap | bytes, stop: int) -> int:
    """Of an AIFF that says that it ends at ``stop``: there, or where what follows its sound is no chunk."""
    at, has_sound = 12, False
    while at + 8 <= min(stop, len(data)):
        name, size = data[at : at + 4], int.from_bytes(data[at + 4 : at + 8])
        if has_sound and not _fits(name, at + 8 + size, stop + 1):
            return at
        has_sound = has_sound or name == b"SSND"
        at += 8 + size + size % 2
    return stop


def _end_of_caf(data: mmap.mmap) -> int | None:
    at, has_sound = 8, False
    while at + 12 <= len(data) and data[at : at + 4] != b"caff":
        name, size = data[at : at + 4], int.from_bytes(data[at + 4 : at + 12], signed=True)
        if has_sound and not (size >= 0 and _fits(name, at + 12 + size, len(data))):
            return at
        if size < 0:
            return None
        at += 12 + size
        has_sound = has_sound or name == b"data"
        if name == b"data" and at > len(data):
            return at
    return at if at <= len(data) else None


def _fits(name: bytes, end: int, stop: int) -> bool:
    return end <= stop and all(32 <= byte < 127 for byte in name)


def _end_of_voc(data: mmap.mmap) -> int | None:
    at = int.from_bytes(data[20:22], "little")
    while at < len(data) and data[at]:
        at += 4 + int.from_bytes(data[at + 1 : at + 4], "little")
    return at + 1 if at < len(data) else at


def _end_of_avr(head: bytes) -> int:
    channels = 2 if head[12:14] == b"\xff\xff" else 1
    return 128 + int.from_bytes(head[26:30]) * channels * int.from_bytes(head[14:16]) // 8


def _end_of_sphere(data: mmap.mmap) -> int | None:
    lines = data[: min(len(data), 16_384)].split(b"end_head")[0].split(b"\n")
    try:
        fields = {words[0]: words[2] for words in (line.split() for line in lines[2:]) if len(words) == 3}
        if fields.get(b"sample_coding", b"pcm") not in (b"pcm", b"ulaw", b"alaw", b"mu-law"):
            return None
        counts = (int(fields[name]) for name in (b"sample_count", b"channel_count", b"sample_n_bytes"))
        count, channels, width = counts
        return int(lines[1]) + count * channels * width
    except (KeyError, ValueError, IndexError):
        return None
