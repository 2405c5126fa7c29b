"""Memory that a process keeps for itself, for workers that do the same large allocations again and again."""

from __future__ import annotations

import ctypes

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # malloc.h of the GNU C library
_KEPT_BYTES = (1 << 31) - 1


def keep_freed_memory() -> bool:
    """Let freed memory, up to 2 GiB, stay with the process; True where the C library can be told so.

    By default glibc maps every large block afresh and the kernel zeroes it page by page: a fifth of an encoder's time,
    whose layers need the same few blocks over and over. Peak memory is what it was; it is only not given back between
    utterances. Other C libraries are left as they are.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    return bool(mallopt(_M_MMAP_MAX, 0) and mallopt(_M_TRIM_THRESHOLD, _KEPT_BYTES))
