"""Allow one run at a time on an output, whichever deployments the runs belong to.

Each output has a Prefect concurrency limit of one slot, named after its URI. A slot is held by a lease that the run
renews: a run that is killed loses it after :data:`LEASE_S` (and one pass of the server's repossessor, 15 s), and the
next run goes on. The server must keep its leases in more than its memory (``infra/stack`` and docs/stack.md say how):
with Prefect's default a restarted server forgets the lease, not the slot.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager

from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import GlobalConcurrencyLimitCreate
from prefect.concurrency.sync import concurrency
from prefect.exceptions import ObjectAlreadyExists, ObjectNotFound
from prefect.logging import get_run_logger

from syllabary.shards import store
from syllabary.shards.errors import ConflictError

PRIVATE_SERVER_VARIABLE = "SYLLABARY_PRIVATE_PREFECT"
LEASE_S = 120.0
_PATIENCE_S = 24 * 3600.0


@contextmanager
def output_lock(*uris: str) -> Iterator[None]:
    """Hold the outputs at ``uris`` for the length of the block; waits while another run holds one of them.

    A Prefect server of this run alone (``syllabary run``) has no other runs, and nothing is locked.

    Raises:
        ConflictError: another run has held an output for a day.
    """
    if os.environ.get(PRIVATE_SERVER_VARIABLE):
        yield
        return
    names = sorted({limit_name(uri) for uri in uris})
    _make_limits(names)
    try:
        # a lease that cannot be renewed (the server restarts) does not end a run of days: its output refuses others
        with concurrency(
            names,
            timeout_seconds=_PATIENCE_S,
            lease_duration=LEASE_S,
            strict=True,
            raise_on_lease_renewal_failure=False,
        ):
            yield
    except TimeoutError as error:
        held = ", ".join(sorted(uris))
        fix = "see the concurrency limits in Prefect; cancel the run that holds it"
        raise ConflictError("another run has held the output for a day", value=held, fix=fix) from error


def limit_name(uri: str) -> str:
    """The name of an output's concurrency limit: readable, within what Prefect allows, and its own.

    >>> limit_name("s3://bucket/run/archive")
    'output s3.bucket.run.archive 0a6a9b8d'
    """
    uri = store.normalize(uri)
    readable = re.sub(r"[^A-Za-z0-9]+", ".", uri).strip(".")[-80:]
    return f"output {readable} {hashlib.sha256(uri.encode()).hexdigest()[:8]}"


def _make_limits(names: list[str]) -> None:
    with get_client(sync_client=True) as client:
        for name in names:
            try:
                limit = client.read_global_concurrency_limit_by_name(name)
                if limit.active_slots:
                    get_run_logger().info("waits for %s: another run works on it", name)
            except ObjectNotFound:
                try:
                    client.create_global_concurrency_limit(GlobalConcurrencyLimitCreate(name=name, limit=1))
                except ObjectAlreadyExists:
                    continue
