"""The house rules import-linter does not see: sizes, shadowing names, empty ``__init__``, no torch in a new process."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

import syllabary

ROOT = Path(__file__).parent.parent
FOLDERS = ("flows", "workers", "model", "shards")
SOURCES = sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))
ROOMS = sorted({path.parent for path in SOURCES})
MODULES = [path for path in SOURCES if path.name != "__init__.py"]


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).with_suffix("").as_posix().replace("/", ".")


def imported(path: Path) -> Iterator[str]:
    """The names of the modules that a file imports, anywhere in it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or ""


def test_import_contracts_hold() -> None:
    lint = Path(sys.executable).parent / "lint-imports"
    finished = subprocess.run([str(lint), "--no-cache"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stdout


@pytest.mark.parametrize("folder", FOLDERS)
def test_the_package_is_the_folders(folder: str) -> None:
    link = ROOT / "syllabary" / folder
    assert link.is_symlink() and link.readlink() == Path("..") / folder


@pytest.mark.parametrize("path", [p for p in MODULES if p.parent.name == "flows"], ids=name_of)
def test_no_flow_hides_a_package(path: Path) -> None:
    # Prefect puts the folder of a flow file first on sys.path, so flows/rich.py would hide the package `rich`.
    assert path.stem not in sys.stdlib_module_names
    assert path.stem not in {*packages_distributions(), "syllabary", "infra", "tests"}


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_everything_is_imported_by_its_one_name(path: Path) -> None:
    """``workers.x`` would be another module than ``syllabary.workers.x``, with classes of its own."""
    assert not {name.partition(".")[0] for name in imported(path)} & {*FOLDERS, "infra", "tests"}


@pytest.mark.parametrize("room", ROOMS, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_a_room_can_be_seen_at_a_glance(room: Path) -> None:
    names = [path.name for path in room.glob("*.py") if path.name != "__init__.py"]
    assert len(names) <= 20, f"{room.name} holds {len(names)} files: which of them are a room of their own?"
    assert (room / "__init__.py").read_bytes() == b""


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_every_module_says_what_it_is_and_stays_readable(path: Path) -> None:
    text = path.read_text()
    assert ast.get_docstring(ast.parse(text)), f"{path.name} has no docstring"
    assert text.count("\n") <= 600, f"{path.name} has outgrown 600 lines: which second concept is in it?"


def test_the_package_offers_its_tokenizer_without_loading_torch_before_it_is_asked_for() -> None:
    code = (
        "import sys, syllabary\nassert 'torch' not in sys.modules and 'Tokenizer' in dir(syllabary)\n"
        "from syllabary import Tokenizer\nassert 'torch' in sys.modules\nprint(Tokenizer.__module__)"
    )
    finished = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert finished.stdout == "syllabary.workers.tokenizer.tokenizer\n", finished.stderr
    with pytest.raises(AttributeError, match="no attribute 'Tokeniser'"):
        syllabary.Tokeniser  # noqa: B018


@pytest.mark.parametrize(
    ("code", "unloaded"),
    [
        ("import syllabary", ("numpy", "pyarrow", "pydantic", "fsspec", "typer", "torch")),
        (
            "from syllabary import open_archive",
            ("torch", "pandas", "pyarrow.dataset", "pydantic", "soundfile", "typer"),
        ),
        ("from syllabary import Tokenizer", ("pandas", "pyarrow", "ray", "scipy", "prefect", "sympy", "torch._dynamo")),
        ("import syllabary.flows.cli", ("numpy", "pyarrow", "fsspec", "prefect", "soundfile", "yaml", "torch")),
    ],
)
def test_an_import_loads_no_more_than_it_needs(code: str, unloaded: tuple[str, ...]) -> None:
    """What is loaded for nothing is waited for: the command's help, and a shell in which an archive is opened."""
    asked = f"import sys; {code}; print(*[m for m in {unloaded!r} if m in sys.modules])"
    finished = subprocess.run([sys.executable, "-c", asked], cwd=ROOT, capture_output=True, text=True, check=False)
    assert finished.stdout == "\n", finished.stdout + finished.stderr


@pytest.mark.parametrize("path", [p for p in MODULES if name_of(p).startswith("model.")], ids=name_of)
def test_the_model_touches_no_files_and_no_environment(path: Path) -> None:
    forbidden = {"os", "pathlib", "io", "tempfile", "shutil", "subprocess"}
    assert not {name.partition(".")[0] for name in imported(path)} & forbidden


TORCH_FREE = (
    "syllabary", "syllabary.flows.cli", "syllabary.flows.run_pipeline", "syllabary.flows.run_command",
    "syllabary.shards.store", "syllabary.shards.outputs", "syllabary.shards.archive.packing",
    "syllabary.workers.recipes.named", "syllabary.workers.control.submit", "syllabary.workers.control.jobs",
    "syllabary.workers.control.run_verb", "syllabary.workers.control.run_layout", "syllabary.workers.__main__",
    "syllabary.model.config",
)  # fmt: skip


@pytest.mark.parametrize("module", TORCH_FREE)
def test_importing_pulls_in_no_torch(module: str) -> None:
    code = f"import sys, {module}; sys.exit(','.join(m for m in ('torch', 'deepspeed') if m in sys.modules) or 0)"
    finished = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr
