"""The pipeline on the stack: speech to S3, one run of the deployment, its log lines as they come."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import UUID

from infra.stack.stack_files import Stack
from syllabary.shards import outputs, store
from syllabary.shards.errors import InputError, JobError
from syllabary.workers.control.jobs import FetchDemoJob
from syllabary.workers.control.submit import submit

BUCKET = "s3://syllabary"
DEPLOYMENT = "run-pipeline/pipeline"
_AUDIO = (".flac", ".wav", ".mp3", ".ogg", ".opus", ".json", ".jsonl", ".tar", ".md", ".txt")
_POLL_S = 1.0


def run_on(
    stack: Stack,
    source: str | None,
    *,
    recipe: str,
    overrides: tuple[str, ...],
    name: str | None,
    say: Callable[[str], None],
) -> str:
    """Run the whole pipeline on ``stack`` and return the URI of its output.

    Raises:
        InputError: no speech at ``source``.
        JobError: the run failed; the message is the run's own.
    """
    os.environ.update(stack.variables())
    local = source or _demo_speech(stack)
    name = name or (Path(local).name if source else "demo")
    started = time.monotonic()
    corpus = local if store.is_remote(local) else upload(local, store.join(BUCKET, "corpora", name), say)
    uploaded = time.monotonic()
    out = store.join(BUCKET, "runs", name)
    follow(trigger(source=corpus, out=out, recipe=recipe, overrides=list(overrides)), stack, say)
    say(f"uploaded in {uploaded - started:.0f} s, ran in {time.monotonic() - uploaded:.0f} s")
    done = outputs.read_done(out) or {}
    for figure, value in done.get("headline", {}).items():
        say(f"  {figure:<22} {value}")
    say(f"  output                 {out}")
    return out


def _demo_speech(stack: Stack) -> str:
    folder = str(stack.folder / "demo-speech")
    on_cluster = os.environ.pop("RAY_API_SERVER_ADDRESS")  # a download to this machine, not the cluster's work
    try:
        submit(FetchDemoJob(out=folder))
    finally:
        os.environ["RAY_API_SERVER_ADDRESS"] = on_cluster
    return folder


def upload(folder: str, uri: str, say: Callable[[str], None]) -> str:
    """Copy the speech of a local folder to ``uri``; what is there with the same size stays. Returns ``uri``."""
    files = [file for file in store.list_files(folder) if file.name.lower().endswith(_AUDIO)]
    if not files:
        raise InputError("no speech, SOURCE is missing or empty", value=folder, expected="a folder of audio")
    there = {file.name: file.size_bytes for file in store.list_files(uri)}
    missing = [file for file in files if there.get(file.name) != file.size_bytes]
    if missing:
        say(f"uploads {len(missing):,} files to {uri}")
        fs, path = store.filesystem(uri)
        fs.put([file.uri for file in missing], [f"{path}/{file.name}" for file in missing])
    return uri


def trigger(deployment: str = DEPLOYMENT, **parameters: Any) -> UUID:
    """Create a run of a deployment and return its id."""
    from prefect.deployments import run_deployment

    run: Any = run_deployment(deployment, parameters=parameters, timeout=0, as_subflow=False)
    return UUID(str(run.id))


def follow(run_id: UUID, stack: Stack, say: Callable[[str], None]) -> None:
    """Print a run's log, subflows included, until it ends. Raises JobError unless it completed."""
    from prefect.client.orchestration import get_client

    say(f"follows {stack.prefect_url}/runs/flow-run/{run_id}")
    with get_client(sync_client=True) as client:
        teller = _LogTeller(client, run_id, say)
        while True:
            run = client.read_flow_run(run_id)
            teller.tell()
            state = run.state
            if state is not None and state.is_final():
                break
            time.sleep(_POLL_S)
        teller.tell()
    if not state.is_completed():
        raise JobError(f"the run ended as {state.name}: {state.message}")


class _LogTeller:
    """Tells each line of a run's and its subflows' logs once."""

    def __init__(self, client: Any, run_id: UUID, say: Callable[[str], None]) -> None:
        self._client, self._root, self._say = client, run_id, say
        self._shown: dict[UUID, int] = {}

    def tell(self) -> None:
        """Everything that is new."""
        for run_id in [self._root, *self._subflows()]:
            for line in self._new_lines(run_id):
                self._say(line)

    def _subflows(self) -> list[UUID]:
        from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterParentFlowRunId
        from prefect.client.schemas.sorting import FlowRunSort

        parent = FlowRunFilter(parent_flow_run_id=FlowRunFilterParentFlowRunId(any_=[self._root]))
        runs = self._client.read_flow_runs(flow_run_filter=parent, sort=FlowRunSort.START_TIME_ASC)
        return [run.id for run in runs]

    def _new_lines(self, run_id: UUID) -> list[str]:
        from prefect.client.schemas.filters import LogFilter, LogFilterFlowRunId
        from prefect.client.schemas.sorting import LogSort

        shown = self._shown.get(run_id, 0)
        mine = LogFilter(flow_run_id=LogFilterFlowRunId(any_=[run_id]))
        logs = self._client.read_logs(log_filter=mine, limit=200, offset=shown, sort=LogSort.TIMESTAMP_ASC)
        self._shown[run_id] = shown + len(logs)
        return [log.message for log in logs if not log.message.startswith("job ")]
