"""The core of the package: what ``pip install syllabary`` brings is enough for tokens, and a missing extra is named."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tomllib
import venv
import zipfile
from email.parser import Parser
from pathlib import Path

import numpy as np
import pytest
import soundfile

from syllabary.shards.archive.parts import ArchiveFormat
from syllabary.workers.control.extras import EXTRAS
from syllabary.workers.control.jobs import LmSampleJob, PretrainJob
from syllabary.workers.recipes.bitrates import packing_of
from syllabary.workers.tokenizer.directory import load_tokenizer
from tests.helpers.archive_corpus import make_archive
from tests.helpers.installed import ROOT, environment_with, link_requirements, run

SPEECH = ROOT / "docs" / "sounds" / "1-6367-original.flac"
BUILTIN = "builtin:speech16k"
EXTRA_MODULES = sorted({module for modules in EXTRAS.values() for module in modules} | {"s3fs", "scipy", "pandas"})
CORE_MODULES = (
    "syllabary.workers.tokenizer.encode_files", "syllabary.workers.tokenizer.decode_files",
    "syllabary.workers.archive.restore", "syllabary.workers.archive.verify", "syllabary.workers.archive.pack",
    "syllabary.workers.archive.repack", "syllabary.workers.archive.salient", "syllabary.workers.archive.bag",
    "syllabary.workers.operate.status", "syllabary.workers.operate.show", "syllabary.workers.training.export",
    "syllabary.workers.control.submit", "syllabary.flows.cli",
)  # fmt: skip


@pytest.fixture(scope="module")
def core(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Commands of an environment that holds the wheel and what its core requires, and nothing else."""
    folder = tmp_path_factory.mktemp("core")
    site = environment_with(wheel, folder)
    with zipfile.ZipFile(wheel) as opened:
        name = next(name for name in opened.namelist() if name.endswith(".dist-info/METADATA"))
        metadata = Parser().parsestr(opened.read(name).decode())
    linked = link_requirements(metadata.get_all("Requires-Dist") or [], site)
    assert "torch" in linked and not linked & {"ray", "prefect", "deepspeed", "s3fs", "transformers", "matplotlib"}
    return folder / "bin"


def test_the_core_holds_no_extra(core: Path, tmp_path: Path) -> None:
    code = f"from importlib.util import find_spec; print([m for m in {EXTRA_MODULES!r} if find_spec(m)])"
    found = run(str(core / "python"), "-c", code, folder=tmp_path).stdout
    assert found in ("[]\n", "['jinja2', 'markupsafe']\n"), found  # torch requires jinja2


def test_the_core_turns_speech_into_tokens_and_back(core: Path, crowded: Path) -> None:
    """Beside files of like names, with the tokenizer that ships; digits are those of this environment."""
    syllabary, speech = str(core / "syllabary"), crowded / "a.flac"
    shutil.copy(SPEECH, speech)
    run(syllabary, "encode", "a.flac", "--tokenizer", BUILTIN, folder=crowded)
    run(syllabary, "decode", "a.tokens.safetensors", "--tokenizer", BUILTIN, "--out", "back", folder=crowded)
    original, rate = soundfile.read(speech)
    restored, restored_rate = soundfile.read(crowded / "back" / "a.wav")
    assert (len(restored), restored_rate) == (len(original), rate) and np.std(restored) > 0.01


@pytest.mark.long
def test_the_core_reads_verifies_restores_and_packs_an_archive(core: Path, tmp_path: Path) -> None:
    files = load_tokenizer(BUILTIN, decoder=False)
    config = files.config
    form = ArchiveFormat(files.digests.encoder, "c" * 64, packing_of(config), 16_000, config.framing.hop_length)
    truth = make_archive(str(tmp_path / "archive"), ["train-000000"], num_utterances=3, form=form)
    syllabary = str(core / "syllabary")
    run(syllabary, "verify", "--archive", "archive", folder=tmp_path)
    run(syllabary, "restore", "--archive", "archive", "--tokenizer", BUILTIN, "--out", "sound", folder=tmp_path)
    run(syllabary, "pack", "--archive", "archive", "--out", "blocks", "--block-size", "64", folder=tmp_path)
    assert len(list((tmp_path / "sound" / "audio").rglob("*.flac"))) == len(truth) == 3
    assert list((tmp_path / "blocks").rglob("*.parquet"))
    assert "utterance" in run(syllabary, "salient", "--archive", "archive", folder=tmp_path).stdout
    assert "archive" in run(syllabary, "status", "archive", folder=tmp_path).stdout


