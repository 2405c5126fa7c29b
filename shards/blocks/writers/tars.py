"""Tars whose bytes follow from their members alone: no times, no owners."""

from __future__ import annotations

import io
import tarfile

import numpy as np
from numpy.typing import NDArray


def add_member(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    """Append a file."""
    member = tarfile.TarInfo(name)
    member.size = len(data)
    tar.addfile(member, io.BytesIO(data))


def npy_bytes(values: NDArray[np.generic]) -> bytes:
    """An array as ``.npy``."""
    sink = io.BytesIO()
    np.save(sink, values, allow_pickle=False)
    return sink.getvalue()
