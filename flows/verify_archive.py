"""The scrub: every byte of an archive against its checksums."""

from __future__ import annotations

from typing import Any

from prefect import flow

from flows import artifacts
from flows.narration import run_job
from flows.parameters import Archive, Shards
from workers.jobs import VerifyJob


@flow(name="verify-archive")
def verify_archive(archive: Archive, shards: Shards | None = None) -> dict[str, Any]:
    """Verify ``archive``, and its coverage of ``shards`` when given; damage fails the flow and is named.

    Args:
        archive: URI of the token archive.
        shards: URI of the shards that the archive has to cover; empty: only the archive itself.
    """
    result = run_job(VerifyJob(archive=archive, shards=shards))
    artifacts.summary("verify", result, {"archive": archive})
    return result
