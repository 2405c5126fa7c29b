"""Processes that outlive the command that started them, and are ended by it alone.

A service is known by its pid and the moment it started, so that another process that was given the pid later is never
taken for it. Everything it starts in turn carries the stack's mark in its environment: what is left over when a
service was killed (Ray's workers, a flow run) is found by that. A process that gives itself a title writes it over its
environment (Ray's agents do, and the dashboard's parts): those are found as children of one that has the mark.
"""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

MARK_VARIABLE = "SYLLABARY_STACK"


@dataclass(frozen=True)
class Recorded:
    """A process by its pid, the clock ticks after boot at which it started, and the boot."""

    pid: int
    start_ticks: int
    boot_id: str

    def is_running(self) -> bool:
        """Whether this very process is there (a zombie is not)."""
        with suppress(psutil.NoSuchProcess):
            return record(self.pid) == self and psutil.Process(self.pid).status() != psutil.STATUS_ZOMBIE
        return False


def record(pid: int) -> Recorded:
    """The process that has ``pid`` now. Raises psutil.NoSuchProcess."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        raise psutil.NoSuchProcess(pid) from None
    return Recorded(pid, int(fields[19]), Path("/proc/sys/kernel/random/boot_id").read_text().strip())


def start(command: list[str], environment: Mapping[str, str], log: Path) -> subprocess.Popen[bytes]:
    """Start ``command`` in a session of its own, its output at the end of ``log``."""
    with log.open("ab") as output:
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env=dict(environment),
            start_new_session=True,
        )


def marked(mark: str, also: Callable[[dict[str, str]], bool] = lambda environment: True) -> list[psutil.Process]:
    """Every process with ``mark`` whose environment ``also`` accepts, and its descendants; never this one."""
    found: dict[int, psutil.Process] = {}
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            environment = process.environ()
            if environment.get(MARK_VARIABLE) == mark and also(environment):
                found[process.pid] = process
                found |= {child.pid: child for child in process.children(recursive=True)}
    found.pop(os.getpid(), None)
    return list(found.values())


def end(processes: Iterable[psutil.Process], patience_s: float) -> None:
    """SIGTERM to all, and SIGKILL to those still there after ``patience_s``; psutil checks that each is the same."""
    waiting = list(processes)
    for process in waiting:
        with suppress(psutil.NoSuchProcess):
            process.terminate()
    _, alive = psutil.wait_procs(waiting, timeout=patience_s)
    for process in alive:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(alive, timeout=10)


def end_marked(mark: str, patience_s: float) -> None:
    """End everything that carries the mark, also what is started while it ends."""
    deadline = time.monotonic() + 3 * patience_s
    while (left := marked(mark)) and time.monotonic() < deadline:
        end(left, patience_s)
