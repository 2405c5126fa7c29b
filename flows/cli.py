"""``syllabary <verb>``: every verb submits its worker directly; ``run`` is the Prefect flow over all of them.

Nothing heavy is imported before a verb is chosen, so ``--help`` answers at once.
"""

from __future__ import annotations

import json
import sys
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from workers.jobs import Job

app = typer.Typer(
    name="syllabary",
    help="Turn a speech corpus into a reversible store of language-model-ready tokens.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

RecipeOption = Annotated[str, typer.Option("--recipe", help="A named recipe; `syllabary recipes` lists them.")]
ConfigOption = Annotated[str | None, typer.Option("--config", help="A YAML file laid over the recipe.")]
SetOption = Annotated[list[str] | None, typer.Option("--set", help="a.b=c, over recipe and file; may be repeated.")]
OutOption = Annotated[str, typer.Option("--out", help="Folder or s3:// URI that receives the output.")]
ShardsOption = Annotated[str, typer.Option("--shards", help="URI of shards.")]
ArchiveOption = Annotated[str, typer.Option("--archive", help="URI of a token archive.")]
TokenizerOption = Annotated[str, typer.Option("--tokenizer", help="URI of a tokenizer directory.")]
WorkersOption = Annotated[int | None, typer.Option("--workers", min=1, help="Processes; default one per core.")]
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


class DigitOrder(StrEnum):
    """Which dim of a token counts most."""

    first_most_significant = "first_most_significant"
    first_least_significant = "first_least_significant"


def _submit(job: Job) -> None:
    from workers.submit import submit

    result = submit(job)
    typer.echo(result["text"] if "text" in result else json.dumps(result, indent=2, ensure_ascii=False))


def _recipe(recipe: str, config: str | None, overrides: list[str] | None) -> dict[str, Any]:
    return {"recipe": recipe, "config": config, "overrides": tuple(overrides or ())}


@app.command()
def run(
    source: Annotated[str | None, typer.Argument(help="Folder or URI of speech; without it the demo speech.")] = None,
    out: OutOption = "runs/demo",
    recipe: RecipeOption = "tiny",
    config: ConfigOption = None,
    overrides: SetOption = None,
) -> None:
    """Run the whole pipeline: shard, train both stages, tokenize, verify, restore, summarize."""
    from flows.run_command import run_command

    run_command(source, out, **_recipe(recipe, config, overrides))


@app.command()
def shard(
    source: Annotated[str, typer.Argument(help="Folder or URI of speech.")],
    out: OutOption,
    recipe: RecipeOption = "tiny",
    config: ConfigOption = None,
    overrides: SetOption = None,
    workers: WorkersOption = None,
) -> None:
    """Shard speech into WebDataset tars with an index and a ledger."""
    from workers.jobs import ShardJob

    _submit(ShardJob(source=source, out=out, num_workers=workers, **_recipe(recipe, config, overrides)))


@app.command()
def pretrain(
    shards: ShardsOption,
    out: OutOption,
    recipe: RecipeOption = "tiny",
    config: ConfigOption = None,
    overrides: SetOption = None,
) -> None:
    """Stage 1: train the JEPA encoder."""
    from workers.jobs import PretrainJob

    _submit(PretrainJob(shards=shards, out=out, **_recipe(recipe, config, overrides)))


@app.command("train-codec")
def train_codec(
    shards: ShardsOption,
    encoder: Annotated[str, typer.Option("--encoder", help="URI of a stage-1 run.")],
    out: OutOption,
    recipe: RecipeOption = "tiny",
    config: ConfigOption = None,
    overrides: SetOption = None,
) -> None:
    """Stage 2: train FSQ and decoder, and export the tokenizer directory to OUT/tokenizer."""
    from shards import store
    from workers.jobs import ExportJob, TrainCodecJob
    from workers.submit import submit

    submit(TrainCodecJob(shards=shards, encoder=encoder, out=out, **_recipe(recipe, config, overrides)))
    _submit(ExportJob(codec=out, out=store.join(out, "tokenizer")))


@app.command()
def tokenize(
    shards: ShardsOption, tokenizer: TokenizerOption, archive: ArchiveOption, workers: WorkersOption = None
) -> None:
    """Tokenize the shards that the archive does not hold yet, each exactly once."""
    from workers.jobs import TokenizeJob

    _submit(TokenizeJob(shards=shards, tokenizer=tokenizer, archive=archive, num_workers=workers))


@app.command()
def verify(
    archive: ArchiveOption,
    shards: Annotated[str | None, typer.Option("--shards", help="Check coverage of these shards too.")] = None,
) -> None:
    """Check every byte of an archive; damage is named and the exit code is 1."""
    from workers.jobs import VerifyJob

    _submit(VerifyJob(archive=archive, shards=shards))


@app.command()
def restore(
    archive: ArchiveOption,
    tokenizer: TokenizerOption,
    out: OutOption,
    where: Annotated[str | None, typer.Option("--where", help="Expression over columns: \"speaker='19'\".")] = None,
    ids: Annotated[list[str] | None, typer.Option("--id", help="An utterance id; may be repeated.")] = None,
    recording: Annotated[str | None, typer.Option("--recording", help="One recording, joined in time.")] = None,
    start_s: Annotated[float | None, typer.Option("--start", help="From this second of the recording.")] = None,
    end_s: Annotated[float | None, typer.Option("--end", help="To this second of the recording.")] = None,
    join: Annotated[bool, typer.Option("--join", help="Whole recordings instead of utterances.")] = False,
    limit: Annotated[int | None, typer.Option("--limit", min=1, help="At most so many utterances.")] = None,
    audio_format: Annotated[AudioFormat, typer.Option("--format", help="Of the restored files.")] = AudioFormat.flac,
) -> None:
    """Give the audio back: all of it, or what an expression, an id or a time range selects."""
    from workers.jobs import RestoreJob

    _submit(
        RestoreJob(
            archive=archive,
            tokenizer=tokenizer,
            out=out,
            where=where,
            ids=tuple(ids or ()),
            recording=recording,
            start_s=start_s,
            end_s=end_s,
            join=join,
            limit=limit,
            audio_format=audio_format.value,
        )
    )


@app.command()
def pack(
    archive: ArchiveOption,
    out: OutOption,
    block_size: Annotated[int, typer.Option("--block-size", help="Ids a block.")] = 2048,
    document: Annotated[DocumentUnit, typer.Option("--document", help="What separators divide.")] = (
        DocumentUnit.recording
    ),
    output_format: Annotated[BlockFormat, typer.Option("--format", help="Of the blocks.")] = BlockFormat.parquet,
    seed: Annotated[int, typer.Option("--seed", help="Of the shuffle.")] = 0,
) -> None:
    """Pack tokens into fixed blocks to train language models from."""
    from workers.jobs import PackJob

    _submit(
        PackJob(
            archive=archive,
            out=out,
            block_size=block_size,
            document=document.value,
            output_format=output_format.value,
            seed=seed,
        )
    )


@app.command()
def repack(
    archive: ArchiveOption,
    out: Annotated[str | None, typer.Option("--out", help="The new archive; without it only the figures.")] = None,
    group_size: Annotated[int, typer.Option("--group-size", help="Dims a token.")] = 7,
    digit_order: Annotated[DigitOrder, typer.Option("--digit-order", help="Of the dims in a token.")] = (
        DigitOrder.first_most_significant
    ),
) -> None:
    """Change group size or digit order without encoding again, and show what each choice costs."""
    from workers.jobs import RepackJob

    _submit(RepackJob(archive=archive, out=out, group_size=group_size, digit_order=digit_order.value))


@app.command()
def salient(
    archive: ArchiveOption,
    top: Annotated[str, typer.Option("--top", help="Share of the frames: 5%.")] = "5%",
    where: Annotated[str | None, typer.Option("--where", help="Expression over columns.")] = None,
    out: Annotated[str | None, typer.Option("--out", help="A Parquet file that receives all spans.")] = None,
) -> None:
    """List the time spans of highest salience without decoding audio."""
    from shards.errors import InputError, explain
    from workers.jobs import SalientJob

    try:
        top_percent = float(top.removesuffix("%"))
    except ValueError:
        raise InputError(explain("--top is no percentage", value=top, expected="5% or 5")) from None
    _submit(SalientJob(archive=archive, top_percent=top_percent, where=where, out=out))


@app.command()
def evaluate(
    tokenizer: TokenizerOption,
    shards: ShardsOption,
    out: OutOption,
    limit: Annotated[int | None, typer.Option("--limit", min=1, help="Utterances, spread over speakers.")] = None,
    metrics: Annotated[str | None, typer.Option("--metrics", help="Only these, with commas between.")] = None,
    splits: Annotated[str, typer.Option("--splits", help="Of the shards, with commas between.")] = "valid,test",
    transcripts: Annotated[str | None, typer.Option("--transcripts", help="Table of what is said (TSV).")] = None,
    peers: Annotated[list[str] | None, typer.Option("--peer", help="NAME=DIR of a local checkpoint.")] = None,
    num_samples: Annotated[int, typer.Option("--samples", min=0, help="Utterances to listen to.")] = 8,
    num_probes: Annotated[int, typer.Option("--probes", min=0, help="Utterances to disturb in every way.")] = 8,
    cost: Annotated[bool, typer.Option("--cost/--no-cost", help="Measure time and memory.")] = True,
    workers: WorkersOption = None,
) -> None:
    """Measure a tokenizer on held-out speech beside baselines, and write its report card."""
    from workers.jobs import EvaluateJob

    _submit(
        EvaluateJob.model_validate(
            {
                "tokenizer": tokenizer,
                "shards": shards,
                "out": out,
                "limit": limit,
                "metrics": tuple(name for name in (metrics or "").split(",") if name),
                "splits": tuple(splits.split(",")),
                "transcripts": transcripts,
                "peers": tuple(peers or ()),
                "num_samples": num_samples,
                "num_probes": num_probes,
                "measure_cost": cost,
                "num_workers": workers,
            }
        )
    )


@app.command()
def compare(
    before: Annotated[str, typer.Argument(help="Report of the tokenizer in use.")],
    after: Annotated[str, typer.Argument(help="Report of the new one.")],
    tolerances: Annotated[
        list[str] | None, typer.Option("--tolerance", help="metric=x: worse by x is no regression.")
    ] = None,
) -> None:
    """Print what differs between two reports by more than chance; a regression ends with exit code 1."""
    from workers.jobs import CompareJob

    _submit(CompareJob(before=before, after=after, tolerances=tuple(tolerances or ())))


@app.command()
def encode(
    files: Annotated[list[str], typer.Argument(help="Audio files.")],
    tokenizer: TokenizerOption,
    out: Annotated[str | None, typer.Option("--out", help="Folder for the token files; default beside each.")] = None,
    device: DeviceOption = "cpu",
) -> None:
    """Turn audio files into token files."""
    from workers.jobs import EncodeJob

    _submit(EncodeJob(files=tuple(files), tokenizer=tokenizer, out=out, device=device))


@app.command()
def decode(
    files: Annotated[list[str], typer.Argument(help="Token files.")],
    tokenizer: TokenizerOption,
    out: Annotated[str | None, typer.Option("--out", help="Folder for the audio files; default beside each.")] = None,
    audio_format: Annotated[AudioFormat, typer.Option("--format", help="Of the audio files.")] = AudioFormat.wav,
    device: DeviceOption = "cpu",
) -> None:
    """Turn token files back into audio files."""
    from workers.jobs import DecodeJob

    _submit(DecodeJob(files=tuple(files), tokenizer=tokenizer, out=out, audio_format=audio_format.value, device=device))


@app.command()
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
    from workers.jobs import PlanJob

    values = {name: value for name, value in locals().items() if name in PlanJob.model_fields and name != "rates"}
    values |= _recipe(recipe, config, overrides)
    _submit(PlanJob(**values, rates=_numbers("--rates", rates)))


def _numbers(option: str, text: str | None) -> dict[str, float]:
    """``a=1,b=2`` as numbers by name."""
    from shards.errors import InputError, explain

    try:
        pairs = [part.split("=") for part in text.split(",")] if text else []
        return {name.strip(): float(number) for name, number in pairs}
    except ValueError:
        raise InputError(explain(f"{option} is not name=number,...", value=text)) from None


@app.command()
def status(
    uri: Annotated[str, typer.Argument(help="Any output folder: shards, a training, a tokenizer, an archive, a run.")],
    as_json: Annotated[bool, typer.Option("--json", help="JSON instead of a table.")] = False,
) -> None:
    """Say what an output folder holds, how far it is and what failed."""
    from workers.jobs import StatusJob
    from workers.submit import submit

    result = submit(StatusJob(uri=uri))
    typer.echo(json.dumps(result["outputs"], indent=2, ensure_ascii=False) if as_json else result["text"])


@app.command()
def report(
    uri: Annotated[str, typer.Argument(help="URI of an evaluation's report.")],
    out: Annotated[str | None, typer.Option("--out", help="The file to write; default its own report.html.")] = None,
    max_sound_mb: Annotated[float, typer.Option("--max-sound-mb", min=0, help="Sound that the page carries.")] = 12.0,
) -> None:
    """Render the page of an evaluation again, smaller or elsewhere, without measuring anything."""
    from workers.jobs import PageJob

    _submit(PageJob(report=uri, out=out, max_sound_mb=max_sound_mb))


@app.command()
def show(
    recipe: Annotated[str, typer.Argument(help="A named recipe.")],
    config: ConfigOption = None,
    overrides: SetOption = None,
) -> None:
    """Show what a recipe is and costs: configuration, parameters by part, rates, GFLOP per audio second."""
    from workers.jobs import ShowJob

    _submit(ShowJob(**_recipe(recipe, config, overrides)))


@app.command()
def recipes() -> None:
    """List the recipes, a line each."""
    from workers.recipes import RECIPES

    for name, make in sorted(RECIPES.items()):
        typer.echo(f"{name:<24} {(make.__doc__ or '').strip().splitlines()[0]}")


def main() -> None:
    """Entry point: a failure the user can act on is one line on standard error and a non-zero exit code."""
    from pydantic import ValidationError

    from shards.errors import SyllabaryError

    try:
        app()
    except SyllabaryError as error:
        sys.stderr.write(f"error: {error}\n")
        sys.exit(error.exit_code)
    except ValidationError as error:
        first = error.errors()[0]
        where = "--" + ".".join(str(part) for part in first["loc"]).replace("_", "-")
        sys.stderr.write(f"error: {where}: {first['msg']}: {first['input']!r}\n")
        sys.exit(2)
    except KeyboardInterrupt:
        sys.stderr.write("interrupted; run the same command again to go on\n")
        sys.exit(130)


if __name__ == "__main__":
    main()
