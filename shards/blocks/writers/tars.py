"""Tars whose bytes follow from their members alone: no times, no owners."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from syllabary.shards.dataset import TAR_END, write_member

AddMember = Callable[[str, bytes], int]


@contextmanager
def writing_tar(path: Path) -> Iterator[AddMember]:
    """A function that appends a file of a name to the tar at ``path``; nothing of it stays in memory."""
    with path.open("wb") as out:
        yield lambda name, data: write_member(out, name, data)
        out.write(TAR_END)
        out.write(bytes(-out.tell() % tarfile.RECORDSIZE))


def npy_bytes(values: NDArray[np.generic]) -> bytes:
    """An array as ``.npy``."""
    sink = io.BytesIO()
    np.save(sink, values, allow_pickle=False)
    return sink.getvalue()
