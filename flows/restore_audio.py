"""Audio back from an archive."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from prefect import flow
from pydantic import Field

from syllabary.flows import artifacts
from syllabary.flows.narration import run_job
from syllabary.flows.output_lock import output_lock
from syllabary.flows.parameters import Archive, Out, Tokenizer
from syllabary.shards import store
from syllabary.workers.control.jobs import RestoreJob


@flow(name="restore-audio")
def restore_audio(
    archive: Archive,
    tokenizer: Tokenizer,
    out: Out,
    where: Annotated[str | None, Field(examples=["speaker = '19'"])] = None,
    recording: str | None = None,
    start_s: Annotated[float | None, Field(ge=0)] = None,
    end_s: Annotated[float | None, Field(gt=0)] = None,
    join: bool = False,
    limit: Annotated[int | None, Field(ge=1)] = None,
    audio_format: Literal["flac", "wav"] = "flac",
    num_workers: Annotated[int, Field(ge=1)] = 1,
) -> dict[str, Any]:
    """Restore what is selected (all without a selection) into ``out``; a time range needs a recording.

    Args:
        archive: URI of the token archive.
        tokenizer: URI of a tokenizer whose encoder made the archive.
        out: URI that receives the output; an output of another run is refused.
        where: Expression over the archive's columns; empty for all.
        recording: One recording, joined in time.
        start_s: From this second of the recording.
        end_s: To this second of the recording.
        join: Whole recordings instead of utterances.
        limit: At most so many utterances.
        audio_format: Of the restored files.
        num_workers: Processes; above 1 the shards are spread over Ray.
    """
    job = RestoreJob(
        archive=archive,
        tokenizer=tokenizer,
        out=out,
        where=where,
        recording=recording,
        start_s=start_s,
        end_s=end_s,
        join=join,
        limit=limit,
        audio_format=audio_format,
        num_workers=num_workers,
    )
    with output_lock(out):
        result = run_job(job)
    artifacts.samples("restore", store.join(out, "audio"))
    artifacts.summary("restore", result, {"audio": out})
    return result
