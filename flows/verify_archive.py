"""The scrub: every byte of an archive against its checksums."""

from __future__ import annotations

from typing import Any

from prefect import flow

from syllabary.flows import artifacts
from syllabary.flows.narration import run_job
from syllabary.flows.output_lock import output_lock
from syllabary.flows.parameters import Archive, Shards
from syllabary.shards import store
from syllabary.shards.archive.verified import RECORD
from syllabary.workers.control.jobs import VerifyJob


@flow(name="verify-archive")
def verify_archive(archive: Archive, shards: Shards | None = None, only_new: bool = False) -> dict[str, Any]:
    """Verify ``archive``, and its coverage of ``shards`` when given; damage fails the flow and is named.

    Args:
        archive: URI of the token archive.
        shards: URI of the shards that the archive has to cover; empty: only the archive itself.
        only_new: Leave out the parts that an earlier run with this set found intact; off for a scrub.
    """
    with output_lock(store.join(archive, RECORD)):  # all that it writes: others may go on with the archive itself
        result = run_job(VerifyJob(archive=archive, shards=shards, only_new=only_new))
    artifacts.summary("verify", result, {"archive": archive})
    return result
