"""Stage 2: a Ray Train job trains FSQ and decoder, then the tokenizer directory is written."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field

from syllabary.flows import artifacts
from syllabary.flows.job_flow import URI_PATTERN, job_flow
from syllabary.flows.narration import run_job
from syllabary.flows.output_lock import output_lock
from syllabary.shards.store import Folder
from syllabary.workers.control.jobs import ExportJob, TrainCodecJob

TokenizerOut = Annotated[
    str, Field(pattern=URI_PATTERN, min_length=1, description="URI that receives the tokenizer directory.")
]


@job_flow
def train_tokenizer(job: TrainCodecJob, tokenizer: TokenizerOut) -> dict[str, Any]:
    """Train the codec for the stage-1 run at ``encoder`` and export it to the directory ``tokenizer``."""
    with output_lock(job.out, tokenizer):
        training = run_job(job)
        exported = run_job(ExportJob(codec=job.out, out=tokenizer))
    loss, run = training["headline"], Folder(job.out)
    artifacts.picture("train-codec", loss, run.join(f"curves/{loss}.png"))
    artifacts.samples("train-codec", run.join("samples"))
    artifacts.summary("train-codec", {**training, **exported}, {"run": job.out, "tokenizer": tokenizer})
    return {"training": training, "tokenizer": exported}
