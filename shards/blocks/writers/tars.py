"""Tars whose bytes follow from their members alone: no times, no owners."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

AddMember = Callable[[str, bytes], None]


@contextmanager
def writing_tar(path: Path) -> Iterator[AddMember]:
    """A function that appends a file of a name to the tar at ``path``; nothing of it stays in memory.

    ``tarfile.TarFile`` keeps an object for every member, a kilobyte each.
    """
    with path.open("wb") as out:

        def add(name: str, data: bytes) -> None:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            out.write(member.tobuf(tarfile.USTAR_FORMAT) + data + bytes(-len(data) % tarfile.BLOCKSIZE))

        yield add
        out.write(bytes(2 * tarfile.BLOCKSIZE))
        out.write(bytes(-out.tell() % tarfile.RECORDSIZE))


def npy_bytes(values: NDArray[np.generic]) -> bytes:
    """An array as ``.npy``."""
    sink = io.BytesIO()
    np.save(sink, values, allow_pickle=False)
    return sink.getvalue()
