"""Exactly once, with real processes: whatever is killed, the archive ends with the same parts of the same bytes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from syllabary.shards import store
from syllabary.shards.archive.audit import audit_archive
from syllabary.workers.control.jobs import RESULT_PREFIX, TokenizeJob
from tests.faults.conftest import NUM_SHARDS
from tests.helpers.archive_corpus import archive_contents

DEADLINE_S = 200.0
pytestmark = [pytest.mark.long, pytest.mark.timeout(900)]


def command_line(process: psutil.Process) -> str:
    """Empty once the process has ended."""
    try:
        return " ".join(process.cmdline())
    except psutil.NoSuchProcess:
        return ""


class Driver:
    """``python -m syllabary.workers tokenize`` as a real process; everything it started is ended with it."""

    def __init__(self, base: Path, archive: str, **values) -> None:
        self.job = TokenizeJob(
            shards=str(base / "shards"), tokenizer=str(base / "tokenizer"), archive=archive, **values
        )
        self.process = subprocess.Popen(
            [sys.executable, "-m", "syllabary.workers", "tokenize", self.job.model_dump_json()],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"},
        )  # fmt: skip

    def wait_for(self, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + DEADLINE_S
        while not condition():
            assert time.monotonic() < deadline, "waited too long"
            assert self.process.poll() is None, self.process.communicate()[1]
            time.sleep(0.01)

    def num_parts(self) -> int:
        return len(store.list_files(store.join(self.job.archive, "parts")))

    def descendants(self, name: str = "") -> list[psutil.Process]:
        return [c for c in psutil.Process(self.process.pid).children(recursive=True) if name in command_line(c)]

    def finish(self) -> dict:
        out, err = self.process.communicate(timeout=DEADLINE_S)
        assert self.process.returncode == 0, err
        return json.loads(out.split(RESULT_PREFIX)[1])

    def kill(self) -> None:
        """SIGKILL of the driver; what it started must end by itself, and is ended here if it does not."""
        children = self.descendants()
        self.process.send_signal(signal.SIGKILL)
        self.process.communicate()
        _, alive = psutil.wait_procs(children, timeout=20)
        for child in alive:
            child.kill()


@pytest.fixture
def drivers() -> Iterator[list[Driver]]:
    started: list[Driver] = []
    yield started
    for driver in started:
        if driver.process.poll() is None:
            driver.kill()


def test_a_killed_driver_leaves_whole_parts_and_its_rerun_finishes_the_rest_and_mends_damage(
    archive_base: Path, tmp_path: Path, drivers: list[Driver]
) -> None:
    archive = str(tmp_path / "archive")
    drivers.append(Driver(archive_base, archive, num_workers=1))
    drivers[0].wait_for(lambda: drivers[0].num_parts() >= 2)
    drivers[0].kill()
    left = archive_contents(archive)
    parts = [name for name in left if name.startswith("parts/")]
    expected = archive_contents(str(archive_base / "archive"))
    assert 2 <= len(parts) < NUM_SHARDS and all(left[name] == expected[name] for name in left)
    damaged = Path(archive) / parts[0]
    damaged.write_bytes(left[parts[0]][:-200] + bytes(1) + left[parts[0]][-199:])
    assert [f.file for f in audit_archive(archive).findings] == [parts[0]]
    drivers.append(Driver(archive_base, archive, num_workers=1))
    assert drivers[1].finish()["num_new_parts"] == NUM_SHARDS - len(parts) + 1
    assert archive_contents(archive) == expected
    assert audit_archive(archive, str(archive_base / "shards")).findings == []


def test_a_killed_actor_and_two_drivers_racing_lose_and_double_nothing(
    archive_base: Path, tmp_path: Path, drivers: list[Driver]
) -> None:
    archive = str(tmp_path / "archive")
    drivers += [Driver(archive_base, archive, num_workers=1), Driver(archive_base, archive, num_workers=2)]
    drivers[0].wait_for(lambda: bool(drivers[0].descendants("ShardEncoder")))
    drivers[0].wait_for(lambda: drivers[0].num_parts() >= 1)
    actor = drivers[0].descendants("ShardEncoder")[0]
    actor.kill()
    results = [driver.finish() for driver in drivers]
    assert all(result["num_parts"] == NUM_SHARDS for result in results)
    assert archive_contents(archive) == archive_contents(str(archive_base / "archive"))
    assert audit_archive(archive, str(archive_base / "shards")).findings == []


@pytest.mark.slow
def test_one_and_three_workers_write_the_same_bytes_to_s3(archive_base: Path, s3, drivers: list[Driver]) -> None:
    for num_workers in (1, 3):
        archive = f"{s3.bucket()}/archive"
        drivers.append(Driver(archive_base, archive, num_workers=num_workers))
        assert drivers[-1].finish()["num_new_parts"] == NUM_SHARDS
        assert archive_contents(archive) == archive_contents(str(archive_base / "archive"))
