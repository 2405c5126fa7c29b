"""The study of small changes tells a test that failed from one for which this machine was too busy to start Ray."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from infra.benchmarks.studies import mutations
from infra.benchmarks.studies.mutations import NO_RAY, VERDICT, Copy, Mutation

TESTS = """
import sys

def test_passes():
    pass

def test_raises():
    raise RuntimeError("Ray did not start: '3 tries'; run again")

def test_tells():
    print("error: Ray did not start: '3 tries'; run again", file=sys.stderr)
    assert 75 == 0

def test_fails():
    print("ray: did not start in its 30 s: this machine is busy; 2 more tries")
    assert 1 == 2
"""

ORIGINAL, CHANGED = "VALUE = 1\n", "VALUE = 2\n"


class Tried(Copy):
    """A copy of one file, beside tests of which each run takes the next choice."""

    def __init__(self, folder: Path, runs: list[str]) -> None:
        self.root, self.folder = folder / "copy", folder
        self.root.mkdir()
        (self.root / "own.py").write_text(ORIGINAL)
        (self.root / "test_own.py").write_text(TESTS)
        (self.root / "mutations_verdict.py").write_text(VERDICT)
        self.runs: Iterator[str] = iter(runs)
        self.seen: list[bool] = []

    def pytest(self, arguments: list[str], limit_s: float, **env: str) -> tuple[int | None, str]:
        """In a process of its own, as the study has it, with tests that are chosen."""
        assert (self.root / "own.py").read_text() == CHANGED
        self.seen.append("-x" in arguments)
        names = [f"test_own.py::test_{name}" for name in next(self.runs).split()]
        command = [sys.executable, "-m", "pytest", "-q", "--tb=line", "-p", "no:cacheprovider", "-p", "pytest_timeout"]
        done = subprocess.run(
            [*command, *(a for a in arguments if a != "test_own.py"), *names],
            env=os.environ | {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", **env}, cwd=self.root, capture_output=True,
            text=True, timeout=limit_s, check=False,
        )  # fmt: skip
        return done.returncode, done.stdout


@pytest.mark.parametrize(
    ("runs", "outcome"),
    [
        (["passes"], ("survived", "")),
        (["passes fails raises"], ("caught", "FAILED test_own.py::test_fails")),
        (["raises fails", "raises fails"], ("caught", "FAILED test_own.py::test_fails")),
        (["tells", "passes"], ("survived", "")),
        (["raises", "tells raises"], NO_RAY),
    ],
)
def test_where_ray_did_not_start_nothing_is_caught(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, runs: list[str], outcome: tuple[str, str]
) -> None:
    monkeypatch.setattr(mutations, "mutated", lambda *_: CHANGED)
    project = Tried(tmp_path, runs)
    assert project.tried(Mutation("own.py", 3, 1, "", "1", "2"), ["test_own.py"], 300, 30) == outcome
    assert project.seen == [True, False][: len(runs)], "past the first failure only in the second run"
    assert (project.root / "own.py").read_text() == ORIGINAL
