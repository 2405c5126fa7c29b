"""Audio back from an archive."""

from __future__ import annotations

from typing import Any

from prefect import flow

from flows import artifacts
from flows.narration import run_job
from shards import store
from workers.jobs import RestoreJob


@flow(name="restore-audio")
def restore_audio(
    archive: str, tokenizer: str, out: str, where: str | None = None, limit: int | None = None
) -> dict[str, Any]:
    """Restore the utterances that ``where`` selects (all without it) as FLAC into ``out``."""
    result = run_job(RestoreJob(archive=archive, tokenizer=tokenizer, out=out, where=where, limit=limit))
    artifacts.samples("restore", store.join(out, "audio"))
    artifacts.summary("restore", result, {"audio": out})
    return result
