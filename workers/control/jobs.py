"""The jobs: the one declaration of every verb. Free of torch and ray.

A job is a frozen value of URIs, a recipe and a few numbers, never data. Its class names the verb and the function that
does it; its docstring and its fields (type, default, description) make the command, Prefect's form and the page
docs/commands.md: a parameter is added here and nowhere else. ``python -m syllabary.workers VERB '<json>'`` runs a job,
wherever one stands; the last line that it prints to standard output is ``syllabary-result: <json>``.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from syllabary.shards.ingest.layouts import Layout
from syllabary.workers.control.declaration import Shown
from syllabary.workers.control.job import (
    Archive,
    Archives,
    AudioFormat,
    Beside,
    Blocks,
    Device,
    EncoderRun,
    Encoding,
    Job,
    LanguageModel,
    Limit,
    MaxQuarantined,
    Metrics,
    NumWorkers,
    OnlyNew,
    Out,
    Shards,
    Source,
    StoragePatience,
    Tokenizer,
    Tolerances,
    Transcripts,
    Where,
)
from syllabary.workers.recipes import shipped

RESULT_PREFIX = "syllabary-result: "
PARENT_VARIABLE = "SYLLABARY_PARENT_PID"
ON_STANDARD_INPUT = "-"  # in place of the JSON
LONGEST_ARGUMENT = 100_000  # bytes; Linux starts no process with one above 128 KiB


def declared_jobs() -> list[type[Job]]:
    """Every kind of job of this file, in its order."""
    kinds = [value for value in globals().values() if isinstance(value, type) and issubclass(value, Job)]
    return [job for job in kinds if "verb" in vars(job)]


class RecipeParameters(BaseModel):
    """What chooses a recipe: its name, a YAML file over it, ``a.b=c`` over both."""

    model_config = ConfigDict(defer_build=True)
    recipe: Annotated[str, Shown(names_recipe=True)] = Field(
        default="tiny",
        description="A named configuration; `syllabary show NAME` says what it is and costs.",
    )
    config: Annotated[str | None, Shown(uri="s3://bucket/recipes/mine.yaml")] = Field(
        default=None, description="URI of a YAML file laid over the recipe."
    )
    overrides: Annotated[tuple[str, ...], Shown(option="--set")] = Field(
        default=(), description="key=value, over recipe and file.", examples=[["pretrain.num_steps=1000"]]
    )


class PipelineParameters(RecipeParameters):
    """Run the whole pipeline: shard, train both stages, tokenize, verify, restore, summarize."""

    recipe: Annotated[str, Shown(names_recipe=True)] = Field(
        default=shipped.demo_recipe(),
        description="A named configuration; `syllabary show NAME` says what it is and costs.",
    )
    source: Annotated[str | None, Shown(positional=True, uri="s3://bucket/speech")] = Field(
        default=None, description="Folder or URI of speech; empty for the demo speech."
    )
    out: Annotated[str, Shown(uri="s3://bucket/run")] = Field(
        default="runs/demo", description="Folder or URI that receives every stage."
    )
    num_restored: Annotated[int, Shown(option="--restored")] = Field(
        default=8, ge=1, description="How many held-out utterances are restored to listen to."
    )
    init: Annotated[str | None, Shown(uri="s3://bucket/run/tokenizer")] = Field(
        default=None,
        description="URI of a tokenizer (builtin:NAME) or a complete run that both trainings begin with, or none; "
        "empty for what the recipe is made for.",
    )

    @property
    def begins_with(self) -> str:
        """``init``, or what the recipe begins with by default."""
        return self.init or shipped.beginning_of(self.recipe)


class RecipeJob(Job, RecipeParameters):
    """A job that needs a recipe."""


class ShardJob(RecipeJob):
    """Shard speech into WebDataset tars with an index and a ledger; what is there already stays as it is.

    Title, licence and origin go into the cards of every archive and of all blocks made from the shards.
    """

    verb: ClassVar[str] = "shard"
    runs: ClassVar[str] = "ingest.write_shards:write_shards"
    extras: ClassVar[tuple[str, ...]] = ("train",)
    source: Source
    out: Out
    num_workers: NumWorkers = None
    layout: Layout | None = Field(
        default=None, description="What the source is; by default what the recipe says: recognized by its content."
    )
    hold_out: Literal["as_configured", "recordings_if_no_speaker"] = Field(
        default="as_configured",
        description="What to do where no speaker falls into the valid split: nothing, or split by recording.",
    )
    title: str = Field(default="", description="What the corpus is called; empty for unnamed.")
    licence: str = Field(default="", description="Licence of the speech, CC-BY-4.0 or a URL; empty for not stated.")
    origin: str = Field(default="", description="Where the speech comes from, a URL or words; empty for not stated.")


class PretrainJob(RecipeJob):
    """Stage 1: train the JEPA encoder; a run cut short goes on from its newest whole checkpoint."""

    verb: ClassVar[str] = "pretrain"
    runs: ClassVar[str] = "training.stages:pretrain"
    extras: ClassVar[tuple[str, ...]] = ("train",)
    shards: Shards
    out: Out
    init: Annotated[str, Shown(uri="s3://bucket/run/tokenizer")] = Field(
        default=shipped.NOTHING,
        description="URI of a tokenizer (builtin:NAME) or a complete run whose encoder to begin with, or none.",
    )


class TrainCodecJob(RecipeJob):
    """Stage 2: train FSQ and decoder for the encoder of a stage-1 run; the command exports to OUT/tokenizer.

    Without ``encoder`` the method has to train the encoder itself, or ``init`` to bring one.
    """

    verb: ClassVar[str] = "train-codec"
    runs: ClassVar[str] = "training.stages:train_codec"
    extras: ClassVar[tuple[str, ...]] = ("train",)
    shards: Shards
    encoder: EncoderRun = "none"
    out: Out
    init: Annotated[str, Shown(uri="s3://bucket/run/tokenizer")] = Field(
        default=shipped.NOTHING,
        description="URI of a tokenizer (builtin:NAME) or a complete stage-2 run to begin with, or none.",
    )


class ExportJob(Job):
    """Write the tokenizer directory of a stage-2 run, or a tokenizer as graphs that run without this package.

    Graphs are ONNX, with a reader beside them that needs numpy and onnxruntime alone, or torch's own.
    """

    verb: ClassVar[str] = "export"
    runs: ClassVar[str] = "training.export:export"
    codec: Annotated[str | None, Shown(uri="s3://bucket/run/codec")] = Field(
        default=None, description="URI of the stage-2 run; empty for graphs of --tokenizer."
    )
    tokenizer: Annotated[str | None, Shown(uri="s3://bucket/run/tokenizer")] = Field(
        default=None, description="URI of the tokenizer (builtin:NAME) to write as graphs; empty for --codec."
    )
    out: Out
    output_format: Annotated[Literal["directory", "onnx", "torch"], Shown(option="--format")] = Field(
        default="directory", description="A tokenizer directory, or graphs for onnxruntime or torch.export."
    )
    dtype: Literal["float32", "float16", "bfloat16"] = Field(
        default="float32",
        description="What weights are stored as. They are rounded before the digests are taken; fp32 computes.",
    )


class TokenizeJob(Job):
    """Tokenize the shards that the archive does not hold yet, each exactly once."""

    verb: ClassVar[str] = "tokenize"
    runs: ClassVar[str] = "archive.tokenize_shards:tokenize"
    extras: ClassVar[tuple[str, ...]] = ("train",)
    shards: Shards
    tokenizer: Tokenizer
    archive: Archive
    num_workers: NumWorkers = None
    storage_patience_s: StoragePatience = 300.0
    max_quarantined_percent: MaxQuarantined = 5.0
    encoding: Encoding = "plain"
    with_tokenizer: bool = Field(
        default=False, description="Put the tokenizer's weights beside the tokens, so that the archive can be played."
    )


class VerifyJob(Job):
    """Check every byte of an archive; damage is named, and a command ends with exit code 2.

    Outcome, date and agent go into the archive's log of events, in PREMIS's terms.
    """

    verb: ClassVar[str] = "verify"
    runs: ClassVar[str] = "archive.verify:verify"
    archive: Archive
    shards: Annotated[str | None, Shown(uri="s3://bucket/run/shards")] = Field(
        default=None, description="URI of the shards that the archive has to cover; empty for the archive alone."
    )
    only_new: OnlyNew = False
    expect: str | None = Field(
        default=None,
        description="Archive digest that an earlier check printed and that was kept elsewhere; empty for none.",
    )
    log_event: Annotated[bool, Shown(option="--log/--no-log")] = Field(
        default=True, description="Write the outcome into the archive's folder, events/."
    )


class RestoreJob(Job):
    """Give the audio back: all of it, or what an expression, ids and a time range select together.

    Joined recordings have each utterance at its own place in time and silence between.
    """

    verb: ClassVar[str] = "restore"
    runs: ClassVar[str] = "archive.restore:restore"
    archive: Archive
    tokenizer: Tokenizer
    out: Out
    where: Where = None
    ids: Annotated[tuple[str, ...], Shown(option="--id")] = Field(
        default=(), description="Ids of utterances; empty for all."
    )
    recording: str | None = Field(default=None, description="One recording, joined in time and cut to the time range.")
    start_s: Annotated[float | None, Shown(option="--start")] = Field(
        default=None, ge=0, allow_inf_nan=False, description="From this second of the recording."
    )
    end_s: Annotated[float | None, Shown(option="--end")] = Field(
        default=None, gt=0, allow_inf_nan=False, description="To this second of the recording."
    )
    join: Annotated[bool, Shown(option="--join")] = Field(
        default=False, description="Whole recordings instead of utterances."
    )
    limit: int | None = Field(default=None, ge=1, description="At most so many utterances.")
    audio_format: AudioFormat = "flac"
    num_workers: Annotated[int, Shown(option="--workers")] = Field(
        default=1, ge=1, description="Processes; above 1 the shards are spread over Ray."
    )

    @property
    def joins_recordings(self) -> bool:
        """Whether whole recordings are restored."""
        return self.join or self.recording is not None


class BagJob(Job):
    """Copy an output folder into a BagIt bag: what archives hand one another, a checksum of every file in it."""

    verb: ClassVar[str] = "bag"
    runs: ClassVar[str] = "archive.bag:bag"
    folder: Annotated[str, Shown(positional=True, uri="s3://bucket/run/archive")] = Field(
        description="URI of an archive, of blocks, of restored audio."
    )
    out: Out


class PackJob(Job):
    """Pack tokens into what language models are trained from: fixed blocks, or documents in other trainers' formats.

    Memory follows from ``part_mb`` alone; tokens are sorted below ``TMPDIR``, which needs about the archive's size.
    """

    verb: ClassVar[str] = "pack"
    runs: ClassVar[str] = "archive.pack:pack"
    archive: Archives
    out: Out
    weights: Annotated[tuple[float, ...], Shown(option="--weight")] = Field(
        default=(), description="How often the documents of each archive come, 2.5 or so; empty for once each."
    )
    where: Where = None
    block_size: int = Field(default=2048, ge=2, description="Ids per block.")
    layout: Literal["stream", "frames", "whole"] = Field(
        default="stream",
        description="Blocks are cut where they are full, at a frame, or so that no document is cut (best fit).",
    )
    ends: Literal["separator", "begin_end"] = Field(
        default="separator",
        description="A separator before each document, or a begin id before and an end id after it.",
    )
    mark_gaps_s: Annotated[float | None, Shown(option="--mark-gaps")] = Field(
        default=None,
        ge=0,
        description="Put the gap id where so many seconds pass inside a document; empty for nowhere.",
    )
    id_offset: int | None = Field(
        default=None, ge=0, description="The first token's id; empty for 0, or for the first behind the text's."
    )
    interleave: Literal["none", "text_to_speech", "speech_to_text", "both"] = Field(
        default="none", description="Text beside the speech of each utterance, before it, after it, or once each way."
    )
    text_tokenizer: Annotated[str | None, Shown(uri="s3://bucket/tokenizer.json")] = Field(
        default=None, description="URI of the tokenizer.json that the text's ids are of."
    )
    document: Literal["recording", "utterance"] = Field(default="recording", description="What separators divide.")
    output_format: Annotated[
        Literal["parquet", "megatron", "datatrove", "webdataset", "lhotse"], Shown(option="--format")
    ] = Field(
        default="parquet",
        description="Blocks as parquet or webdataset; documents as megatron or datatrove; utterances as lhotse's Shar.",
    )
    splits: Literal["archive", "speaker"] = Field(
        default="archive",
        description="The archive's splits, refusing a speaker that is in two, or new ones by speaker.",
    )
    valid_percent: float = Field(default=2.0, ge=0, le=50, description="Of the speakers, with new splits.")
    test_percent: float = Field(default=2.0, ge=0, le=50, description="Of the speakers, with new splits.")
    seed: int = Field(default=0, description="Of the shuffle.")
    part_mb: float = Field(
        default=16.0, gt=0, description="Of the archive, in one part of the output and in memory at once."
    )


class LmTrainJob(Job):
    """Train a small language model on blocks of tokens; a run cut short goes on from its newest whole checkpoint."""

    verb: ClassVar[str] = "lm-train"
    runs: ClassVar[str] = "lm.train:lm_train"
    extras: ClassVar[tuple[str, ...]] = ("train", "lm")
    blocks: Blocks
    out: Out
    hidden_size: int = Field(default=256, ge=8, description="Width of the model.")
    num_layers: int = Field(default=6, ge=1, description="Layers of the model.")
    num_heads: int = Field(default=4, ge=1, description="Heads of its attention.")
    num_steps: int = Field(default=2000, ge=1, description="Optimizer steps.")
    batch_size: int = Field(default=8, ge=1, description="Blocks of one step, over all workers.")
    learning_rate: float = Field(default=1e-3, gt=0, description="The highest, after the warm-up.")
    warmup_steps: int = Field(default=100, ge=0, description="Steps until then.")
    checkpoint_every: int = Field(default=200, ge=1, description="Steps between two checkpoints.")
    shuffled: bool = Field(
        default=False,
        description="A control: tokens of each place in another order, so that only their frequency is left.",
    )
    seed: int = Field(default=0, description="Of weights and order.")
    num_workers: Annotated[int, Shown(option="--workers")] = Field(default=1, ge=1, description="Ranks.")
    threads_per_worker: Annotated[int, Shown(option="--threads")] = Field(
        default=1, ge=1, description="Threads of each rank."
    )
    device: Literal["auto", "cpu", "cuda"] = Field(default="auto", description="What the ranks train on.")


class LmEvalJob(Job):
    """Say how many bits per second a language model needs for held-out speech, beside payload and entropies."""

    verb: ClassVar[str] = "lm-eval"
    runs: ClassVar[str] = "lm.evaluate:lm_eval"
    extras: ClassVar[tuple[str, ...]] = ("lm",)
    model: LanguageModel
    blocks: Blocks
    out: Annotated[str | None, Shown(uri="s3://bucket/lm-eval")] = Field(
        default=None, description="URI of a folder that receives lm.json; empty for none."
    )
    split: Literal["train", "valid", "test"] = Field(default="valid", description="Split of the blocks.")
    limit: int | None = Field(default=None, ge=1, description="At most so many blocks; empty for all.")
    batch_size: int = Field(default=8, ge=1, description="Blocks at once.")
    seed: int = Field(default=0, description="Of the order, where there is a limit.")
    device: Device = "cpu"


class LmSampleJob(Job):
    """Let a language model speak: samples of its tokens, decoded to sound."""

    verb: ClassVar[str] = "lm-sample"
    runs: ClassVar[str] = "lm.sample:lm_sample"
    extras: ClassVar[tuple[str, ...]] = ("lm",)
    model: LanguageModel
    tokenizer: Tokenizer
    out: Out
    num_samples: Annotated[int, Shown(option="--samples")] = Field(default=4, ge=1, description="How many.")
    duration_s: Annotated[float, Shown(option="--duration")] = Field(
        default=8.0, gt=0, le=600, description="Seconds of each."
    )
    temperature: float = Field(default=1.0, gt=0, description="Below 1 the likelier ids are likelier still.")
    top_p: float = Field(default=0.95, gt=0, le=1, description="Only the likeliest ids of this share together.")
    seed: int = Field(default=0, description="Of the draws.")
    device: Device = "cpu"


class RepackJob(Job):
    """Change group size, digit order or encoding without running the tokenizer, and show what each choice costs."""

    verb: ClassVar[str] = "repack"
    runs: ClassVar[str] = "archive.repack:repack"
    archive: Archive
    out: Annotated[str | None, Shown(uri="s3://bucket/repacked")] = Field(
        default=None, description="URI of the new archive; empty for the figures alone."
    )
    group_size: int = Field(default=7, ge=1, description="Dims per token.")
    digit_order: Literal["first_most_significant", "first_least_significant"] = Field(
        default="first_most_significant", description="Which dim of a token counts most."
    )
    encoding: Encoding = "plain"


def _percent(value: object) -> object:
    return value.removesuffix("%") if isinstance(value, str) else value


class SalientJob(Job):
    """List the time spans of highest salience, ranked, ties by time, without decoding audio."""

    verb: ClassVar[str] = "salient"
    runs: ClassVar[str] = "archive.salient:salient"
    archive: Archive
    top_percent: Annotated[float, BeforeValidator(_percent), Shown(option="--top", as_text=True)] = Field(
        default=5.0, gt=0, le=100, description="Share of the frames, exactly: 5%."
    )
    where: Where = None
    out: Annotated[str | None, Shown(uri="s3://bucket/spans")] = Field(
        default=None, description="URI of a folder that receives all spans as spans.parquet; empty for none."
    )
    limit: int = Field(default=100, ge=0, description="Spans that are printed.")


class EvaluateJob(Job):
    """Measure a tokenizer on held-out speech beside baselines, and write its report card; what is scored stays."""

    verb: ClassVar[str] = "evaluate"
    runs: ClassVar[str] = "evaluation.evaluate:evaluate"
    extras: ClassVar[tuple[str, ...]] = ("evaluate",)
    tokenizer: Tokenizer
    shards: Shards
    out: Out
    splits: Annotated[tuple[Literal["train", "valid", "test"], ...], Shown(separated=True)] = Field(
        default=("valid", "test"), description="Splits of the shards."
    )
    limit: Limit = None
    metrics: Metrics = ()
    peers: Annotated[tuple[str, ...], Shown(option="--peer")] = Field(
        default=(), description="NAME=DIR of a local checkpoint, or of another tokenizer, to compare with."
    )
    transcripts: Transcripts = None
    language_model: Annotated[str | None, Shown(uri="s3://bucket/lm/model")] = Field(
        default=None, description="URI of a model of `lm-train`, for the bits per second that it needs; empty for none."
    )
    num_probes: Annotated[int, Shown(option="--probes")] = Field(
        default=8, ge=0, description="Utterances to disturb in every way."
    )
    num_samples: Annotated[int, Shown(option="--samples")] = Field(
        default=8, ge=0, description="Utterances to listen to."
    )
    seed: int = Field(default=0, description="Of what is drawn at random.")
    num_workers: NumWorkers = None
    measure_cost: Annotated[bool, Shown(option="--cost/--no-cost")] = Field(
        default=True, description="Measure time and memory."
    )


class CompareJob(Job):
    """Print what differs between two reports by more than chance; a regression ends with exit code 1."""

    verb: ClassVar[str] = "compare"
    runs: ClassVar[str] = "evaluation.compare:compare"
    before: Annotated[str, Shown(positional=True)] = Field(description="URI of the report of the tokenizer in use.")
    after: Annotated[str, Shown(positional=True)] = Field(description="URI of the report of the new one.")
    tolerances: Tolerances = ()


class EncodeJob(Job):
    """Turn audio files into token files."""

    verb: ClassVar[str] = "encode"
    runs: ClassVar[str] = "tokenizer.encode_files:encode_files"
    files: Annotated[tuple[str, ...], Shown(positional=True)] = Field(description="Audio files.")
    tokenizer: Tokenizer = shipped.default_tokenizer()
    out: Beside = None
    device: Device = "cpu"


class DecodeJob(Job):
    """Turn token files back into audio files."""

    verb: ClassVar[str] = "decode"
    runs: ClassVar[str] = "tokenizer.decode_files:decode_files"
    files: Annotated[tuple[str, ...], Shown(positional=True)] = Field(description="Token files.")
    tokenizer: Tokenizer = shipped.default_tokenizer()
    out: Beside = None
    audio_format: AudioFormat = "wav"
    device: Device = "cpu"


class ListenJob(Job):
    """Serve a page on this machine alone, to look through an archive, hear it and try the tokenizer; Ctrl-C ends it.

    It runs where it is asked for, whatever cluster is named: nothing but this machine's own browser may open the page.
    """

    verb: ClassVar[str] = "listen"
    runs: ClassVar[str] = "listen.serve:listen"
    extras: ClassVar[tuple[str, ...]] = ("listen",)
    stays_here: ClassVar[bool] = True
    archive: Annotated[str, Shown(positional=True, uri="s3://bucket/run/archive")] = Field(
        description="URI of the token archive."
    )
    tokenizer: Annotated[str | None, Shown(uri="s3://bucket/run/tokenizer")] = Field(
        default=None,
        description="URI of the tokenizer; empty for the one with the archive's digest, in the archive or built in.",
    )
    shards: Annotated[str | None, Shown(uri="s3://bucket/run/shards")] = Field(
        default=None, description="URI of the shards that hold the originals; empty for none beside what is restored."
    )
    audio_root: Annotated[str | None, Shown(uri="s3://bucket/speech")] = Field(
        default=None, description="URI of the folder that the recordings lie in, instead of --shards."
    )
    port: int = Field(default=8642, ge=0, le=65535, description="On 127.0.0.1; 0 takes any that is free.")


class ReportJob(Job):
    """Render the page of an evaluation again, smaller or elsewhere, without measuring anything."""

    verb: ClassVar[str] = "report"
    runs: ClassVar[str] = "report.page:report_page"
    report: Annotated[str, Shown(positional=True)] = Field(description="URI of an evaluation's report.")
    out: str | None = Field(default=None, description="The file to write; empty for the report's own report.html.")
    max_sound_mb: float = Field(default=12.0, ge=0, description="FLAC that the page carries; 0 is one utterance.")


class PlanJob(RecipeJob):
    """Predict hours, GPU-hours, bytes, tokens and cost for a corpus, and compare with a run afterwards.

    The corpus is a ``source``, a number of ``hours`` or a ``preset``; without ``rates`` this machine is probed.
    """

    verb: ClassVar[str] = "plan"
    runs: ClassVar[str] = "forecast.forecast:plan"
    source: Annotated[str | None, Shown(positional=True)] = Field(
        default=None, description="A folder of speech, to be counted."
    )
    hours: float | None = Field(default=None, gt=0, description="Of audio, instead of SOURCE.")
    preset: str | None = Field(default=None, description="librilight-small, -medium or -large, instead of SOURCE.")
    out: str | None = Field(default=None, description="Folder for plan.json and plan.md; empty for none.")
    run: str | None = Field(default=None, description="A finished run, to compare the plan in --out with.")
    rates: Annotated[dict[str, float], Shown(separated=True)] = Field(
        default={},
        description="Seconds of audio per second of one worker: shard=..,pretrain=..,codec=..,...",
    )
    probe_s: float = Field(default=120.0, gt=0, description="Seconds of the probe, without --rates.")
    stored_fraction: float = Field(default=1.0, gt=0, le=1, description="Share of the audio that is speech.")
    flac_bytes_per_s: float | None = Field(
        default=None, gt=0, description="Size of the speech as FLAC; empty for what is usual."
    )
    machine: str | None = Field(default=None, description="What to call the machine.")
    cores: int | None = Field(default=None, ge=1, description="In all; empty for this machine's.")
    gpus: int = Field(default=0, ge=0, description="In all.")
    efficiency: float = Field(default=1.0, gt=0, le=1, description="Of training on all workers.")
    price_core_hour: float = Field(default=0.0, ge=0, description="In your currency.")
    price_gpu_hour: float = Field(default=0.0, ge=0, description="In your currency.")
    recipe: Annotated[str, Shown(names_recipe=True)] = Field(
        default="paper", description="A named configuration; `syllabary show NAME` says what it is and costs."
    )


class StatusJob(Job):
    """Say what an output folder holds, how far it is and what failed."""

    verb: ClassVar[str] = "status"
    runs: ClassVar[str] = "operate.status:status"
    uri: Annotated[str, Shown(positional=True)] = Field(
        description="Any output folder: shards, a training, a tokenizer, an archive, a run."
    )


class ShowJob(RecipeJob):
    """Show what a recipe is and costs: configuration, parameters by part, rates, GFLOP per audio second."""

    verb: ClassVar[str] = "show"
    runs: ClassVar[str] = "operate.show:show"
    recipe: Annotated[str, Shown(positional=True, names_recipe=True)] = Field(description="A named recipe.")


class SummaryJob(Job):
    """Write summary.md and the loss curves of a pipeline run whose stages are complete."""

    verb: ClassVar[str] = "summary"
    runs: ClassVar[str] = "operate.summary:summarize"
    run: Annotated[str, Shown(positional=True)] = Field(description="URI of a pipeline run.")


class FetchDemoJob(Job):
    """Fetch the demo speech, from Debian packages, into a local folder."""

    verb: ClassVar[str] = "fetch-demo"
    runs: ClassVar[str] = "ingest.demo_speech:fetch_demo_speech"
    out: str = Field(description="Local folder that receives the speech.")
