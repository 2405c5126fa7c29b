"""``syllabary <verb>``: every verb submits its worker directly; ``run`` is the Prefect flow over all of them.

A command is made of its job's declaration (``workers/control/jobs.py``). Nothing heavy is imported before a verb is
chosen, and help is plain text, so ``--help`` answers at once.
"""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from syllabary.flows.commands import command_of, submit_and_print
from syllabary.workers.control.jobs import ExportJob, Job, PipelineParameters, StatusJob, TrainCodecJob, declared_jobs

if TYPE_CHECKING:
    from syllabary.shards.errors import SyllabaryError

_INTERRUPTED = 130
_WHOLE = 10_000  # no sentence is as long


class _Verbs(TyperGroup):
    """The group of all verbs: its help says the first sentence of each to its end, on as many lines as that takes."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        rows = [(name, verb.get_short_help_str(_WHOLE)) for name, verb in self.commands.items()]
        with formatter.section("Commands"):
            formatter.write_dl(rows)


app = typer.Typer(
    name="syllabary",
    cls=_Verbs,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # help in boxes waits for rich and its Markdown, a quarter of all its time
)


def _tell_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version as version_of

        typer.echo(version_of("syllabary"))
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_tell_version, is_eager=True, help="Print the version and end.")
    ] = False,
) -> None:
    """Turn a speech corpus into a reversible store of language-model-ready tokens."""


def _run(parameters: PipelineParameters) -> None:
    from syllabary.flows.run_command import run_command

    run_command(parameters)


def _train_and_export(job: TrainCodecJob) -> None:
    from syllabary.shards import store
    from syllabary.workers.control.submit import submit

    submit(job)
    submit_and_print(ExportJob(codec=job.out, out=store.join(job.out, "tokenizer")))


def _tell_status(
    job: StatusJob, as_json: Annotated[bool, typer.Option("--json", help="JSON instead of a table.")] = False
) -> None:
    from syllabary.workers.control.submit import submit

    result = submit(job)
    if as_json or not sys.stdout.isatty():
        typer.echo(json.dumps(result["outputs"], indent=2, ensure_ascii=False) if as_json else result["text"])
        return
    from syllabary.workers.operate.status_table import Status, print_table

    print_table([Status.read(values) for values in result["outputs"]])


def recipes() -> None:
    """List the recipes, a line each."""
    from syllabary.workers.recipes.named import RECIPES

    for name, make in sorted(RECIPES.items()):
        typer.echo(f"{name:<24} {(make.__doc__ or '').strip().splitlines()[0]}")


_OTHERWISE: dict[type[Job], Callable[..., None]] = {TrainCodecJob: _train_and_export, StatusJob: _tell_status}
app.command("run")(command_of(PipelineParameters, _run))
for one in declared_jobs():
    app.command(one.verb)(command_of(one, _OTHERWISE.get(one, submit_and_print)))
app.command()(recipes)


def _tell_error(error: SyllabaryError) -> None:
    """Print the error as one line, a JSON line where those are asked for; not where the job has printed it already."""
    from syllabary.shards.errors import JobError
    from syllabary.workers.control import log as job_log

    if not job_log.is_json():
        sys.stderr.write(f"error: {error}\n")
    elif not isinstance(error, JobError):
        job_log.emit("syllabary", str(error), level="error", exit_code=error.exit_code)


def main() -> None:
    """Entry point: a failure the user can act on is one line on standard error and a non-zero exit code."""
    from syllabary.shards.errors import SyllabaryError
    from syllabary.workers.control.extras import extras_told

    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # as stderr has it: a name that the locale cannot write
    try:
        with extras_told(" ".join(["syllabary", *sys.argv[1:2]])):
            app()
    except SyllabaryError as error:
        _tell_error(error)
        sys.exit(error.exit_code)
    except SystemExit as end:
        if end.code == _INTERRUPTED:  # typer makes this of Ctrl-C, without a word
            sys.stderr.write("interrupted; run the same command again to go on\n")
        raise


if __name__ == "__main__":
    main()
