"""The base of all jobs, and the kinds of fields that several verbs share. Free of torch and ray."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, ClassVar, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field
from pydantic_core import PydanticSerializationError

from syllabary.shards.errors import InputError, refuse_keys
from syllabary.workers.control.declaration import Shown


class Job(BaseModel):
    """Base of all jobs.

    Attributes:
        verb: names the job on a command line, in logs and among a cluster's jobs.
        runs: ``module:function`` below ``syllabary.workers``, loaded when the job is run and not before.
        extras: of the package, that it cannot do without (``workers/control/extras.py``).
        stays_here: never runs on a cluster, because it serves the person at this machine.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)
    verb: ClassVar[str]
    runs: ClassVar[str]
    extras: ClassVar[tuple[str, ...]] = ()
    stays_here: ClassVar[bool] = False

    def model_post_init(self, context: object) -> None:
        """Refuse keys in URIs before a job is logged, stored or submitted. Raises SecretError."""
        for value in self.model_dump().values():
            for text in value if isinstance(value, list | tuple) else (value,):
                if isinstance(text, str):
                    refuse_keys(text)

    def command(self, python: str = "python") -> list[str]:
        """The command line that runs the job. With ``-P`` nothing of the working directory is taken for a module.

        Raises:
            InputError: a name in it is not UTF-8, so JSON cannot say it.
        """
        try:
            return [python, "-P", "-m", "syllabary.workers", self.verb, self.model_dump_json()]
        except PydanticSerializationError as error:
            fix = "rename the file, or give the folder that it lies in to `syllabary shard`, which takes any name"
            raise InputError("a name that is not UTF-8", value=_first_odd(self.model_dump()), fix=fix) from error


def _first_odd(values: dict[str, object]) -> str | None:
    """The first text that UTF-8 cannot write: Python reads other bytes of a name as lone surrogates."""
    texts = (text for value in values.values() for text in (value if isinstance(value, tuple) else (value,)))
    return next(
        (text for text in texts if isinstance(text, str) and text != text.encode(errors="replace").decode()), None
    )


def jobs_by_verb(base: type[Job] = Job) -> dict[str, type[Job]]:
    """Every kind of job that has been declared."""
    return {job.verb: job for job in _declared(base)}


def _declared(base: type[Job]) -> Iterator[type[Job]]:
    for job in base.__subclasses__():
        if "verb" in vars(job):
            yield job
        yield from _declared(job)


Out = Annotated[
    str,
    Shown(uri="s3://bucket/run"),
    Field(description="URI that receives the output; an output of another run is refused."),
]
Source = Annotated[
    str,
    Shown(positional=True, uri="s3://bucket/speech"),
    Field(description="Folder or URI of audio files, a manifest (.jsonl), or a tar of LibriLight."),
]
Shards = Annotated[str, Shown(uri="s3://bucket/run/shards"), Field(description="URI of the WebDataset shards.")]
Tokenizer = Annotated[
    str,
    Shown(uri="s3://bucket/run/tokenizer"),
    Field(description="URI of a tokenizer directory, or builtin:NAME for one that ships with the package."),
]
Archive = Annotated[str, Shown(uri="s3://bucket/run/archive"), Field(description="URI of the token archive.")]


def _one_or_more(value: object) -> object:
    return (value,) if isinstance(value, str) else value


Archives = Annotated[
    tuple[str, ...],
    BeforeValidator(_one_or_more),
    Shown(uri="s3://bucket/run/archive"),
    Field(min_length=1, description="URI of a token archive; several are packed together."),
]
Blocks = Annotated[str, Shown(uri="s3://bucket/run/blocks"), Field(description="URI of packed blocks, as Parquet.")]
LanguageModel = Annotated[
    str, Shown(uri="s3://bucket/lm/model"), Field(description="URI of a language model's directory, OUT/model.")
]
EncoderRun = Annotated[
    str, Shown(uri="s3://bucket/run/pretrain"), Field(description="URI of the stage-1 run; none begins untrained.")
]
NumWorkers = Annotated[
    int | None,
    Shown(option="--workers"),
    Field(ge=1, description="At most so many processes at once; empty for all that the machine or cluster has."),
]
Where = Annotated[
    str | None, Field(description="Expression over the archive's columns; empty for all.", examples=["speaker = '19'"])
]
Limit = Annotated[
    int | None, Field(ge=1, description="At most so many utterances, spread over the speakers; empty for all.")
]
Metrics = Annotated[
    tuple[str, ...],
    Shown(separated=True),
    Field(description="Only these metrics; empty for all.", examples=[["estoi", "wer_self"]]),
]
Transcripts = Annotated[
    str | None,
    Shown(uri="s3://bucket/transcripts.tsv"),
    Field(description="URI of a table of what is said (TSV); empty for none."),
]
Tolerances = Annotated[
    tuple[str, ...],
    Shown(option="--tolerance"),
    Field(description="metric=x, so much worse is no regression; empty for none.", examples=[["estoi=0.01"]]),
]
OnlyNew = Annotated[
    bool,
    Shown(option="--new"),
    Field(description="Leave out the parts that an earlier run with this set found intact; off for a scrub."),
]
MaxQuarantined = Annotated[
    float, Field(ge=0, le=100, description="Fail when more of the audio than this (percent) cannot be tokenized.")
]
StoragePatience = Annotated[float, Field(ge=0, description="How long an object store may be away, in seconds.")]
Encoding = Annotated[
    Literal["plain", "compact"],
    Field(description="How parts are written: plain for every Parquet reader, compact for the fewest bytes."),
]
AudioFormat = Annotated[
    Literal["flac", "wav"], Shown(option="--format"), Field(description="What the audio files are written as.")
]
Device = Annotated[str, Field(description="cpu, cuda, cuda:1, ...")]
Beside = Annotated[
    str | None, Shown(uri="s3://bucket/files"), Field(description="Folder for the files; empty for beside each.")
]
