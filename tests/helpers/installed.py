"""The package as a user installs it: a wheel of the sources, and environments that hold it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Iterable
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parent.parent.parent
FOLDERS = ("syllabary", "flows", "workers", "model", "shards")
TRAP = "raise SystemExit('imported from the working directory: ' + __file__)\n"


def copy_sources(tree: Path) -> Path:
    """What a wheel is built from, in ``tree``: a build leaves files beside its sources."""
    for name in FOLDERS:
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / name, tree / name, symlinks=True, ignore=ignored)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tree)
    return tree


def build_wheel(tree: Path, folder: Path) -> Path:
    """The wheel of the sources in ``tree``."""
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q", "wheel", "--no-deps"]
    subprocess.run([*pip, "--no-build-isolation", "-w", folder, tree], check=True)
    return next(folder.glob("*.whl"))


def environment_with(wheel: Path, folder: Path) -> Path:
    """A fresh environment that holds the wheel and nothing else; returns its folder of modules."""
    venv.create(folder, with_pip=False, symlinks=True)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q", "--python", str(folder / "bin" / "python")]
    subprocess.run([*pip, "install", "--no-deps", "--no-index", wheel], check=True)
    return Path(sysconfig.get_path("purelib", "venv", {"base": str(folder), "platbase": str(folder)}))


def link_requirements(requirements: Iterable[str], site: Path) -> set[str]:
    """Put what is required, and what that requires, into a folder of modules, as links to where it is installed here.

    Returns the names of these distributions: what ``pip install`` would have brought, without a download.
    """
    linked: set[str] = set()
    wanted = [Requirement(text) for text in requirements]
    while wanted:
        requirement = wanted.pop()
        name = canonicalize_name(requirement.name)
        applies = requirement.marker is None or requirement.marker.evaluate({"extra": ""})
        if name in linked or not applies:
            continue
        found = _installed(name)
        assert found is not None, f"{name} is not installed here"
        linked.add(name)
        wanted += [Requirement(text) for text in found.requires or ()]
        _link(found, site)
    return linked


def _installed(name: str) -> Distribution | None:
    try:
        return distribution(name)
    except PackageNotFoundError:
        return None


def _link(found: Distribution, site: Path) -> None:
    tops = {Path(file).parts[0] for file in found.files or () if ".." not in Path(file).parts}
    for top in tops - {"__pycache__"}:
        source, target = Path(str(found.locate_file(top))), site / top
        if source.exists() and not target.exists():
            target.symlink_to(source)


def run(*command: str, folder: Path, status: int = 0) -> subprocess.CompletedProcess[str]:
    """A command in a folder, without what this process's environment says to Python; it has to end with ``status``."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
    ended = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert ended.returncode == status, f"{ended.returncode}: {ended.stdout[-1000:]}{ended.stderr[-3000:]}"
    return ended
