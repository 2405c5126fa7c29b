"""``make bench`` runs what runs by itself; each benchmark is there, says what it does, and imports what exists."""

from __future__ import annotations

import argparse
import ast
import importlib
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

from tests.helpers.small_models import CONFIGS

ROOT = Path(__file__).parent.parent.parent
FOLDER = ROOT / "infra" / "benchmarks"
BY_HAND = {"audit", "data_wait", "ingest", "jepa_ablation"}  # they need shards, speech, and hours
FOUND = sorted(path.stem.removeprefix("bench_") for path in FOLDER.glob("bench_*.py"))
SCRIPTS = sorted([*FOLDER.glob("*.py"), *FOLDER.glob("studies/*.py")])
WAYS = (FOLDER, FOLDER / "studies", ROOT / "tests", ROOT / "tests" / "parity")  # what the scripts put on their path


@pytest.fixture(autouse=True)
def as_scripts(monkeypatch: pytest.MonkeyPatch) -> None:
    """The benchmarks' folder is on the path, as it is for a script there; what they put there themselves goes again."""
    monkeypatch.setattr(sys, "path", [str(FOLDER), *sys.path])


def imported(name: str) -> ModuleType:
    """A benchmark as a module."""
    return importlib.import_module(f"bench_{name}")


def called(monkeypatch: pytest.MonkeyPatch, name: str, *arguments: str) -> int | str | None:
    """Run a benchmark in this process; its exit code."""
    monkeypatch.setattr(sys, "argv", [f"bench_{name}.py", *arguments])
    command_line, bench = importlib.import_module("command_line"), imported(name)
    with pytest.raises(SystemExit) as ended:
        command_line.run(bench.main)
    return ended.value.code


