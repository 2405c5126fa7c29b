"""The package as a user gets it: a wheel, installed into an environment of its own, in a folder full of like names."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
import soundfile

from syllabary.shards.store import builtin_names
from syllabary.workers.control.jobs import ShowJob
from syllabary.workers.recipes.recipe import resolve
from tests.helpers.standin import NAME, URI, save_untrained

ROOT = Path(__file__).parent.parent.parent
WEIGHTS = ("encoder.safetensors", "decoder.safetensors", "README.md")
TRAP = "raise SystemExit('imported from the working directory: ' + __file__)\n"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy: a build leaves files beside its sources."""
    folder = tmp_path_factory.mktemp("wheel")
    for name in ("syllabary", "flows", "workers", "model", "shards"):
        shutil.copytree(
            ROOT / name, folder / "tree" / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__")
        )
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder / "tree")
    save_untrained(folder / "tree" / "shards" / "builtin" / NAME, resolve("tiny"))
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q", "wheel", "--no-deps"]
    subprocess.run([*pip, "--no-build-isolation", "-w", folder, folder / "tree"], check=True)
    return next(folder.glob("*.whl"))


@pytest.fixture(scope="module")
def bin_folder(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Commands of a fresh environment that holds the wheel, and sees what it depends on where that is installed."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=False, symlinks=True)
    site = Path(sysconfig.get_path("purelib", "venv", {"base": str(folder), "platbase": str(folder)}))
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q", "--python", str(folder / "bin" / "python")]
    subprocess.run([*pip, "install", "--no-deps", "--no-index", wheel], check=True)
    seen = [path for path in sys.path if path.endswith("site-packages")]
    (site / "dependencies.pth").write_text("".join(f"import sys; sys.path.append({path!r})\n" for path in seen))
    return folder / "bin"


@pytest.fixture
def crowded(tmp_path: Path) -> Path:
    """A user's folder, with names that were ours once and some that are others'."""
    for name in ("model", "shards", "torch", "json"):
        (tmp_path / f"{name}.py").write_text(TRAP)
    for name in ("workers", "flows", "syllabary"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text(TRAP)
    return tmp_path


def run(*command: str, folder: Path) -> subprocess.CompletedProcess[str]:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
    ended = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr[-3000:]
    return ended


def test_a_wheel_holds_one_name_its_types_and_its_data(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.partition("/")[0].partition("-")[0] for name in names} == {"syllabary"}
    assert {"syllabary/py.typed", "syllabary/shards/FORMAT.md", "syllabary/workers/report/assets/page.html"} <= {*names}
    shipped = [f"{name}/{file}" for name in (NAME, *builtin_names()) for file in ("config.json", *WEIGHTS)]
    assert {f"syllabary/shards/builtin/{file}" for file in shipped} <= {*names}


def test_the_command_says_its_version(bin_folder: Path, crowded: Path) -> None:
    assert run(str(bin_folder / "syllabary"), "--version", folder=crowded).stdout == f"{version('syllabary')}\n"


def test_the_package_is_that_of_the_wheel(bin_folder: Path, tmp_path: Path) -> None:
    code = "import syllabary.workers, syllabary.flows.cli as cli; print(cli.__file__)"
    assert run(str(bin_folder / "python"), "-c", code, folder=tmp_path).stdout.startswith(str(bin_folder.parent))


def test_a_job_runs_beside_files_of_like_names(bin_folder: Path, crowded: Path) -> None:
    """By itself, and submitted by the command: a job that builds networks, so that all four folders are imported."""
    alone = run(*ShowJob(recipe="tiny").command(str(bin_folder / "python")), folder=crowded)
    assert "tiny" in json.dumps(json.loads(alone.stdout.removeprefix("syllabary-result: ")))
    assert "tiny" in run(str(bin_folder / "syllabary"), "show", "tiny", folder=crowded).stdout


def test_speech_comes_back_with_nothing_trained(bin_folder: Path, crowded: Path) -> None:
    """What a newcomer types after the installation, with a tokenizer that came in the wheel."""
    syllabary = str(bin_folder / "syllabary")
    soundfile.write(crowded / "a.wav", np.random.default_rng(0).uniform(-0.3, 0.3, 20_001), 16_000)
    run(syllabary, "encode", "a.wav", "--tokenizer", URI, folder=crowded)
    run(syllabary, "decode", "a.tokens.safetensors", "--tokenizer", URI, "--out", "back", folder=crowded)
    restored, rate = soundfile.read(crowded / "back" / "a.wav")
    assert (len(restored), rate) == (20_001, 16_000)
    assert URI in run(syllabary, "status", URI, folder=crowded).stdout


def test_a_script_beside_files_of_like_names_imports_the_package(bin_folder: Path, tmp_path: Path) -> None:
    """A script's own folder is first on its path; its model.py is its own, and ours are below one name."""
    (tmp_path / "model.py").write_text("WIDTH = 3\n")
    (tmp_path / "workers").mkdir()
    (tmp_path / "script.py").write_text(
        "import model\nfrom syllabary.model.config import ModelConfig\n"
        "from syllabary.workers.recipes.recipe import resolve\n"
        "assert isinstance(resolve('tiny').model, ModelConfig)\nprint(model.WIDTH)\n"
    )
    assert run(str(bin_folder / "python"), "script.py", folder=tmp_path).stdout == "3\n"
