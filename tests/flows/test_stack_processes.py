"""What the stack remembers of its processes and keys: nobody else's process is ended, nobody else reads a key."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from infra.stack import processes, services
from infra.stack.stack_files import create_stack, open_stack

SLEEP = "import time; time.sleep(600)"
STUBBORN = (
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('ready', flush=True); time.sleep(600)"
)
PARENT = (
    "import subprocess, sys; p = subprocess.Popen([sys.executable, '-c', sys.argv[1]]); "
    "print(p.pid, flush=True); p.wait()"
)


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen([sys.executable, "-c", SLEEP])
    yield process
    process.kill()
    process.wait()


def test_a_process_is_known_by_its_start_too(sleeper: subprocess.Popen[bytes]) -> None:
    recorded = processes.record(sleeper.pid)
    assert recorded.is_running()
    assert not replace(recorded, start_ticks=recorded.start_ticks - 1).is_running(), "a reused pid"
    assert not replace(recorded, boot_id="another").is_running(), "a pid of another boot"
    sleeper.kill()
    deadline = time.monotonic() + 30
    while recorded.is_running() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not recorded.is_running(), "a zombie is not running"


def test_down_spares_the_process_that_was_given_a_recorded_pid(
    tmp_path: Path, sleeper: subprocess.Popen[bytes]
) -> None:
    stack = create_stack(tmp_path)
    taken = processes.record(sleeper.pid)
    stack.services = {name: replace(taken, start_ticks=taken.start_ticks - 5) for name in services.SERVICES}
    services.end_all(stack, print)
    assert sleeper.poll() is None


def test_marked_processes_are_found_after_their_parent_was_killed_and_end_even_if_stubborn(tmp_path: Path) -> None:
    mark = create_stack(tmp_path).mark
    environment = {**os.environ, processes.MARK_VARIABLE: mark}
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, STUBBORN], env=environment, stdout=subprocess.PIPE, start_new_session=True
    )
    assert parent.stdout is not None
    told = sorted([parent.stdout.readline(), parent.stdout.readline()])
    orphan = psutil.Process(int(told[0]))
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    assert [p.pid for p in processes.marked(mark)] == [orphan.pid]
    processes.end_marked(mark, patience_s=0.5)
    assert not processes.marked(mark) and not orphan.is_running()


def test_down_ends_a_child_that_overwrote_its_mark_though_its_parent_goes_first(tmp_path: Path) -> None:
    """As Ray's agents do with their titles: once the parent is gone, nothing tells whose they are."""
    stack = create_stack(tmp_path)
    unmarked = PARENT.replace("sys.argv[1]]", "sys.argv[1]], env={}")
    parent = subprocess.Popen(
        [sys.executable, "-c", unmarked, SLEEP],
        env={**os.environ, processes.MARK_VARIABLE: stack.mark}, stdout=subprocess.PIPE, start_new_session=True,
    )  # fmt: skip
    assert parent.stdout is not None
    child = psutil.Process(int(parent.stdout.readline()))
    try:
        stack.services = {"ray-head": processes.record(parent.pid)}
        assert {p.pid for p in processes.marked(stack.mark)} == {parent.pid, child.pid}
        services.end_all(stack, print)
        parent.wait(timeout=30)
        assert not child.is_running()
    finally:
        with suppress(psutil.NoSuchProcess):
            child.kill()


def test_keys_can_be_read_by_their_owner_alone_and_come_back(tmp_path: Path) -> None:
    stack = create_stack(tmp_path / "stack")
    assert stat.S_IMODE(stack.folder.stat().st_mode) == 0o700
    for name in ("keys.json", "env.sh", "ray-token", "stack.json"):
        assert stat.S_IMODE((stack.folder / name).stat().st_mode) == 0o600, name
    again = open_stack(stack.folder)
    assert again is not None and (again.keys, again.ports, again.mark) == (stack.keys, stack.ports, stack.mark)
    assert len(set(stack.ports.values())) == len(stack.ports)
    assert "ray_token" not in (stack.folder / "stack.json").read_text()


def test_a_stacks_processes_inherit_no_other_cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "elsewhere:6379")
    monkeypatch.setenv("PREFECT_PROFILE", "other")
    environment = create_stack(tmp_path).service_environment()
    assert "RAY_ADDRESS" not in environment and "PREFECT_PROFILE" not in environment
    assert environment["AWS_ENDPOINT_URL"].startswith("http://127.0.0.1:")
