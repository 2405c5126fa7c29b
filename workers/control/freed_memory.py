"""Memory that this process has freed, back to the system."""

from __future__ import annotations

import ctypes


def give_back_freed_memory() -> None:
    """Give the system what was freed; glibc keeps it in its heap otherwise, in pieces, for a next time."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # of the GNU C library
    if trim is not None:
        trim(0)