@pytest.mark.parametrize(
    ("words", "extra"),
    [
        (("pretrain", "--shards", "x", "--out", "y"), "train"),
        (("shard", "x", "--out", "y"), "train"),
        (("tokenize", "--shards", "x", "--tokenizer", BUILTIN, "--archive", "y"), "train"),
        (("evaluate", "--tokenizer", BUILTIN, "--shards", "x", "--out", "y"), "evaluate"),
        (("lm-sample", "--model", "x", "--tokenizer", BUILTIN, "--out", "y"), "lm"),
        (("export", "--tokenizer", BUILTIN, "--out", "y", "--format", "onnx"), "onnx"),
        (("fetch-demo", "--out", "y"), "train"),
        (("listen", "x"), "listen"),
        (("run", ".", "--out", "y"), "flows"),
        (("verify", "--archive", "s3://bucket/archive"), "s3"),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else value,
)
def test_a_missing_extra_is_one_line_that_names_it(
    words: tuple[str, ...], extra: str, core: Path, tmp_path: Path
) -> None:
    ended = run(str(core / "syllabary"), *words, folder=tmp_path, status=2)
    *before, line = ended.stderr.strip().splitlines()
    assert line.startswith("error: ") and line.endswith(f"pip install 'syllabary[{extra}]'"), ended.stderr
    assert "Traceback" not in ended.stderr and not ended.stdout
    assert not (tmp_path / "y" / "audio").exists() and len(before) <= 1


@pytest.mark.parametrize("job", [PretrainJob(shards="x", out="y"), LmSampleJob(model="x", tokenizer="y", out="z")])
def test_a_job_by_itself_says_the_same(job: PretrainJob | LmSampleJob, core: Path, tmp_path: Path) -> None:
    ended = run(*job.command(str(core / "python")), folder=tmp_path, status=2)
    assert ended.stderr.strip().endswith(f"pip install 'syllabary[{job.extras[0]}]'")


@pytest.mark.parametrize("module", CORE_MODULES)
def test_a_verb_of_the_core_imports_no_extra(module: str) -> None:
    """Where the extras are installed, too: what is imported for nothing is waited for."""
    heavy = ("ray", "deepspeed", "prefect", "s3fs", "transformers", "matplotlib", "tensorboard", "onnx", "scipy")
    code = f"import sys, {module}; print(*[m for m in {heavy!r} if m in sys.modules])"
    ended = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert ended.stdout == "\n"


@pytest.mark.parametrize("version", ["2.3.1+cu121", "1.13.1"])
@pytest.mark.parametrize(
    "words",
    [
        ("-c", "from syllabary import Tokenizer"),
        ("-m", "syllabary.workers", "encode", '{"files": ["a.wav"], "tokenizer": "builtin:speech16k"}'),
    ],
    ids=["import", "verb"],
)
def test_a_torch_that_is_too_old_is_told_and_not_what_fails_of_it(
    words: tuple[str, ...], version: str, tmp_path: Path
) -> None:
    """One that lacks what is needed, as an old one would: the import fails before anything asks for its version."""
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch" / "__init__.py").write_text(f"__version__ = {version!r}\n")
    environment = os.environ | {"PYTHONPATH": os.pathsep.join((str(tmp_path), str(ROOT)))}
    ended = subprocess.run(
        [sys.executable, "-P", *words], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert ended.returncode != 0
    line = ended.stderr.strip().splitlines()[-1]
    oldest = next(text for text in _dependencies() if text.startswith("torch>=")).removeprefix("torch>=")
    expected = f"torch is too old: {version!r}; expected {oldest} or newer; pip install 'torch>={oldest}'"
    assert line.partition(": ")[2] == expected, ended.stderr
    assert words[0] == "-c" or "Traceback" not in ended.stderr


def test_an_archive_is_opened_whatever_torch_there_is(tmp_path: Path) -> None:
    code = "import sys, types; sys.modules['torch'] = types.SimpleNamespace(__version__='1.0'); "
    code += "from syllabary import open_archive; print(open_archive.__name__)"
    assert run(sys.executable, "-c", code, folder=ROOT).stdout == "open_archive\n"


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("versions", ["lowest", "newest"])
def test_the_core_installs_alone_and_turns_speech_into_tokens_and_back(
    versions: str, wheel: Path, crowded: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """From the package index: the lowest versions that the metadata allows, and the newest that the index has."""
    folder = tmp_path_factory.mktemp(versions)
    venv.create(folder, with_pip=True)
    bounds = ["-c", str(ROOT / "tests" / "infra" / "lowest.txt")] if versions == "lowest" else []
    run(str(folder / "bin" / "python"), "-m", "pip", "install", "-q", *bounds, str(wheel), folder=crowded.parent)
    shutil.copy(SPEECH, crowded / "a.flac")
    syllabary = str(folder / "bin" / "syllabary")
    run(syllabary, "encode", "a.flac", "--tokenizer", BUILTIN, folder=crowded)
    run(syllabary, "decode", "a.tokens.safetensors", "--tokenizer", BUILTIN, "--out", "back", folder=crowded)
    original, restored = (soundfile.read(crowded / name)[0] for name in ("a.flac", "back/a.wav"))
    assert len(restored) == len(original) and np.std(restored) > 0.01


def test_what_the_project_installs_itself_is_everything() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    named = {*extras} - {"all", "dev"}
    assert extras["all"] == [f"syllabary[{','.join(sorted(named))}]"]
    made = (ROOT / "Makefile").read_text()
    assert f"'.[{','.join(sorted({'dev'} | named - {'evaluate'}))}]'" in made
    for image in ("cpu", "cuda"):
        text = (ROOT / "infra" / "images" / f"{image}.Dockerfile").read_text()
        assert "'.[flows,lm,s3,train]'" in text


def test_the_lowest_versions_are_those_that_the_metadata_allows() -> None:
    lines = (ROOT / "tests" / "infra" / "lowest.txt").read_text().splitlines()
    lowest = dict(line.split("==") for line in lines if not line.startswith("#"))
    told = dict(text.split(">=") for text in _dependencies())
    assert lowest.keys() == told.keys()
    assert all(lowest[name] == told[name] or lowest[name].startswith(told[name] + ".") for name in told)


def _dependencies() -> list[str]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return list(project["dependencies"])
