"""MP3: its frames walked from header to header, so that each is counted whatever a Xing header says of them.

Where no Xing header counts right, the decoder is given one of ours in front: without one, and behind Fraunhofer's VBRI
header, it guesses a length from the bitrate of the first frame and stops there.
"""

from __future__ import annotations

import mmap
from dataclasses import dataclass, field

from syllabary.shards.ingest.decoding.pieces import Part, Piece
from syllabary.shards.ingest.recordings import RecordingError

_RATES = {3: (44_100, 48_000, 32_000), 2: (22_050, 24_000, 16_000), 0: (11_025, 12_000, 8000)}
_KBITS_1 = {3: (32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448),
            2: (32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
            1: (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320)}  # fmt: skip
_KBITS_2 = {3: (32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
            2: (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
            1: (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160)}  # fmt: skip
_FARTHEST = 1 << 16  # how far the first frame is looked for behind zeros
_BLANK = 4096


@dataclass(frozen=True)
class Frame:
    """What the four bytes of a frame's header say; ``layer`` as they spell it (1 is layer III)."""

    size: int
    num_samples: int
    rate: int
    layer: int
    side_bytes: int


def frame_at(data: bytes | mmap.mmap, at: int) -> Frame | None:
    """The MPEG audio frame whose header stands at ``at``, or None when none does."""
    if data[at : at + 1] != b"\xff" or at + 4 > len(data):
        return None
    second, third, fourth = data[at + 1], data[at + 2], data[at + 3]
    version, layer, index, rate_index = second >> 3 & 3, second >> 1 & 3, third >> 4, third >> 2 & 3
    if second < 0xE0 or version == 1 or layer == 0 or index in (0, 15) or rate_index == 3:
        return None
    kbits = (_KBITS_1 if version == 3 else _KBITS_2)[layer][index - 1]
    rate, padding = _RATES[version][rate_index], third >> 1 & 1
    if layer == 3:
        size, num_samples = (12_000 * kbits // rate + padding) * 4, 384
    else:
        num_samples = 576 if layer == 1 and version != 3 else 1152
        size = num_samples // 8 * 1000 * kbits // rate + padding
    mono = fourth >> 6 == 3
    side = (17 if mono else 32) if version == 3 else (9 if mono else 17)
    return Frame(size, num_samples, rate, layer, side)


@dataclass
class _Walk:
    """The frames of one stream: where they lie, how many, and what a Xing header in front of them said."""

    pieces: list[tuple[int, int]] = field(default_factory=list)
    num_frames: int = 0
    xing: tuple[int, int] | None = None  # its frames and bytes, 0 where it does not say
    tag: tuple[int, int] | None = None  # where the frame with that header lies
    num_samples: int = 0
    rate: int = 0

    def add(self, start: int, stop: int) -> None:
        if self.pieces and self.pieces[-1][1] == start:
            self.pieces[-1] = (self.pieces[-1][0], stop)
        else:
            self.pieces.append((start, stop))
        self.num_frames += 1


def first_frame(data: mmap.mmap, start: int) -> int:
    """Where the first frame lies, at ``start`` or behind zeros; -1 when there is none."""
    at = start
    while at < min(len(data), start + _FARTHEST) and not data[at]:
        at += 1
    frame = frame_at(data, at)
    if frame is None:
        return -1
    following = at + frame.size
    return at if following >= len(data) or _is_between(data, following) or frame_at(data, following) else -1


def mpeg_parts(data: mmap.mmap, start: int) -> tuple[Part, ...]:
    """The streams of an MP3 file whose first frame lies at ``start``: a Xing header begins a new one.

    Raises:
        RecordingError: a frame is cut off, or bytes between frames are neither a frame nor a tag.
    """
    return tuple(_part(data, walk) for walk in _walks(data, start))


def _walks(data: mmap.mmap, start: int) -> list[_Walk]:
    walks, at = [_Walk()], start
    while at < len(data):
        frame = frame_at(data, at)
        if frame is None:
            at = _behind_tag(data, at)
            continue
        if at + frame.size > len(data):
            counted = sum(walk.num_frames * walk.num_samples for walk in walks)
            promised = sum((w.xing[0] if w.xing and w.xing[0] else w.num_frames) * w.num_samples for w in walks)
            raise RecordingError(_early(promised, counted))
        if walks[0].rate not in (0, frame.rate):
            raise RecordingError(f"streams of different rates in one file ({walks[0].rate} and {frame.rate} Hz)")
        walks[0].rate = frame.rate
        said = _xing(data, at, frame)
        if said is not None:
            if walks[-1].num_frames or walks[-1].tag:
                walks.append(_Walk())
            walks[-1].xing, walks[-1].tag = said, (at, at + frame.size)
        else:
            walks[-1].add(at, at + frame.size)
        walks[-1].num_samples = frame.num_samples
        at += frame.size
    return walks


def _early(promised: int, counted: int) -> str:
    if promised > counted:
        return f"audio ends early (its header promises {promised:,} samples, {counted:,} are there)"
    return f"audio ends early (in a frame, after {counted:,} samples)"


def _is_between(data: mmap.mmap, at: int) -> bool:
    return data[at : at + 3] in (b"TAG", b"ID3") or data[at : at + 8] == b"APETAGEX" or not any(data[at : at + 4])


def _behind_tag(data: mmap.mmap, at: int) -> int:
    """The first byte behind a tag, or behind zeros, at ``at``. Raises RecordingError when it is neither."""
    if data[at : at + 3] == b"TAG":
        return at + 128
    if data[at : at + 3] == b"ID3" and len(data) - at > 10:
        return behind_id3(data, at)
    if data[at : at + 8] == b"APETAGEX" and len(data) - at >= 32:
        return at + 32 + int.from_bytes(data[at + 12 : at + 16], "little")
    if data[at : at + 8] == b"LYRICSBE" and (end := data.find(b"LYRICS200", at)) > 0:
        return end + 9
    blank = data[at : at + _BLANK]
    zeros = len(blank) - len(blank.lstrip(b"\0"))
    if not zeros:
        raise RecordingError(f"damaged audio (no MPEG frame at byte {at:,} of {len(data):,})")
    return at + zeros


def behind_id3(data: mmap.mmap, at: int) -> int:
    """The first byte behind an ID3v2 tag at ``at``."""
    size = 0
    for byte in data[at + 6 : at + 10]:
        size = size << 7 | byte & 0x7F
    footer = 10 if data[at + 5] & 0x10 else 0
    return at + 10 + size + footer


def _xing(data: mmap.mmap, at: int, frame: Frame) -> tuple[int, int] | None:
    """Frames and bytes that a Xing, Info or VBRI header in this frame promises; None when it holds none."""
    if frame.layer != 1:
        return None
    body = data[at + 4 + frame.side_bytes : at + 4 + frame.side_bytes + 16]
    if body[:4] in (b"Xing", b"Info"):
        flags, position = body[7], 8
        frames = int.from_bytes(body[position : position + 4]) if flags & 1 else 0
        position += 4 if flags & 1 else 0
        return frames, int.from_bytes(body[position : position + 4]) if flags & 2 else 0
    if _is_vbri(data, at):
        return int.from_bytes(data[at + 50 : at + 54]), int.from_bytes(data[at + 46 : at + 50])
    return None


def _is_vbri(data: mmap.mmap, at: int) -> bool:
    """Whether the frame at ``at`` holds Fraunhofer's header, which the decoder does not know: to it that is sound."""
    return data[at + 36 : at + 40] == b"VBRI"


def _part(data: mmap.mmap, walk: _Walk) -> Part:
    pieces: tuple[Piece, ...] = tuple(walk.pieces)
    if not walk.num_frames:
        raise RecordingError("no samples")
    if walk.xing and walk.tag and walk.xing[0] == walk.num_frames and not _is_vbri(data, walk.tag[0]):
        return Part((walk.tag, *pieces), None, believed=True)
    size = sum(stop - start for start, stop in [*walk.pieces, *([walk.tag] if walk.tag else [])])
    if walk.xing and walk.xing[0] > walk.num_frames and size < walk.xing[1]:
        raise RecordingError(_early(walk.xing[0] * walk.num_samples, walk.num_frames * walk.num_samples))
    counts_wrongly = walk.xing is not None and walk.xing[0] not in (0, walk.num_frames)
    promised = walk.xing[0] * walk.num_samples if walk.xing and counts_wrongly else None
    header = _own_xing(data[walk.pieces[0][0] : walk.pieces[0][0] + 4], walk.num_frames)
    return Part((*([header] if header else []), *pieces), promised)


def _own_xing(header: bytes, num_frames: int) -> bytes:
    """A frame like that with ``header`` that counts the frames behind it; empty for layers that know none."""
    for index in range(1, 15):
        own = bytes([0xFF, header[1] | 1, index << 4 | header[2] & 0x0C, header[3]])
        frame = frame_at(own, 0)
        if frame is None or frame.layer != 1:
            return b""
        body = own + bytes(frame.side_bytes) + b"Xing\0\0\0\x01" + num_frames.to_bytes(4)
        if frame.size >= len(body):
            return body.ljust(frame.size, b"\0")
    return b""
