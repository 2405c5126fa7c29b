"""``syllabary <verb>``: every verb submits its worker directly; ``run`` is the Prefect flow over all of them.

Nothing heavy is imported before a verb is chosen, so ``--help`` answers at once.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from syllabary.flows import operator_verbs
from syllabary.flows.cli_options import (
    ArchiveOption,
    AudioFormat,
    BlockFormat,
    BlockSplits,
    ConfigOption,
    DeviceOption,
    DigitOrder,
    DocumentUnit,
    InitOption,
    OutOption,
    RecipeOption,
    SetOption,
    ShardsOption,
    TokenizerOption,
    WorkersOption,
    recipe_choice,
    submit_and_print,
)

if TYPE_CHECKING:
    from syllabary.shards.errors import SyllabaryError

_INTERRUPTED = 130
app = typer.Typer(
    name="syllabary",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def _tell_version(wanted: bool) -> None:
    if wanted:
        from syllabary import __version__

        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_tell_version, is_eager=True, help="Print the version and end.")
    ] = False,
) -> None:
    """Turn a speech corpus into a reversible store of language-model-ready tokens."""


@app.command()
def run(
    source: Annotated[str | None, typer.Argument(help="Folder or URI of speech; without it the demo speech.")] = None,
    out: OutOption = "runs/demo",
    recipe: RecipeOption = "tiny",
    config: ConfigOption = None,
    overrides: SetOption = None,
) -> None:
    """Run the whole pipeline: shard, train both stages, tokenize, verify, restore, summarize."""
    from syllabary.flows.run_command import run_command

    run_command(source, out, **recipe_choice(recipe, config, overrides))


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
    from syllabary.workers.control.jobs import ShardJob

    submit_and_print(ShardJob(source=source, out=out, num_workers=workers, **recipe_choice(recipe, config, overrides)))


@app.command()
def pretrain(
    shards: ShardsOption,
    out: OutOption,
    init: InitOption = "none",
    recipe: RecipeOption = "tiny",
    config: ConfigOption = None,
    overrides: SetOption = None,
) -> None:
    """Stage 1: train the JEPA encoder."""
    from syllabary.workers.control.jobs import PretrainJob

    submit_and_print(PretrainJob(shards=shards, out=out, init=init, **recipe_choice(recipe, config, overrides)))


@app.command("train-codec")
def train_codec(
    shards: ShardsOption,
    out: OutOption,
    encoder: Annotated[str, typer.Option("--encoder", help="URI of a stage-1 run; none begins untrained.")] = "none",
    init: InitOption = "none",
    recipe: RecipeOption = "tiny",
    config: ConfigOption = None,
    overrides: SetOption = None,
) -> None:
    """Stage 2: train FSQ and decoder, and export the tokenizer directory to OUT/tokenizer."""
    from syllabary.shards import store
    from syllabary.workers.control.jobs import ExportJob, TrainCodecJob
    from syllabary.workers.control.submit import submit

    choice = recipe_choice(recipe, config, overrides)
    submit(TrainCodecJob(shards=shards, encoder=encoder, init=init, out=out, **choice))
    submit_and_print(ExportJob(codec=out, out=store.join(out, "tokenizer")))


@app.command()
def tokenize(
    shards: ShardsOption, tokenizer: TokenizerOption, archive: ArchiveOption, workers: WorkersOption = None
) -> None:
    """Tokenize the shards that the archive does not hold yet, each exactly once."""
    from syllabary.workers.control.jobs import TokenizeJob

    submit_and_print(TokenizeJob(shards=shards, tokenizer=tokenizer, archive=archive, num_workers=workers))


@app.command()
def verify(
    archive: ArchiveOption,
    shards: Annotated[str | None, typer.Option("--shards", help="Check coverage of these shards too.")] = None,
    only_new: Annotated[bool, typer.Option("--new", help="Only parts that no earlier run with --new found intact.")] = (
        False
    ),
) -> None:
    """Check every byte of an archive; damage is named and the exit code is 2."""
    from syllabary.workers.control.jobs import VerifyJob

    submit_and_print(VerifyJob(archive=archive, shards=shards, only_new=only_new))


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
    workers: Annotated[int, typer.Option("--workers", min=1, help="Processes; above 1 over Ray.")] = 1,
) -> None:
    """Give the audio back: all of it, or what an expression, an id or a time range selects."""
    from syllabary.workers.control.jobs import RestoreJob

    submit_and_print(
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
            num_workers=workers,
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
    splits: Annotated[BlockSplits, typer.Option("--splits", help="The archive's, or new ones by speaker.")] = (
        BlockSplits.archive
    ),
    seed: Annotated[int, typer.Option("--seed", help="Of the shuffle.")] = 0,
) -> None:
    """Pack tokens into fixed blocks to train language models from."""
    from syllabary.workers.control.jobs import PackJob

    submit_and_print(
        PackJob(
            archive=archive,
            out=out,
            block_size=block_size,
            document=document.value,
            output_format=output_format.value,
            splits=splits.value,
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
    from syllabary.workers.control.jobs import RepackJob

    submit_and_print(RepackJob(archive=archive, out=out, group_size=group_size, digit_order=digit_order.value))


@app.command()
def salient(
    archive: ArchiveOption,
    top: Annotated[str, typer.Option("--top", help="Share of the frames: 5%.")] = "5%",
    where: Annotated[str | None, typer.Option("--where", help="Expression over columns.")] = None,
    out: Annotated[str | None, typer.Option("--out", help="A Parquet file that receives all spans.")] = None,
) -> None:
    """List the time spans of highest salience without decoding audio."""
    from syllabary.shards.errors import InputError, explain
    from syllabary.workers.control.jobs import SalientJob

    try:
        top_percent = float(top.removesuffix("%"))
    except ValueError:
        raise InputError(explain("--top is no percentage", value=top, expected="5% or 5")) from None
    submit_and_print(SalientJob(archive=archive, top_percent=top_percent, where=where, out=out))


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
    from syllabary.workers.control.jobs import EvaluateJob

    submit_and_print(
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
    from syllabary.workers.control.jobs import CompareJob

    submit_and_print(CompareJob(before=before, after=after, tolerances=tuple(tolerances or ())))


@app.command()
def encode(
    files: Annotated[list[str], typer.Argument(help="Audio files.")],
    tokenizer: TokenizerOption,
    out: Annotated[str | None, typer.Option("--out", help="Folder for the token files; default beside each.")] = None,
    device: DeviceOption = "cpu",
) -> None:
    """Turn audio files into token files."""
    from syllabary.workers.control.jobs import EncodeJob

    submit_and_print(EncodeJob(files=tuple(files), tokenizer=tokenizer, out=out, device=device))


@app.command()
def decode(
    files: Annotated[list[str], typer.Argument(help="Token files.")],
    tokenizer: TokenizerOption,
    out: Annotated[str | None, typer.Option("--out", help="Folder for the audio files; default beside each.")] = None,
    audio_format: Annotated[AudioFormat, typer.Option("--format", help="Of the audio files.")] = AudioFormat.wav,
    device: DeviceOption = "cpu",
) -> None:
    """Turn token files back into audio files."""
    from syllabary.workers.control.jobs import DecodeJob

    submit_and_print(
        DecodeJob(files=tuple(files), tokenizer=tokenizer, out=out, audio_format=audio_format.value, device=device)
    )


@app.command()
def report(
    uri: Annotated[str, typer.Argument(help="URI of an evaluation's report.")],
    out: Annotated[str | None, typer.Option("--out", help="The file to write; default its own report.html.")] = None,
    max_sound_mb: Annotated[float, typer.Option("--max-sound-mb", min=0, help="Sound that the page carries.")] = 12.0,
) -> None:
    """Render the page of an evaluation again, smaller or elsewhere, without measuring anything."""
    from syllabary.workers.control.jobs import PageJob

    submit_and_print(PageJob(report=uri, out=out, max_sound_mb=max_sound_mb))


for verb in (operator_verbs.plan, operator_verbs.status, operator_verbs.show, operator_verbs.recipes):
    app.command()(verb)


def _tell_error(error: SyllabaryError) -> None:
    """One line; among JSON lines one of them, unless the job has told it already."""
    from syllabary.shards.errors import JobError
    from syllabary.workers.control import log as job_log

    if not job_log.is_json():
        sys.stderr.write(f"error: {error}\n")
    elif not isinstance(error, JobError):
        job_log.emit("syllabary", str(error), level="error", exit_code=error.exit_code)


def main() -> None:
    """Entry point: a failure the user can act on is one line on standard error and a non-zero exit code."""
    from pydantic import ValidationError

    from syllabary.shards.errors import SyllabaryError

    try:
        app()
    except SyllabaryError as error:
        _tell_error(error)
        sys.exit(error.exit_code)
    except ValidationError as error:
        first = error.errors()[0]
        where = "--" + ".".join(str(part) for part in first["loc"]).replace("_", "-")
        sys.stderr.write(f"error: {where}: {first['msg']}: {first['input']!r}\n")
        sys.exit(2)
    except SystemExit as end:
        if end.code == _INTERRUPTED:  # typer makes this of Ctrl-C, without a word
            sys.stderr.write("interrupted; run the same command again to go on\n")
        raise


if __name__ == "__main__":
    main()
