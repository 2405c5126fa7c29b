"""The runbook names tests that exist, and looks at every file of faults; what the documents link to is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
RUNBOOK = (ROOT / "docs" / "operations.md").read_text()


def test_every_row_names_tests_that_exist() -> None:
    defined = {
        name for path in (ROOT / "tests").rglob("test_*.py") for name in re.findall(r"def (test_\w+)", path.read_text())
    }
    rows = [line for line in RUNBOOK.split("## Recover")[1].splitlines() if line.startswith("| ")][2:]
    assert len(rows) > 25
    for row in rows:
        named = re.findall(r"`(test_\w+)`", row)
        assert named, f"no test in the row {row[:60]}"
        assert not set(named) - defined, f"no such test: {set(named) - defined}"


@pytest.mark.parametrize("path", sorted((ROOT / "tests" / "faults").glob("test_*.py")), ids=lambda p: p.stem)
def test_every_file_of_faults_is_in_the_runbook(path: Path) -> None:
    assert any(f"`{name}`" in RUNBOOK for name in re.findall(r"def (test_\w+)", path.read_text()))


@pytest.mark.parametrize("name", ["operations.md", "security.md", "plan-librilight.md", "stack.md", "evaluation.md"])
def test_links_lead_somewhere(name: str) -> None:
    text = (ROOT / "docs" / name).read_text()
    for target in re.findall(r"\]\(([^)#:]+)\)", text):
        assert (ROOT / "docs" / target).exists(), f"{name} links to {target}"
    for path in re.findall(r"`((?:infra|docs|tests|flows|workers|shards|model)/[\w./-]+)`", text):
        assert (ROOT / path).exists(), f"{name} names {path}"
