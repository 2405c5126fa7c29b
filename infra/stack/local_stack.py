"""``python -m infra.stack.local_stack up|run|status|down``: the whole stack on this machine, on loopback.

``make stack``, ``make stack-run`` and ``make stack-down``; ``make stack HOST=<address>`` lets other machines reach it
there, where each service asks for its key. Everything lives in one folder (default runs/stack).
"""

from __future__ import annotations

import shutil
import sys
from contextlib import suppress
from pathlib import Path
from typing import Annotated

import httpx
import typer
from rich.console import Console
from rich.table import Table

from infra.stack import gateway, services
from infra.stack.stack_files import Stack, create_stack, open_stack
from syllabary.shards.errors import InputError, SyllabaryError
from syllabary.workers.recipes.shipped import demo_recipe

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False, help=__doc__)
console = Console(stderr=True, highlight=False)

FolderOption = Annotated[Path, typer.Option("--folder", help="Where the stack keeps its state.")]
DEFAULT_FOLDER = Path("runs/stack")


@app.command()
def up(
    folder: FolderOption = DEFAULT_FOLDER,
    host: Annotated[str | None, typer.Option("--host", help="Address at which other machines reach it.")] = None,
) -> None:
    """Start what does not run yet, and say where everything is; on loopback alone unless a host is given."""
    folder = folder.absolute()
    if host is not None:
        gateway.refuse_foreign(host)  # before anything is made
    stack = open_stack(folder) or create_stack(folder)
    if host is not None:
        services.give_host(stack, host)
    started = services.start_missing(stack, _say)
    _say("the stack is up" if started else "the stack was up already")
    console.print(status_table(stack))
    console.print(_use_of_it(stack), soft_wrap=True)


@app.command()
def status(folder: FolderOption = DEFAULT_FOLDER) -> None:
    """Say what runs where."""
    console.print(status_table(_existing(folder)))


@app.command()
def run(
    source: Annotated[str | None, typer.Argument(help="Folder of speech; without it the demo speech.")] = None,
    folder: FolderOption = DEFAULT_FOLDER,
    recipe: Annotated[str, typer.Option("--recipe", help="A named recipe.")] = demo_recipe(),
    overrides: Annotated[list[str] | None, typer.Option("--set", help="a.b=c over the recipe.")] = None,
    name: Annotated[str | None, typer.Option("--name", help="Of the output below s3://syllabary/runs.")] = None,
) -> None:
    """Run the pipeline on the stack: a deployment, data on S3, jobs through the Ray Jobs API."""
    from infra.stack import pipeline_run

    stack = _existing(folder)
    if down_services := [service for service in services.services_of(stack) if not services.answers(stack, service)]:
        raise InputError("the stack is not up", value=", ".join(down_services), fix="make stack")
    pipeline_run.run_on(stack, source, recipe=recipe, overrides=tuple(overrides or ()), name=name, say=_say)


@app.command()
def down(folder: FolderOption = DEFAULT_FOLDER) -> None:
    """End exactly what the stack started; what it stored stays."""
    stack = open_stack(folder.absolute())
    if stack is None:
        _say(f"there is no stack in {folder}")
        return
    services.end_all(stack, _say)
    shutil.rmtree(stack.ray_folder, ignore_errors=True)
    stack.services, stack.host = {}, ""
    stack.save()
    _say(f"the stack is down; its data stays in {folder}")


def status_table(stack: Stack) -> Table:
    """One row a service: what it is, whether it answers, where, and its pid."""
    table = Table("service", "state", "address", "pid", title="Syllabary stack", title_justify="left")
    exposed = " · ".join(f"{name} :{port}" for name, port in stack.exposed_ports().items())
    addresses = {
        "object-store": stack.s3_url,
        "prefect-server": stack.prefect_url,
        "ray-head": stack.dashboard_url,
        "prefect-worker": "pool syllabary",
        services.GATEWAY: f"{stack.host}  {exposed}",
    }
    for name in services.services_of(stack):
        running = services.is_running(stack, name)
        state = "up" if services.answers(stack, name) and running else "starts" if running else "down"
        pid = str(stack.services[name].pid) if running else ""
        table.add_row(name, state, addresses[name], pid)
    return table


def _use_of_it(stack: Stack) -> str:
    remote = f" (elsewhere: . {_short(stack.folder / 'env-remote.sh')})" if stack.host else ""
    return (
        f"logs       {_short(stack.folder / 'logs')}\n"
        f"variables  . {_short(stack.folder / 'env.sh')}{remote}\n"
        f"keys       {_short(stack.folder / 'keys.json')} (Prefect asks for operator:PASSWORD, Ray for its token)\n"
        "next       make stack-run · make stack-down"
    )


def _short(path: Path) -> str:
    with suppress(ValueError):
        return str(path.relative_to(Path.cwd()))
    return str(path)


def _existing(folder: Path) -> Stack:
    stack = open_stack(folder.absolute())
    if stack is None:
        raise InputError("there is no stack", value=str(folder), fix="make stack")
    return stack


def _say(text: str) -> None:
    console.print(f"stack  {text}", soft_wrap=True, markup=False)


def main() -> None:
    """Entry point: a failure is one line on standard error."""
    try:
        app()
    except SyllabaryError as error:
        sys.stderr.write(f"error: {error}\n")
        sys.exit(error.exit_code)
    except httpx.HTTPError as error:
        sys.stderr.write(f"error: the stack does not answer ({error}); see `make stack`\n")
        sys.exit(1)


if __name__ == "__main__":
    main()
