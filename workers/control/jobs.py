"""The jobs: the parameters of every verb, as flows, the command line and the workers share them. Free of torch and ray.

A job is a frozen value of URIs, a recipe and a few numbers, never data. Its class names the verb and the function that
does it. ``python -m syllabary.workers VERB '<json>'`` runs it, wherever one stands; the last line that it prints to
standard output is ``syllabary-result: <json>``.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field

from syllabary.shards.uri_keys import refuse_keys

RESULT_PREFIX = "syllabary-result: "
PARENT_VARIABLE = "SYLLABARY_PARENT_PID"


class Job(BaseModel):
    """Base of all jobs.

    Attributes:
        verb: names the job on a command line, in logs and among a cluster's jobs.
        runs: ``module:function`` below ``syllabary.workers``, loaded when the job is run and not before.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    verb: ClassVar[str]
    runs: ClassVar[str]

    def model_post_init(self, context: object) -> None:
        """Refuse keys in URIs before a job is logged, stored or submitted. Raises SecretError."""
        for value in self.model_dump().values():
            for text in value if isinstance(value, list | tuple) else (value,):
                if isinstance(text, str):
                    refuse_keys(text)

    def command(self, python: str = "python") -> list[str]:
        """The command line that runs the job. With ``-P`` nothing of the working directory is taken for a module."""
        return [python, "-P", "-m", "syllabary.workers", self.verb, self.model_dump_json()]


def jobs_by_verb(base: type[Job] = Job) -> dict[str, type[Job]]:
    """Every kind of job that has been declared."""
    return {job.verb: job for job in _declared(base)}


def _declared(base: type[Job]) -> Iterator[type[Job]]:
    for job in base.__subclasses__():
        if "verb" in vars(job):
            yield job
        yield from _declared(job)


class RecipeJob(Job):
    """A job that needs a recipe: its name, a YAML file over it, ``a.b=c`` overrides over both."""

    recipe: str = "tiny"
    config: str | None = None
    overrides: tuple[str, ...] = Field(default=(), description="a.b=c over the recipe")


class FetchDemoJob(Job):
    """The demo corpus, from Debian packages, into the local folder ``out``."""

    verb: ClassVar[str] = "fetch-demo"
    runs: ClassVar[str] = "ingest.demo_speech:fetch_demo_speech"
    out: str


class ShardJob(RecipeJob):
    """Speech at ``source`` becomes WebDataset shards at ``out``.

    ``recordings_if_no_speaker`` splits by recording, and says so, where no speaker of a listed source hashes into the
    valid split: what the whole pipeline wants of a corpus of a handful of speakers.
    """

    verb: ClassVar[str] = "shard"
    runs: ClassVar[str] = "ingest.write_shards:write_shards"
    source: str
    out: str
    num_workers: int | None = None
    hold_out: Literal["as_configured", "recordings_if_no_speaker"] = "as_configured"


class PretrainJob(RecipeJob):
    """Stage 1: train the JEPA encoder on ``shards``; the run lives at ``out``.

    ``init`` is a tokenizer or a complete run whose encoder it begins with instead of an untrained one.
    """

    verb: ClassVar[str] = "pretrain"
    runs: ClassVar[str] = "training.stages:pretrain"
    shards: str
    out: str
    init: str = "none"


class TrainCodecJob(RecipeJob):
    """Stage 2: train FSQ and decoder for the encoder of the stage-1 run at ``encoder``; ``none`` begins untrained,
    which only a method that trains the encoder can use.

    ``init`` is a tokenizer or a complete stage-2 run whose encoder and decoder it begins with, without ``encoder``.
    """

    verb: ClassVar[str] = "train-codec"
    runs: ClassVar[str] = "training.stages:train_codec"
    shards: str
    encoder: str = "none"
    out: str
    init: str = "none"


class ExportJob(Job):
    """Write the tokenizer directory of the stage-2 run at ``codec``."""

    verb: ClassVar[str] = "export"
    runs: ClassVar[str] = "training.export:export"
    codec: str
    out: str


