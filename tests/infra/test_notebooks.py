"""Every notebook runs from its first cell to its last; what it is stored with is small and shows no run."""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

ROOT = Path(__file__).parent.parent.parent
FOLDER = ROOT / "docs" / "notebooks"
NOTEBOOKS = sorted(path.name for path in FOLDER.glob("*.ipynb"))


def test_there_are_three() -> None:
    assert [name[0] for name in NOTEBOOKS] == ["1", "2", "3"]


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_it_is_stored_without_outputs(name: str) -> None:
    notebook = nbformat.read(FOLDER / name, as_version=4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(cell.outputs == [] and cell.execution_count is None for cell in code)
    assert (FOLDER / name).stat().st_size < 20_000


@pytest.fixture
def quiet_kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A kernel of this Python that draws nothing, finds the command, and writes below a folder of the test's own."""
    command = tmp_path / "bin" / "syllabary"
    command.parent.mkdir()
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m syllabary.flows.cli "$@"\n')
    command.chmod(0o755)
    (tmp_path / "temporary").mkdir()
    monkeypatch.setenv("PATH", f"{command.parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("MPLBACKEND", "agg")
    monkeypatch.setenv("RAY_TMPDIR", tempfile.gettempdir())  # the names of its sockets must be short
    monkeypatch.setenv("TMPDIR", str(tmp_path / "temporary"))


@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", NOTEBOOKS)
def test_it_runs_to_its_end(name: str, quiet_kernel: None, tmp_path: Path) -> None:
    notebook = nbformat.read(FOLDER / name, as_version=4)
    client = NotebookClient(notebook, timeout=600, kernel_name="python3", resources={"metadata": {"path": str(FOLDER)}})
    client.execute()
    printed = "".join(output.get("text", "") for cell in notebook.cells if cell.cell_type == "code"
                      for output in cell.outputs)  # fmt: skip
    for words in SHOWN[name[0]]:
        assert words in printed, f"{words!r} is not in:\n{printed}"
    assert not list((tmp_path / "temporary").glob("syllabary-notebook-*")), "it tidies up"


# Worked by hand: 5.67 s are 15 frames of 0.4 s; at 128 digits of 2 bits that is 480 bytes. 30 and 4 are the steps asked
# for; payload is 2.5 frames per second of 256 bits; dc53f4cd6d09c2c3 is the shipped encoder on docs/sounds/README.md.
SHOWN = {
    "1": ("5.67 s at 16000 Hz", "15 frames of 19 tokens, uint16", "480 bytes in all"),
    "2": ('"wrote": 2', '"num_new_parts": 2', '"payload_bits_per_s": 640.0'),
    "3": ("4/4 steps", "before encoder dc53f4cd6d09c2c3 decoder ", "of the digits differ"),
}
