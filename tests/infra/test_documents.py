"""Every command in the documents is there: its verb, its options, its target, its file. Written down, it must work."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer

from infra import generate_pages
from syllabary.flows.cli import app
from syllabary.workers.control.declaration import option_of
from syllabary.workers.control.job import jobs_by_verb
from syllabary.workers.control.jobs import declared_jobs

ROOT = Path(__file__).parent.parent.parent
DOCUMENTS = sorted(
    path
    for pattern in ("*.md", "docs/**/*.md", "infra/**/*.md", "infra/**/*.yaml", "infra/images/*", "prefect.yaml")
    for path in ROOT.glob(pattern)
    if "results" not in path.parts
)
VERBS = typer.main.get_command(app)
MAKE = (ROOT / "Makefile").read_text()


def commands(program: str) -> Iterator[tuple[str, str]]:
    """(document, command line) wherever a document has ``program ...`` in backticks or in a block of code."""
    for path in DOCUMENTS:
        text = path.read_text().replace("\\\n", " ")
        if path.suffix == ".md":
            blocks = re.findall(r"```\w*\n(.*?)```", text, re.DOTALL)
            lines = [line.strip() for block in blocks for line in block.splitlines()]
            lines += re.findall(r"(?<!`)`([^`\n]+)`(?!`)", re.sub(r"```.*?```", "", text, flags=re.DOTALL))
        else:
            lines = re.findall(r"`([^`]+)`", re.sub(r"\n\s*# ?", " ", text))
        yield from ((path.name, line) for line in lines if line.startswith(f"{program} "))


def words_of(line: str) -> list[str]:
    """The words of a command line, without what is said about it after two spaces, or what follows a pipe."""
    line = re.split(r"\s{3,}|\s#|\s·\s|\s\|\s|\s→", line)[0].replace("[", " ").replace("]", " ")
    return shlex.split(re.sub(r"<[^>]*>|\.\.\.", "x", line.replace("…", "")))


SYLLABARY = sorted({line for _, line in commands("syllabary") if not line.startswith("syllabary ...")})


def test_there_are_commands_to_look_at() -> None:
    assert len(SYLLABARY) > 30


@pytest.mark.parametrize("line", SYLLABARY)
def test_a_verb_takes_the_options_that_the_documents_give_it(line: str) -> None:
    verb, *words = words_of(line)[1:]
    known = VERBS.commands[verb]  # type: ignore[attr-defined]
    options = {name for parameter in known.params for name in (*parameter.opts, *parameter.secondary_opts)}
    given = {word.partition("=")[0] for word in words if word.startswith("--")}
    assert given <= options | {"--help"}, f"{verb} has no {given - options}"


@pytest.mark.parametrize("line", sorted({line for _, line in commands("make")}))
def test_a_target_and_its_variables_are_in_the_makefile(line: str) -> None:
    for word in words_of(line)[1:]:
        name, is_variable, _ = word.partition("=")
        if is_variable:
            assert f"$({name})" in MAKE, f"make takes no {name}"
        elif not name.startswith("-"):
            assert re.search(rf"^{re.escape(name)}:", MAKE, re.MULTILINE), f"make has no target {name}"


@pytest.mark.parametrize("line", sorted({line for _, line in commands("python")}))
def test_a_script_is_there(line: str) -> None:
    first, *rest = [word for word in words_of(line)[1:] if word != "-P"]
    if first == "-m" and rest[0] == "syllabary.workers":
        assert rest[1] in (*jobs_by_verb(), "VERB"), rest[1]
    else:
        module = rest[0].replace(".", "/") + ".py" if first == "-m" else first
        assert (ROOT / module).exists(), module


def test_every_verb_and_target_is_in_the_readme_or_the_contributors_page() -> None:
    told = (ROOT / "README.md").read_text() + (ROOT / "CONTRIBUTING.md").read_text()
    for verb in VERBS.commands:  # type: ignore[attr-defined]
        assert f"syllabary {verb}" in told, verb
    for target in re.findall(r"^([a-z-]+):.*##", MAKE, re.MULTILINE):
        assert f"make {target}" in told or target in ("help", "browser", "clean"), target


@pytest.mark.parametrize("page", generate_pages.PAGES)
def test_a_page_made_of_the_code_is_what_the_code_says(page: str) -> None:
    """Run `make docs` when this fails."""
    assert (ROOT / page).read_text() == generate_pages.PAGES[page]()


def test_every_option_of_every_job_is_on_the_page_of_commands() -> None:
    sections = (ROOT / "docs" / "commands.md").read_text().split("\n## ")
    told = {section.partition("\n")[0]: section for section in sections}
    for job in declared_jobs():
        for name in job.model_fields:
            assert f"`{option_of(job, name)}" in told[job.verb], f"{job.verb}: {name}"
