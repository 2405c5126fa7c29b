"""The commands that compute nothing: plan, status, show, recipes."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from syllabary.flows.cli_options import ConfigOption, RecipeOption, SetOption, recipe_choice, submit_and_print


def plan(
    source: Annotated[str | None, typer.Argument(help="A folder of speech, to be counted.")] = None,
    hours: Annotated[float | None, typer.Option("--hours", help="Of audio, instead of SOURCE.")] = None,
    preset: Annotated[str | None, typer.Option("--preset", help="librilight-small, -medium or -large.")] = None,
    out: Annotated[str | None, typer.Option("--out", help="Folder for plan.json and plan.md.")] = None,
    run: Annotated[str | None, typer.Option("--run", help="A finished run, to compare the plan in --out with.")] = None,
    rates: Annotated[
        str | None, typer.Option("--rates", help="shard=..,pretrain=..,codec=..,adversarial=..,encode=..,decode=..")
    ] = None,
    probe_s: Annotated[float, typer.Option("--probe-s", help="Seconds of the probe, without --rates.")] = 120.0,
    stored_fraction: Annotated[float, typer.Option("--stored-fraction", help="Of the audio that is speech.")] = 1.0,
    machine: Annotated[str | None, typer.Option("--machine", help="What to call the machine.")] = None,
    cores: Annotated[int | None, typer.Option("--cores", help="In all; default this machine's.")] = None,
    gpus: Annotated[int, typer.Option("--gpus", help="In all.")] = 0,
    efficiency: Annotated[float, typer.Option("--efficiency", help="Of training on all workers.")] = 1.0,
    price_core_hour: Annotated[float, typer.Option("--price-core-hour", help="In your currency.")] = 0.0,
    price_gpu_hour: Annotated[float, typer.Option("--price-gpu-hour", help="In your currency.")] = 0.0,
    recipe: RecipeOption = "paper",
    config: ConfigOption = None,
    overrides: SetOption = None,
) -> None:
    """Predict hours, GPU-hours, bytes, tokens and cost for a corpus, and compare with a run afterwards."""
    from syllabary.workers.control.jobs import PlanJob

    values = {name: value for name, value in locals().items() if name in PlanJob.model_fields and name != "rates"}
    values |= recipe_choice(recipe, config, overrides)
    submit_and_print(PlanJob(**values, rates=_numbers("--rates", rates)))


def _numbers(option: str, text: str | None) -> dict[str, float]:
    """``a=1,b=2`` as numbers by name."""
    from syllabary.shards.errors import InputError, explain

    try:
        pairs = [part.split("=") for part in text.split(",")] if text else []
        return {name.strip(): float(number) for name, number in pairs}
    except ValueError:
        raise InputError(explain(f"{option} is not name=number,...", value=text)) from None


def status(
    uri: Annotated[str, typer.Argument(help="Any output folder: shards, a training, a tokenizer, an archive, a run.")],
    as_json: Annotated[bool, typer.Option("--json", help="JSON instead of a table.")] = False,
) -> None:
    """Say what an output folder holds, how far it is and what failed."""
    from syllabary.workers.control.jobs import StatusJob
    from syllabary.workers.control.submit import submit

    result = submit(StatusJob(uri=uri))
    typer.echo(json.dumps(result["outputs"], indent=2, ensure_ascii=False) if as_json else result["text"])


def show(
    recipe: Annotated[str, typer.Argument(help="A named recipe.")],
    config: ConfigOption = None,
    overrides: SetOption = None,
) -> None:
    """Show what a recipe is and costs: configuration, parameters by part, rates, GFLOP per audio second."""
    from syllabary.workers.control.jobs import ShowJob

    submit_and_print(ShowJob(**recipe_choice(recipe, config, overrides)))


def recipes() -> None:
    """List the recipes, a line each."""
    from syllabary.workers.recipes.recipe import RECIPES

    for name, make in sorted(RECIPES.items()):
        typer.echo(f"{name:<24} {(make.__doc__ or '').strip().splitlines()[0]}")