class TokenizeJob(Job):
    """Tokenize ``shards`` into the ``archive`` with the tokenizer directory at ``tokenizer``.

    ``storage_patience_s`` is how long an object store may be away; ``max_quarantined_percent`` is of the audio.
    """

    verb: ClassVar[str] = "tokenize"
    runs: ClassVar[str] = "archive.tokenize_shards:tokenize"
    shards: str
    tokenizer: str
    archive: str
    num_workers: int | None = Field(default=None, ge=1)
    storage_patience_s: float = Field(default=300.0, ge=0)
    max_quarantined_percent: float = Field(default=5.0, ge=0, le=100)


class VerifyJob(Job):
    """Check every byte of an archive, and its coverage when ``shards`` is given.

    ``only_new`` leaves out the parts that an earlier such job found intact and recorded in the archive.
    """

    verb: ClassVar[str] = "verify"
    runs: ClassVar[str] = "archive.verify:verify"
    archive: str
    shards: str | None = None
    only_new: bool = False


class RestoreJob(Job):
    """Audio back from an archive. What to restore is the conjunction of ``where`` (an expression over columns), ``ids``
    (utterance ids) and ``recording`` with ``start_s`` and ``end_s``; ``limit`` caps the utterances.

    ``join`` gives whole recordings, each utterance at its own place in time and silence between; a ``recording`` is
    always joined, and cut to its time range. ``num_workers`` above 1 spreads the shards over Ray.
    """

    verb: ClassVar[str] = "restore"
    runs: ClassVar[str] = "archive.restore:restore"
    archive: str
    tokenizer: str
    out: str
    where: str | None = None
    ids: tuple[str, ...] = ()
    recording: str | None = None
    start_s: float | None = Field(default=None, ge=0)
    end_s: float | None = Field(default=None, gt=0)
    join: bool = False
    limit: int | None = Field(default=None, ge=1)
    audio_format: Literal["flac", "wav"] = "flac"
    num_workers: int = Field(default=1, ge=1)


class PackJob(Job):
    """Archive tokens become blocks of ``block_size`` ids for language models, or Megatron's ``.bin`` and ``.idx``.

    ``splits`` "archive" keeps the archive's splits and refuses a speaker that is in two; "speaker" makes new ones.
    Memory follows from ``bucket_mb`` alone; tokens are sorted below ``TMPDIR``, which needs about the archive's size.
    """

    verb: ClassVar[str] = "pack"
    runs: ClassVar[str] = "archive.pack:pack"
    archive: str
    out: str
    block_size: int = Field(default=2048, ge=2)
    document: Literal["recording", "utterance"] = "recording"
    output_format: Literal["parquet", "megatron"] = "parquet"
    splits: Literal["archive", "speaker"] = "archive"
    valid_percent: float = Field(default=2.0, ge=0, le=50)
    test_percent: float = Field(default=2.0, ge=0, le=50)
    seed: int = 0
    bucket_mb: float = Field(
        default=16.0, gt=0, description="of the archive, in one part of the blocks and in memory at once"
    )


class RepackJob(Job):
    """An archive with another group size or digit order, without encoding again; without ``out`` only the figures."""

    verb: ClassVar[str] = "repack"
    runs: ClassVar[str] = "archive.repack:repack"
    archive: str
    out: str | None = None
    group_size: int = Field(default=7, ge=1)
    digit_order: Literal["first_most_significant", "first_least_significant"] = "first_most_significant"


class SalientJob(Job):
    """The time spans whose salience is in the archive's top ``top_percent``; ``out`` receives them as Parquet."""

    verb: ClassVar[str] = "salient"
    runs: ClassVar[str] = "archive.salient:salient"
    archive: str
    top_percent: float = Field(default=5.0, gt=0, le=100)
    where: str | None = None
    out: str | None = None
    limit: int = Field(default=100, ge=0, description="spans that are printed")


