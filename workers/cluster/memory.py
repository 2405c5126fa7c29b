"""Memory: what a process keeps for itself, and work that may take no more than is free.

Beyond a bound the kernel refuses, and that becomes one line. Without it a probe or a trial that asks for too much is
killed without a word, or something else on this machine is.
"""

from __future__ import annotations

import ctypes
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from syllabary.shards.errors import InputError

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


RESERVED_BYTES = 1 << 30  # for what else this machine does meanwhile
_CGROUP = Path("/sys/fs/cgroup")
_TOLD_BY = ("can't allocate memory", "not enough memory", "out of memory", "bad_alloc")


def free_bytes() -> int:
    """Bytes of memory that may be taken now, by the machine and by this process's group (cgroup 2) where it has one."""
    free = psutil.virtual_memory().available
    try:
        limit, used = (int((_CGROUP / f"memory.{name}").read_text()) for name in ("max", "current"))
    except (OSError, ValueError):  # no such group, or "max": no limit
        return free
    return min(free, limit - used)


@contextmanager
def bounded_memory(what: str, num_bytes: int, fix: str) -> Iterator[None]:
    """Let the block take at most ``num_bytes`` of private memory beyond what this process has.

    Args:
        what: the work, for the message.
        num_bytes: the kernel refuses an allocation that would go beyond (Linux: RLIMIT_DATA, which counts memory that
            may be written, touched or not).
        fix: what to do when it does not suffice.

    Raises:
        InputError: the block needs more, or nothing is left to give.
    """
    if num_bytes <= 0:
        raise _refusal(what, num_bytes, fix)
    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    wanted = _data_bytes() + num_bytes
    known = [limit for limit in (soft, hard, wanted) if limit != resource.RLIM_INFINITY]
    resource.setrlimit(resource.RLIMIT_DATA, (min(known), hard))
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))
        if isinstance(error, MemoryError) or any(words in str(error) for words in _TOLD_BY):
            raise _refusal(what, num_bytes, fix) from error
        raise
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))


def _data_bytes() -> int:
    """Private writable memory of this process, as RLIMIT_DATA counts it."""
    lines = Path("/proc/self/status").read_text().splitlines()
    (kilobytes,) = (line.split()[1] for line in lines if line.startswith("VmData:"))
    return int(kilobytes) * 1024


def _refusal(what: str, num_bytes: int, fix: str) -> InputError:
    return InputError(f"{what} needs more memory than may be taken", value=f"{max(num_bytes, 0) / 1e9:.1f} GB", fix=fix)
