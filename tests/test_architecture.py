"""The house rules import-linter does not see: shadowing names, empty ``__init__``, no torch in a fresh process."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ROOMS = ("flows", "workers", "model", "shards")
SOURCES = sorted(path for room in ROOMS for path in (ROOT / room).glob("*.py"))


def test_import_contracts_hold() -> None:
    lint = Path(sys.executable).parent / "lint-imports"
    finished = subprocess.run([str(lint), "--no-cache"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stdout


@pytest.mark.parametrize("path", [p for p in SOURCES if p.parent.name in ("flows", "workers")], ids=lambda p: p.stem)
def test_no_name_shadows_the_standard_library_or_a_room(path: Path) -> None:
    # Prefect puts the folder of a flow file first on sys.path, so flows/shards.py would hide the package `shards`.
    if path.name != "__init__.py":
        assert path.stem not in sys.stdlib_module_names
        assert path.stem not in (*ROOMS, "infra", "tests", "ray", "prefect", "torch")


@pytest.mark.parametrize("room", ROOMS)
def test_every_init_is_empty(room: str) -> None:
    assert (ROOT / room / "__init__.py").read_bytes() == b""


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: f"{p.parent.name}.{p.stem}")
def test_every_module_says_what_it_is_and_stays_readable(path: Path) -> None:
    if path.name == "__init__.py":
        return
    text = path.read_text()
    assert ast.get_docstring(ast.parse(text)), f"{path.name} has no docstring"
    assert text.count("\n") <= 400, f"{path.name} has outgrown 400 lines: which second concept is in it?"


@pytest.mark.parametrize("path", sorted((ROOT / "model").glob("*.py")), ids=lambda p: p.stem)
def test_the_model_touches_no_files_and_no_environment(path: Path) -> None:
    imported = {
        name
        for node in ast.walk(ast.parse(path.read_text()))
        for name in (
            [alias.name for alias in node.names]
            if isinstance(node, ast.Import)
            else [node.module or ""]
            if isinstance(node, ast.ImportFrom)
            else []
        )
    }
    assert not {name.partition(".")[0] for name in imported} & {
        "os",
        "pathlib",
        "io",
        "tempfile",
        "shutil",
        "subprocess",
    }


TORCH_FREE = (
    "syllabary.flows.cli", "syllabary.flows.run_pipeline", "syllabary.flows.run_command", "syllabary.shards.store", "syllabary.shards.outputs", "syllabary.shards.archive.packing",
    "syllabary.workers.recipes.recipe", "syllabary.workers.control.submit", "syllabary.workers.control.jobs", "syllabary.workers.control.run_verb", "syllabary.workers.control.run_layout",
    "model.config", "model.framing",
)  # fmt: skip


@pytest.mark.parametrize("module", TORCH_FREE)
def test_importing_pulls_in_no_torch(module: str) -> None:
    code = f"import sys, {module}; sys.exit(','.join(m for m in ('torch', 'deepspeed') if m in sys.modules) or 0)"
    finished = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr
