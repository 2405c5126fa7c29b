"""What several commands share: their options, and how a job is submitted and its result printed."""

from __future__ import annotations

import json
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from syllabary.workers.control.jobs import Job

RecipeOption = Annotated[str, typer.Option("--recipe", help="A named recipe; `syllabary recipes` lists them.")]
ConfigOption = Annotated[str | None, typer.Option("--config", help="A YAML file laid over the recipe.")]
SetOption = Annotated[list[str] | None, typer.Option("--set", help="a.b=c, over recipe and file; may be repeated.")]
OutOption = Annotated[str, typer.Option("--out", help="Folder or s3:// URI that receives the output.")]
ShardsOption = Annotated[str, typer.Option("--shards", help="URI of shards.")]
ArchiveOption = Annotated[str, typer.Option("--archive", help="URI of a token archive.")]
TokenizerOption = Annotated[str, typer.Option("--tokenizer", help="URI of a tokenizer directory.")]
WorkersOption = Annotated[int | None, typer.Option("--workers", min=1, help="Processes; default one per core.")]
InitOption = Annotated[
    str, typer.Option("--init", help="URI of a tokenizer or a complete run whose weights to begin with, or none.")
]
DeviceOption = Annotated[str, typer.Option("--device", help="cpu, cuda, cuda:1, ...")]


class AudioFormat(StrEnum):
    """What audio is written as."""

    flac = "flac"
    wav = "wav"


class DocumentUnit(StrEnum):
    """What a packed document is."""

    recording = "recording"
    utterance = "utterance"


class BlockFormat(StrEnum):
    """What blocks are written as."""

    parquet = "parquet"
    megatron = "megatron"


class BlockSplits(StrEnum):
    """Whose splits blocks have."""

    archive = "archive"
    speaker = "speaker"


class DigitOrder(StrEnum):
    """Which dim of a token counts most."""

    first_most_significant = "first_most_significant"
    first_least_significant = "first_least_significant"


def submit_and_print(job: Job) -> None:
    """Run a job to its end and print its text, or its result as JSON."""
    from syllabary.workers.control.submit import submit

    result = submit(job)
    typer.echo(result["text"] if "text" in result else json.dumps(result, indent=2, ensure_ascii=False))


def recipe_choice(recipe: str, config: str | None, overrides: list[str] | None) -> dict[str, Any]:
    """The three options that choose a recipe, as jobs take them."""
    return {"recipe": recipe, "config": config, "overrides": tuple(overrides or ())}