def listed() -> list[str]:
    """The names in the Makefile."""
    benches = re.search(r"^BENCHES := (.+)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert benches is not None
    return benches[1].split()


def test_each_benchmark_is_run_by_make_or_by_hand() -> None:
    names = listed()
    assert set(names) == set(FOUND) - BY_HAND
    assert len(names) == len(set(names))
    assert set(FOUND) >= BY_HAND


def test_the_page_of_the_benchmarks_names_each_of_them() -> None:
    page = (FOLDER / "README.md").read_text()
    assert set(re.findall(r"^\| `(\w+)` \|", page, re.MULTILINE)) == set(FOUND)


@pytest.mark.parametrize("name", FOUND)
def test_each_says_what_it_does(name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert called(monkeypatch, name, "--help") == 0
    help_text = capsys.readouterr().out
    assert f"python infra/benchmarks/bench_{name}.py" in help_text
    assert (imported(name).__doc__ or "").strip() in help_text


class _ParsedError(Exception):
    """Ends a benchmark once its command line has been read."""


@pytest.mark.parametrize("name", listed())
def test_what_make_runs_asks_for_no_argument(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    parse = argparse.ArgumentParser.parse_args

    def parse_and_end(parser: argparse.ArgumentParser) -> None:
        parse(parser, [])
        raise _ParsedError

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parse_and_end)
    with pytest.raises(_ParsedError):
        imported(name).main()


@pytest.mark.parametrize(("given", "sizes"), [([], [100_000, 1_000_000]), (["7", "8"], [7, 8])])
def test_archives_have_a_size_without_being_told(
    given: list[str], sizes: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["bench_archive_scale.py", *given])
    bench = imported("archive_scale")
    assert (bench.parsed().rows or bench.DEFAULT_ROWS) == sizes


def own_file(module: str) -> Path | None:
    """Where a module of the project lies, a folder for a package; None for those of others."""
    parts = module.split(".")
    roots = [ROOT] if parts[0] in ("syllabary", "infra", "tests") else WAYS
    for root in roots:
        path = root.joinpath(*parts)
        if path.with_suffix(".py").is_file():
            return path.with_suffix(".py")
        if path.is_dir() and roots == [ROOT]:
            return path
    assert roots != [ROOT], f"there is no {module}"
    return None


@cache
def names_of(path: Path) -> frozenset[str]:
    """What a module or a package has to be imported: the names at the top of its file, the modules in its folder."""
    if path.is_dir():
        inside = {entry.stem for entry in path.iterdir()}
        return frozenset(inside | (names_of(path / "__init__.py") if (path / "__init__.py").is_file() else set()))
    return frozenset(_bound(ast.parse(path.read_text()).body))


def _bound(body: list[ast.stmt]) -> Iterator[str]:
    for node in body:
        match node:
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                yield name
            case ast.Import(names=aliases) | ast.ImportFrom(names=aliases):
                yield from (alias.asname or alias.name for alias in aliases)
            case ast.Assign() | ast.AnnAssign():
                targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                yield from (n.id for target in targets for n in ast.walk(target) if isinstance(n, ast.Name))
            case ast.If() | ast.Try() | ast.With():
                yield from _bound([part for part in ast.iter_child_nodes(node) if isinstance(part, ast.stmt)])


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_all_that_is_imported_is_there_within_functions_too(script: Path) -> None:
    for node in ast.walk(ast.parse(script.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and (source := own_file(node.module)):
            missing = {alias.name for alias in node.names} - names_of(source)
            lazy = source.is_dir() and any(name == "__getattr__" for name in names_of(source))
            assert lazy or not missing, f"{script.name}, line {node.lineno}: {node.module} has no {', '.join(missing)}"


MISTAKES = [
    ("archive_scale", ["0"]),
    ("archive_size", ["nowhere"]),
    ("audit", ["nowhere"]),
    ("codec", ["--recipes", "paper,tinny"]),
    ("decode_stream", ["--seconds", "-1"]),
    ("gpu", ["--device", "cpu", "--recipe", "tinny"]),
    ("ingest", ["nowhere"]),
    ("listing", ["--keys", "many"]),
    ("manifest", ["--lines", "0"]),
    ("object_store", ["--limits", "much"]),
    ("packing", ["--rounds", "0"]),
    ("peers", ["--only", "paper,mime"]),
    ("scoring", ["nowhere.wav"]),
    ("stack", ["nowhere"]),
    ("stack", ["--set", "pretrain.num_stops=1"]),
    ("tokenize", ["--recipe", "tinny"]),
    ("tokenize", ["--shards", "2"]),
    ("training", ["--recipe", "tinny"]),
    ("training", ["stage 3"]),
]


@pytest.mark.parametrize(("name", "arguments"), MISTAKES, ids=lambda part: part if isinstance(part, str) else part[-1])
def test_a_mistake_is_one_line(
    name: str,
    arguments: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert called(monkeypatch, name, *arguments) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ") and said.count("\n") == 1, said
    assert arguments[-1].rpartition(",")[2].partition("=")[0].rpartition(".")[2] in said


def test_the_published_structure_gives_the_same_indices_and_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    """What bench_codec compares is one computation: the recipe's own scale of its input included.

    The plain modules stand for the fused ones, which have tests of their own (tests/parity) and are slow to load.
    """
    import torch

    from syllabary.model.codec import make_generator
    from syllabary.model.encoder import Encoder

    def plain(module: torch.nn.Module, state: dict[str, torch.Tensor]) -> torch.nn.Module:
        module.load_state_dict(state)
        return module.eval()

    bench = imported("codec")
    monkeypatch.setattr(bench, "resolve", lambda _: SimpleNamespace(model=CONFIGS["waveform"]))
    monkeypatch.setattr(bench, "build_encoder", lambda config, state, _: plain(Encoder(config.encoder), state))
    monkeypatch.setattr(bench, "build_generator", lambda config, state, _: plain(make_generator(config), state))
    with torch.inference_mode():
        encoders, decoders, codec, _ = bench.variants("small", 0.5)
        assert codec.encoder.input_gain > 2
        latents = encoders["published fp32"](), encoders["ours fp32"]()
        waves = decoders["published fp32"](), decoders["ours fp32"]()
    assert bench.compare("encode", codec, *latents).startswith("100.00% of indices equal")
    assert (waves[0] - waves[1]).abs().max() < 1e-5


@pytest.mark.parametrize(
    ("name", "arguments", "promised"),
    [
        (
            "packing",
            ["--frames", "50", "--rounds", "1"],
            r"4 levels, group 7: pack \d+ M tokens/s, .+ x the time",
        ),
        ("manifest", ["--lines", "20", "--files", "2"], r"20 lines \(0 MB\) in \d+ shards: .+ s CPU"),
    ],
    ids=["packing", "manifest"],
)
def test_small_ones_run_to_their_end(
    name: str,
    arguments: list[str],
    promised: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert called(monkeypatch, name, *arguments) == 0
    assert re.search(promised, capsys.readouterr().out)


def test_make_runs_the_others_after_one_that_fails_and_names_it(tmp_path: Path) -> None:
    """The two are no benchmarks, so Python ends at once with an error."""
    python = Path(sys.executable).parent
    command = ["make", "bench", f"BIN={python}", f"READY={tmp_path}", "BENCHES=this_one that_one"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False, cwd=ROOT)
    assert done.returncode != 0
    assert re.findall(r"^== (\w+)$", done.stdout, re.MULTILINE) == ["this_one", "that_one"]
    assert len(re.findall(r"^== \w+ took \d+ s$", done.stdout, re.MULTILINE)) == 2
    assert "error: failed: this_one that_one" in done.stderr
    assert "left out: ingest" in done.stdout


def test_make_refuses_a_folder_of_speech_that_is_not_there(tmp_path: Path) -> None:
    command = ["make", "bench", f"READY={tmp_path}", "BENCHES=this_one", f"SPEECH={tmp_path}/nowhere"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False, cwd=ROOT)
    assert done.returncode != 0
    assert done.stderr.splitlines()[0].startswith(f"error: no such folder: '{tmp_path}/nowhere'")
    assert "== this_one" not in done.stdout
