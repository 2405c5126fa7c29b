"""The package as a user gets it: a wheel, installed into an environment of its own, in a folder full of like names."""

from __future__ import annotations

import json
import sys
import zipfile
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
import soundfile

from syllabary.shards.store import builtin_names
from syllabary.workers.control.jobs import ShowJob
from tests.helpers.installed import environment_with, run
from tests.helpers.standin import NAME, URI

WEIGHTS = ("encoder.safetensors", "decoder.safetensors", "README.md")


@pytest.fixture(scope="module")
def bin_folder(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Commands of a fresh environment that holds the wheel, and sees what it depends on where that is installed."""
    folder = tmp_path_factory.mktemp("environment")
    site = environment_with(wheel, folder)
    seen = [path for path in sys.path if path.endswith("site-packages")]
    (site / "dependencies.pth").write_text("".join(f"import sys; sys.path.append({path!r})\n" for path in seen))
    return folder / "bin"


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
        "from syllabary.workers.recipes.named import resolve\n"
        "assert isinstance(resolve('tiny').model, ModelConfig)\nprint(model.WIDTH)\n"
    )
    assert run(str(bin_folder / "python"), "script.py", folder=tmp_path).stdout == "3\n"