class EvaluateJob(Job):
    """Measure the ``tokenizer`` on the held-out ``splits`` of ``shards``, beside baselines; the report lies at ``out``.

    ``limit`` takes so many utterances, spread over the speakers; ``metrics`` only these; ``peers`` are ``NAME=DIR`` of
    local checkpoints; ``transcripts`` is a table of what is said. ``num_probes`` utterances are disturbed in every way,
    ``num_samples`` are kept to listen to.
    """

    verb: ClassVar[str] = "evaluate"
    runs: ClassVar[str] = "evaluation.evaluate:evaluate"
    tokenizer: str
    shards: str
    out: str
    splits: tuple[Literal["train", "valid", "test"], ...] = ("valid", "test")
    limit: int | None = Field(default=None, ge=1)
    metrics: tuple[str, ...] = ()
    peers: tuple[str, ...] = ()
    transcripts: str | None = None
    num_probes: int = Field(default=8, ge=0)
    num_samples: int = Field(default=8, ge=0)
    seed: int = 0
    num_workers: int | None = Field(default=None, ge=1)
    measure_cost: bool = True


class CompareJob(Job):
    """Differences between two tokenizers' reports that exceed their intervals; ``tolerances`` are ``metric=x``."""

    verb: ClassVar[str] = "compare"
    runs: ClassVar[str] = "evaluation.compare:compare"
    before: str
    after: str
    tolerances: tuple[str, ...] = ()


class PageJob(Job):
    """The page of the report at ``report`` again, into the file ``out`` (its own ``report.html``), of so much sound."""

    verb: ClassVar[str] = "page"
    runs: ClassVar[str] = "report.page:report_page"
    report: str
    out: str | None = None
    max_sound_mb: float = Field(default=12.0, ge=0, description="FLAC that the page carries; 0 is one utterance")


class ReportJob(Job):
    """Write ``summary.md`` and the loss curves of a pipeline run."""

    verb: ClassVar[str] = "summary"
    runs: ClassVar[str] = "operate.summary:report"
    run: str
    shards: str
    pretrain: str
    codec: str
    tokenizer: str
    archive: str
    restored: str


class PlanJob(RecipeJob):
    """What a corpus (``source``, ``hours`` or a ``preset``) will take; ``out`` receives the plan.

    ``rates`` are seconds of audio a second of one worker, by the names of workers/forecast/formulas.py; without them
    the machine that runs the job is probed for ``probe_s``. ``run`` is a finished run to compare the plan with.
    """

    verb: ClassVar[str] = "plan"
    runs: ClassVar[str] = "forecast.forecast:plan"
    source: str | None = None
    hours: float | None = Field(default=None, gt=0)
    preset: str | None = None
    stored_fraction: float = Field(default=1.0, gt=0, le=1)
    flac_bytes_per_s: float | None = Field(default=None, gt=0)
    rates: dict[str, float] = {}
    probe_s: float = Field(default=120.0, gt=0)
    machine: str | None = None
    cores: int | None = Field(default=None, ge=1)
    gpus: int = Field(default=0, ge=0)
    efficiency: float = Field(default=1.0, gt=0, le=1)
    price_core_hour: float = Field(default=0.0, ge=0)
    price_gpu_hour: float = Field(default=0.0, ge=0)
    out: str | None = None
    run: str | None = None


class StatusJob(Job):
    """What the output folder at ``uri`` holds, how far it is and what failed."""

    verb: ClassVar[str] = "status"
    runs: ClassVar[str] = "operate.status:status"
    uri: str


class ShowJob(RecipeJob):
    """What a recipe is and costs: resolved configuration, parameters by part, rates, GFLOP per audio second."""

    verb: ClassVar[str] = "show"
    runs: ClassVar[str] = "operate.show:show"


class EncodeJob(Job):
    """Audio ``files`` to token files, beside them or below ``out``."""

    verb: ClassVar[str] = "encode"
    runs: ClassVar[str] = "tokenizer.encode_files:encode_files"
    files: tuple[str, ...]
    tokenizer: str
    out: str | None = None
    device: str = "cpu"


class DecodeJob(Job):
    """Token ``files`` to audio files, beside them or below ``out``."""

    verb: ClassVar[str] = "decode"
    runs: ClassVar[str] = "tokenizer.decode_files:decode_files"
    files: tuple[str, ...]
    tokenizer: str
    out: str | None = None
    audio_format: Literal["flac", "wav"] = "wav"
    device: str = "cpu"
