"""The wheel, built once for the tests of the package."""

from __future__ import annotations

from pathlib import Path

import pytest

from syllabary.workers.recipes.named import resolve
from tests.helpers.installed import TRAP, build_wheel, copy_sources
from tests.helpers.standin import NAME, save_untrained


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of the sources, with one more builtin whose weights are random."""
    folder = tmp_path_factory.mktemp("wheel")
    tree = copy_sources(folder / "tree")
    save_untrained(tree / "shards" / "builtin" / NAME, resolve("tiny"))
    return build_wheel(tree, folder)


@pytest.fixture
def crowded(tmp_path: Path) -> Path:
    """A user's folder, with names that were ours once and some that are others'."""
    for name in ("model", "shards", "torch", "json"):
        (tmp_path / f"{name}.py").write_text(TRAP)
    for name in ("workers", "flows", "syllabary"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text(TRAP)
    return tmp_path
