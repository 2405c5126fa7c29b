"""An embedded Ray that a busy machine does not bring up in time: asked again, nothing of it left, told in one line."""

from __future__ import annotations

import subprocess
import sys

import psutil
import pytest

from syllabary.shards.errors import UnavailableError
from syllabary.workers.cluster import session as ray_session

LATE = "The current node timed out during startup. This could happen because some of the raylet failed to startup"


class LateRay:
    """``ray.init`` of a machine that is too busy ``times`` times; each time a process is left behind, as Ray's is."""

    def __init__(self, times: int, says: str = LATE) -> None:
        self.times, self.says = times, says
        self.left: list[subprocess.Popen[bytes]] = []
        self.options: list[dict[str, object]] = []

    def __call__(self, **options: object) -> None:
        self.options.append(options)
        if len(self.options) <= self.times:
            self.left.append(subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"]))
            raise Exception(self.says)

    def end(self) -> None:
        for process in self.left:
            process.kill()
            process.wait()


def test_a_ray_that_is_late_is_asked_again_and_leaves_nothing(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    late = LateRay(2)
    bystander = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    monkeypatch.setattr("ray.init", late)
    try:
        ray_session._start_embedded(num_cpus=3)
        assert [options["num_cpus"] for options in late.options] == [3, 3, 3]
        assert len(late.left) == 2
        assert not any(psutil.pid_exists(p.pid) and p.poll() is None for p in late.left)
        assert bystander.poll() is None
        assert "this machine is busy; 1 more tries" in capfd.readouterr().err
    finally:
        late.end()
        bystander.kill()
        bystander.wait()


def test_a_ray_that_never_comes_is_one_line_that_may_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    late = LateRay(9)
    monkeypatch.setattr("ray.init", late)
    with pytest.raises(UnavailableError, match="Ray did not start: '3 tries'; run again when the machine") as told:
        ray_session._start_embedded()
    late.end()
    assert told.value.exit_code == 75 and len(late.options) == 3


def test_another_failure_of_ray_is_not_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    broken = LateRay(9, says="no such address")
    monkeypatch.setattr("ray.init", broken)
    with pytest.raises(Exception, match="no such address"):
        ray_session._start_embedded()
    broken.end()
    assert len(broken.options) == 1
