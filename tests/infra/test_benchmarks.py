"""``make bench`` runs what runs by itself, and says what it leaves out."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
FOLDER = ROOT / "infra" / "benchmarks"
BY_HAND = {"audit", "data_wait", "ingest", "jepa_ablation"}  # they need shards, speech, and hours


def test_each_benchmark_is_run_by_make_or_by_hand() -> None:
    listed = re.search(r"^BENCHES := (.+)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert listed is not None
    found = {path.stem.removeprefix("bench_") for path in FOLDER.glob("bench_*.py")}
    assert set(listed[1].split()) == found - BY_HAND
    assert found >= BY_HAND


def test_what_make_runs_asks_for_no_argument() -> None:
    """A name without nargs would be required; ``sys.argv[1]`` is not there."""
    for path in FOLDER.glob("bench_*.py"):
        if path.stem.removeprefix("bench_") not in BY_HAND:
            for call in re.findall(r"add_argument\(([^)]*)\)", path.read_text()):
                assert call.startswith('"--') or 'nargs="*"' in call, f"{path.name}: {call}"
            assert "sys.argv[1]" not in path.read_text(), path.name


@pytest.mark.parametrize(("given", "sizes"), [([], "[100000, 1000000]"), (["7", "8"], "[7, 8]")])
def test_archives_have_a_size_without_being_told(given: list[str], sizes: str) -> None:
    script = (
        "import runpy, sys; sys.argv = sys.argv[1:]; g = runpy.run_path(sys.argv[0]);"
        "print((g['parsed']().rows or g['DEFAULT_ROWS']))"
    )
    command = [sys.executable, "-c", script, str(FOLDER / "bench_archive_scale.py"), *given]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=True)
    assert done.stdout.strip() == sizes
