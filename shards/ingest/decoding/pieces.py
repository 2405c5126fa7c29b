"""Present stretches of a file, with bytes of our own in between, to a decoder as one seekable file.

So a chained file is decoded link by link, a header that counts wrongly is read as if it counted right, and nothing is
copied.
"""

from __future__ import annotations

import io
import os
from dataclasses import dataclass
from pathlib import Path

Piece = bytes | tuple[int, int]  # own bytes, or start and stop in the file


class PiecedFile(io.RawIOBase):
    """Pieces of the file at ``path`` read as one."""

    def __init__(self, path: Path, pieces: tuple[Piece, ...]) -> None:
        self._handle = path.open("rb", buffering=0)
        self._descriptor = self._handle.fileno()
        self._pieces = [(piece, len(piece) if isinstance(piece, bytes) else piece[1] - piece[0]) for piece in pieces]
        self._size = sum(size for _, size in self._pieces)
        self._position = 0
        last, size = self._pieces[-1]
        self._begin = self._size if isinstance(last, bytes) else self._size - size  # of what is read without a copy
        self._shift = 0 if isinstance(last, bytes) else last[0] - self._begin

    def readable(self) -> bool:
        """Always."""
        return True

    def seekable(self) -> bool:
        """Always."""
        return True

    def seek(self, offset: int, whence: int = 0) -> int:
        """To ``offset`` from the start, the position or the end."""
        self._position = max(0, (0, self._position, self._size)[whence] + offset)
        return self._position

    def tell(self) -> int:
        """The position."""
        return self._position

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        """Fill as much of the buffer as there is."""
        position, left = self._position, self._size - self._position
        if position >= self._begin and left > 0:  # nearly always: without a copy
            own = buffer if len(buffer) <= left else memoryview(buffer)[:left]
            num = os.preadv(self._descriptor, (own,), self._shift + position)
            self._position = position + num
            return num
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def read(self, size: int = -1) -> bytes:
        """Up to ``size`` bytes; fewer only at the end."""
        size = self._size - self._position if size < 0 else size
        chunks, skipped = [], 0
        for piece, length in self._pieces:
            first = self._position - skipped
            if size > 0 and 0 <= first < length:
                last = min(length, first + size)
                chunk = piece[first:last] if isinstance(piece, bytes) else self._pread(piece[0] + first, last - first)
                chunks.append(chunk)
                self._position += len(chunk)
                size -= len(chunk)
                if len(chunk) < last - first:
                    break
            skipped += length
        return chunks[0] if len(chunks) == 1 else b"".join(chunks)

    def _pread(self, offset: int, size: int) -> bytes:
        return os.pread(self._descriptor, size, offset)

    def close(self) -> None:
        """Close the file."""
        self._handle.close()
        super().close()


@dataclass(frozen=True)
class Part:
    """One stream of a file: what to give the decoder, and what the container says of it.

    Attributes:
        pieces: of the file.
        promised: sample frames that the container promises; None when it does not say, or the decoder knows better.
        believed: whether ``promised`` is what will be decoded, unless the file is damaged; else it is counted first.
        md5: of the samples, as FLAC has it; empty when not known.
        bits: of a sample, for the md5.
        kept: of the decoded frames, where a block format pads its last block; None is all.
        note: for the ledger, when it has been decoded.
    """

    pieces: tuple[Piece, ...]
    promised: int | None = None
    believed: bool = False
    md5: bytes = b""
    bits: int = 16
    kept: int | None = None
    note: str = ""
