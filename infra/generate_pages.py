"""Write the pages that are made of the code: docs/commands.md of the jobs, docs/api.md of the docstrings (`make docs`).

Nothing is imported for docs/api.md: the files are read as they stand.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from typer.main import get_command

from syllabary.flows.cli import app

ROOT = Path(__file__).parent.parent
PAGES = {"docs/commands.md": lambda: "\n".join(commands_page()), "docs/api.md": lambda: "\n".join(api_page())}
# what a program of one's own imports: the tokenizer, jobs, the formats
FACE = (
    "workers/tokenizer/tokenizer.py", "workers/archive/opened.py", "workers/tokenizer/token_file.py",
    "workers/tokenizer/directory.py",
    "workers/control/submit.py", "shards/archive", "shards/dataset.py", "shards/blocks", "shards/store.py",
    "shards/outputs.py", "shards/errors.py",
)  # fmt: skip


def commands_page() -> Iterator[str]:
    """Every command with every option, as the jobs declare them."""
    yield "# Commands\n"
    yield "Made by `make docs` from the jobs (`workers/control/jobs.py`). What is in capitals has no option."
    for name, command in get_command(app).commands.items():  # type: ignore[attr-defined]
        yield f"\n## {name}\n\n{command.help}\n"
        if command.params:
            yield "| option | default | what it is |\n| --- | --- | --- |"
        yield from (_row(parameter) for parameter in command.params)
    yield ""


def _row(parameter: Any) -> str:
    is_option = parameter.opts[0].startswith("--")
    name = "/".join((*parameter.opts, *parameter.secondary_opts)) if is_option else str(parameter.name).upper()
    default = "must be given" if parameter.required else "" if parameter.default is None else f"`{parameter.default}`"
    return f"| `{name}` | {default} | {parameter.help.replace('|', '/')} |"


def api_page() -> Iterator[str]:
    """What a program of one's own imports, with the first sentence of each docstring."""
    yield "# What a program imports\n"
    yield "Made by `make docs` from the docstrings; the whole text stands in the files. The networks of"
    yield "`model/` say what they are in theirs."
    for path in _files():
        tree = ast.parse(path.read_text())
        lines = [line for node in tree.body for line in _lines(node)]
        if lines:
            module = ".".join(("syllabary", *path.relative_to(ROOT).with_suffix("").parts))
            yield f"\n## `{module}`\n\n{_first_sentence(tree)}\n"
            yield from lines
    yield ""


def _files() -> Iterator[Path]:
    for place in FACE:
        found = (ROOT / place).glob("*.py") if (ROOT / place).is_dir() else [ROOT / place]
        yield from sorted(path for path in found if path.name != "__init__.py")


def _lines(node: ast.stmt, indent: str = "") -> Iterator[str]:
    if isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
        yield f"{indent}- `{_call(node)}` {_first_sentence(node)}"
    elif isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
        yield f"{indent}- **`{node.name}`** {_first_sentence(node)}"
        for inner in node.body:
            if isinstance(inner, ast.FunctionDef):
                yield from _lines(inner, indent + "  ")


def _call(node: ast.FunctionDef) -> str:
    """``name(arguments) -> result``, without ``self``."""
    given = ast.unparse(node.args).removeprefix("self").removeprefix("cls").removeprefix(", ")
    result = f" -> {ast.unparse(node.returns)}" if node.returns else ""
    is_property = any(isinstance(mark, ast.Name) and mark.id == "property" for mark in node.decorator_list)
    return node.name + ("" if is_property else f"({given})") + result


def _first_sentence(node: ast.Module | ast.FunctionDef | ast.ClassDef) -> str:
    paragraph = " ".join((ast.get_docstring(node) or "").partition("\n\n")[0].split())
    return paragraph.replace("``", "`").replace("|", "\\|")


def main() -> None:
    """Write the pages, or with ``--check`` end with 1 where one is not what the code says."""
    stale = [page for page, make in PAGES.items() if not _is_current(ROOT / page, make())]
    if "--check" in sys.argv:
        sys.exit(f"error: not what the code says: {', '.join(stale)}; run `make docs`" if stale else 0)
    for page in stale:
        (ROOT / page).write_text(PAGES[page]())


def _is_current(path: Path, text: str) -> bool:
    return path.exists() and path.read_text() == text


if __name__ == "__main__":
    main()
