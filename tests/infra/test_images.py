"""The Dockerfiles, as far as that goes without a container runtime: every COPY finds its source, and what is copied is
enough to build the package and to run its command in a folder that has nothing else."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
IMAGES = sorted((ROOT / "infra" / "images").glob("*.Dockerfile"))


def instructions(path: Path) -> list[tuple[str, str]]:
    """(instruction, arguments) in order, continued lines joined, comments left out."""
    text = re.sub(r"\\\n\s*", "", "\n".join(x for x in path.read_text().splitlines() if not x.startswith("#")))
    return [(line.split(None, 1)[0], line.split(None, 1)[1]) for line in text.splitlines() if line.strip()]


def copied(path: Path, target: Path) -> Path:
    """What the COPY lines put into the image's working directory."""
    for instruction, arguments in instructions(path):
        if instruction == "COPY":
            *sources, destination = arguments.split()
            for source in sources:
                assert (ROOT / source).exists(), f"{path.name} copies {source}, which is not there"
                if (ROOT / source).is_dir():
                    ignored = shutil.ignore_patterns("__pycache__")
                    shutil.copytree(ROOT / source, target / destination, symlinks=True, ignore=ignored)
                else:
                    shutil.copy(ROOT / source, target / destination)
    return target


@pytest.mark.parametrize("path", IMAGES, ids=lambda p: p.stem)
def test_an_image_is_of_our_python_unprivileged_and_without_keys(path: Path) -> None:
    lines = instructions(path)
    assert lines[0] == ("FROM", "python:3.11-slim-bookworm")
    users = [arguments for instruction, arguments in lines if instruction == "USER"]
    assert users == ["syllabary"] and [i for i, _ in lines][-3:] == ["USER", "ENTRYPOINT", "CMD"]
    assert not re.search(r"AWS_|SECRET|TOKEN|KEY", path.read_text())


@pytest.mark.parametrize("path", IMAGES, ids=lambda p: p.stem)
def test_an_image_has_what_kuberay_looks_after_its_pods_with(path: Path) -> None:
    """KubeRay 1.5's probes call wget by bash; the slim Python image has only the latter."""
    installed = [arguments for i, arguments in instructions(path) if i == "RUN" and "apt-get install" in arguments]
    assert len(installed) == 1 and " wget " in installed[0] and "rm -rf /var/lib/apt/lists/*" in installed[0]


def test_both_images_hold_the_same_but_for_the_compiler_that_a_gpu_wants() -> None:
    cpu, cuda = ([line for line in instructions(path) if line[0] in ("COPY", "RUN")] for path in IMAGES)
    compiler = " gcc libc6-dev "  # Triton's: without one, blocks stay plain (syllabary.workers.training.compiling)
    assert sum(compiler in arguments for _, arguments in cuda) == 1
    assert cpu == [(instruction, arguments.replace(compiler, " ")) for instruction, arguments in cuda]


@pytest.mark.parametrize("path", IMAGES, ids=lambda p: p.stem)
def test_what_is_copied_builds_and_runs_alone(path: Path, tmp_path: Path) -> None:
    """The pip step without its downloads: a wheel of the copied files, unpacked where nothing else of ours is."""
    (tmp_path / "image").mkdir()
    folder = copied(path, tmp_path / "image")
    wheels, site = tmp_path / "wheels", tmp_path / "site"
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q"]
    subprocess.run([*pip, "wheel", "--no-deps", "--no-build-isolation", "-w", wheels, folder], check=True)
    shutil.unpack_archive(next(wheels.iterdir()), site, "zip")
    for room in ("flows", "workers", "model", "shards"):  # every module, and what is no module but needed by one
        assert _files(site / "syllabary" / room) == _files(ROOT / room)
    code = "import sys; from syllabary.flows import cli; print(cli.__file__); sys.argv[1:] = ['recipes']; cli.app()"
    finished = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(site)},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert finished.returncode == 0 and str(site) in finished.stdout and "paper" in finished.stdout, finished.stderr


def _files(folder: Path) -> set[str]:
    return {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file() and p.suffix != ".pyc"}


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_the_run_steps_work_in_a_clean_environment(tmp_path: Path) -> None:
    """The CPU image's pip step as it stands, downloads and all, in an environment of its own."""
    (tmp_path / "image").mkdir()
    folder = copied(IMAGES[0], tmp_path / "image")
    venv.create(tmp_path / "venv", with_pip=True)
    steps = [arguments for i, arguments in instructions(IMAGES[0]) if i == "RUN" and " pip " in arguments]
    assert len(steps) == 1
    command = [str(tmp_path / "venv" / "bin" / "python"), *shlex.split(steps[0])[1:]]
    subprocess.run(command, cwd=folder, check=True)
    found = subprocess.run(
        [tmp_path / "venv" / "bin" / "syllabary", "show", "tiny"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert found.returncode == 0 and "recipe tiny" in found.stdout, found.stderr
