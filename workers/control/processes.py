"""A child process that ends with its parent, so that a killed run leaves no orphan beside its successor (Linux)."""

from __future__ import annotations

import ctypes
import os
import signal
import sys

from syllabary.workers.control.jobs import PARENT_VARIABLE

_PR_SET_PDEATHSIG = 1


def parent_environment() -> dict[str, str]:
    """The environment for a child that is to call :func:`die_with_parent`."""
    return {**os.environ, PARENT_VARIABLE: str(os.getpid())}


def die_with_parent() -> None:
    """Ask the kernel to end this process when the one that started it ends; nothing where no parent asked for it."""
    parent = os.environ.pop(PARENT_VARIABLE, None)
    if parent is None or not sys.platform.startswith("linux"):
        return
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != int(parent):  # it ended before the call above
        os.kill(os.getpid(), signal.SIGKILL)
