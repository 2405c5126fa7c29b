"""The command line: quick help, every verb documented, and one clear line for each mistake."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf

from infra.stack.object_store import ObjectStore
from syllabary.workers.recipes.named import resolve
from tests.helpers.standin import save_untrained

ROOT = Path(__file__).parent.parent.parent
SYLLABARY = str(Path(sys.executable).parent / "syllabary")


def syllabary(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [SYLLABARY, *arguments], capture_output=True, text=True, timeout=120, env={**os.environ, **environment},
        check=False,
    )  # fmt: skip


def refusal(*arguments: str, **environment: str) -> str:
    """The one line of a refused command; no Prefect server was started for it."""
    finished = syllabary(*arguments, **environment)
    assert finished.returncode == 2, finished.stderr
    assert "Prefect" not in finished.stderr, finished.stderr
    lines = [line for line in finished.stderr.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1 and "Traceback" not in finished.stderr, finished.stderr
    return lines[0]


@pytest.mark.parametrize("arguments", [["--help"], ["shard", "--help"]], ids=" ".join)
def test_help_needs_nothing_heavy(arguments: list[str]) -> None:
    """Nor what is light and adds up: help in boxes, a configuration's schema, a look through all installed packages."""
    heavy = ["torch", "ray", "prefect", "pyarrow", "numpy", "rich", "markdown_it", "pygments", "yaml", "fsspec",
             "syllabary.shards.ingest.config"]  # fmt: skip
    if arguments == ["--help"]:  # typer itself has pydantic look through them for the values of a verb
        heavy.append("importlib.metadata")
    code = (
        "import sys\nfrom typer.testing import CliRunner\nfrom syllabary.flows.cli import app\n"
        f"assert CliRunner().invoke(app, {arguments!r}).exit_code == 0\n"
        f"sys.exit(' '.join(name for name in {heavy!r} if name in sys.modules) or 0)"
    )
    finished = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr


def test_help_says_of_each_verb_what_it_does_to_the_end_of_the_sentence() -> None:
    told = " ".join(syllabary("--help", COLUMNS="60").stdout.split())
    assert "fetch-demo Fetch the demo speech, from Debian packages, into a local folder" in told
    assert "recipes List the recipes, a line each." in told and "..." not in told.partition("Commands:")[2]


def test_every_verb_is_in_the_readme_and_has_help() -> None:
    from typer.main import get_command

    from syllabary.flows.cli import app

    readme = (ROOT / "README.md").read_text()
    commands = get_command(app).commands  # type: ignore[attr-defined]
    for name, verb in commands.items():
        assert f"syllabary {name}" in readme, f"{name} is not in the README"
        assert verb.help


def test_an_interrupt_says_how_to_go_on(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    from syllabary.flows import cli
    from syllabary.workers.control import submit

    def interrupted(job: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(submit, "submit", interrupted)
    monkeypatch.setattr(sys, "argv", ["syllabary", "verify", "--archive", "x"])
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert end.value.code == 130 and capsys.readouterr().err == "interrupted; run the same command again to go on\n"


def test_every_recipe_is_listed_with_what_it_is() -> None:
    from syllabary.workers.recipes.named import RECIPES

    listing = syllabary("recipes").stdout
    assert len(listing.splitlines()) == len(RECIPES)
    for name in RECIPES:
        assert any(line.startswith(name + " ") and len(line) > 40 for line in listing.splitlines())


@pytest.mark.parametrize("verb", ["run", "shard"])
@pytest.mark.parametrize("name", ["absent", "empty", "absent.tar", "absent.jsonl"])
def test_a_missing_or_empty_source_is_refused(verb: str, name: str, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    source, out = str(tmp_path / name), tmp_path / "out"
    assert source in refusal(verb, source, "--out", str(out))
    assert not out.exists()


def test_a_folder_without_audio_is_refused(tmp_path: Path) -> None:
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "a.txt").write_text("no sound")
    line = refusal("shard", str(tmp_path / "texts"), "--out", str(tmp_path / "out"))
    assert "audio" in line
    assert not (tmp_path / "out" / "done.json").exists()


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("--recipe", "tinny"), "unknown recipe: 'tinny'; expected one of"),
        (("--set", "pretrain.steps=3"), "unknown configuration key: 'pretrain.steps'"),
        (("--set", "pretrain.num_steps"), "override is not key=value"),
        (("--set", "pretrain.num_steps=many"), "pretrain.num_steps"),
        (("--set", "model.fsq.levels=17"), "use group_size at most 3"),
        (("--config", "absent.yaml"), "nothing there"),
    ],
)
def test_a_recipe_that_does_not_resolve_is_refused(
    arguments: tuple[str, ...], expected: str, corpus: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    assert expected in refusal("run", str(corpus), "--out", str(out), *arguments)
    assert not out.exists()


def test_an_output_of_another_recipe_is_refused_and_kept(corpus: Path, tmp_path: Path) -> None:
    from syllabary.workers.control.run_layout import PipelineLayout, claim_run
    from syllabary.workers.recipes.named import resolve

    claim_run(PipelineLayout(str(tmp_path / "out")), str(corpus), resolve("tiny"))
    before = (tmp_path / "out" / "output.json").read_bytes()
    (tmp_path / "out" / "done.json").write_text("{}")
    line = refusal("run", str(corpus), "--out", str(tmp_path / "out"), "--recipe", "tiny", "--set", "codec.num_steps=7")
    assert "belongs to another run: config.codec.num_steps" in line and "use another --out" in line
    assert (tmp_path / "out" / "output.json").read_bytes() == before


def test_a_source_that_grew_is_another_run(tmp_path: Path) -> None:
    from syllabary.workers.control.run_layout import PipelineLayout, claim_run
    from syllabary.workers.recipes.named import resolve

    source = tmp_path / "speech"
    source.mkdir()
    sf.write(source / "a.wav", np.zeros(16_000), 16_000)
    claim_run(PipelineLayout(str(tmp_path / "out")), str(source), resolve("tiny"))
    (tmp_path / "out" / "done.json").write_text("{}")
    sf.write(source / "b.wav", np.zeros(16_000), 16_000)
    assert "inputs.files_digest" in refusal("run", str(source), "--out", str(tmp_path / "out"), "--recipe", "tiny")


def test_wrong_s3_keys_name_the_variables(s3: ObjectStore, corpus: Path) -> None:
    line = refusal("run", str(corpus), "--out", s3.bucket() + "/run", AWS_SECRET_ACCESS_KEY="wrong")
    assert "AWS_SECRET_ACCESS_KEY" in line
    assert "wrong" not in line.replace("wrong keys", "")


def test_too_little_disk_is_refused(corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from syllabary.shards.errors import StorageError
    from syllabary.workers.control import run_layout as pipeline_layout
    from syllabary.workers.recipes.named import resolve

    monkeypatch.setattr(pipeline_layout, "_NEEDED_BYTES", 1 << 60)
    layout = pipeline_layout.PipelineLayout(str(tmp_path / "out"))
    with pytest.raises(StorageError, match=r"GiB free at .*; expected .* GiB; free some space"):
        pipeline_layout.claim_run(layout, str(corpus), resolve("tiny"))
    assert not (tmp_path / "out").exists()

    monkeypatch.undo()
    pipeline_layout.claim_run(layout, str(corpus), resolve("tiny"))
    (tmp_path / "out" / "done.json").write_text("{}")
    monkeypatch.setattr(pipeline_layout, "_NEEDED_BYTES", 1 << 60)
    assert pipeline_layout.is_done(layout, str(corpus), resolve("tiny"))  # a finished run asks for no space


def test_a_run_that_cannot_begin_as_asked_is_refused_before_it_starts(corpus: Path, tmp_path: Path) -> None:
    """An unknown builtin, nothing there, a tokenizer of another recipe: nothing is written for any of them."""
    save_untrained(tmp_path / "tokenizer", resolve("tiny"))
    out = tmp_path / "out"
    given = ("run", str(corpus), "--out", str(out))
    assert "unknown builtin: 'builtin:nothing'" in refusal(*given, "--init", "builtin:nothing")
    assert "nothing there" in refusal(*given, "--recipe", "tiny", "--init", str(tmp_path / "absent"))
    line = refusal(*given, "--recipe", "fast16k", "--init", str(tmp_path / "tokenizer"))
    assert "was trained with" in line and "(--init none)" in line
    assert not out.exists()


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("pack", "--archive", "a", "--out", "b", "--block-size", "1"), "--block-size"),
        (("repack", "--archive", "a", "--group-size", "0"), "--group-size"),
        (
            ("salient", "--archive", "a", "--top", "some"),
            "--top: Input should be a valid number, unable to",
        ),
        (("salient", "--archive", "a", "--top", "101%"), "--top: Input should be less than or equal to 100"),
        (
            ("restore", "--archive", "a", "--tokenizer", "b", "--out", "c", "--start", "-1"),
            "--start: Input should be",
        ),
    ],
)
def test_a_number_out_of_range_is_refused_naming_the_option(arguments: tuple[str, ...], expected: str) -> None:
    assert expected in refusal(*arguments)


def test_a_wrong_tokenizer_or_archive_is_refused(tmp_path: Path) -> None:
    nothing = str(tmp_path / "nothing")
    for arguments in (
        ("verify", "--archive", nothing),
        ("restore", "--archive", nothing, "--tokenizer", nothing, "--out", str(tmp_path / "out")),
        ("tokenize", "--shards", nothing, "--tokenizer", nothing, "--archive", str(tmp_path / "out")),
        ("pretrain", "--shards", nothing, "--out", str(tmp_path / "out")),
        ("train-codec", "--shards", nothing, "--encoder", nothing, "--out", str(tmp_path / "out")),
    ):
        assert nothing in refusal(*arguments)
    assert not (tmp_path / "out").exists()
