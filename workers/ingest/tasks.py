"""The Ray side of sharding: one task per shard, a bounded number of them in flight."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

from syllabary.shards.errors import SyllabaryError
from syllabary.shards.ingest.config import IngestConfig
from syllabary.shards.ingest.cutting import Inputs, write_shard
from syllabary.shards.ingest.ingest import FILES
from syllabary.shards.ingest.planning import ShardPlan
from syllabary.shards.ingest.recordings import Recording, RecordingError
from syllabary.shards.ingest.sources.streamed import VoiceActivity
from syllabary.workers.cluster.prometheus import Meter
from syllabary.workers.control.log import record

Result = dict[str, Any]
T = TypeVar("T")
_IN_FLIGHT_PER_CPU = 2
_STOP_S = 60


def write_planned_shard(out: str, plan: ShardPlan, config: IngestConfig) -> Result:
    """Write one shard of recordings that are files of their own. Safe to run again."""
    return write_shard(out, plan, config, FILES)


def write_streamed_shard(
    out: str,
    plan: ShardPlan,
    config: IngestConfig,
    audio: Mapping[str, Any],
    activity: Mapping[str, VoiceActivity | None],
    load: Callable[[Any], Any] | None = None,
) -> Result:
    """Write one shard of recordings that lay in a stream. Safe to run again.

    Args:
        audio: the audio file of each recording id as what ``load`` turns into bytes: a Ray object reference.
        activity: the voice activity of each recording id.
        load: default ``ray.get``.
    """

    def fetch(recording: Recording, folder: Path) -> Path:
        if recording.recording_id not in audio:
            raise RecordingError(recording.detail)
        path = folder / "audio"
        path.write_bytes((load or _ray_get)(audio[recording.recording_id]))
        return path

    return write_shard(out, plan, config, Inputs(fetch, lambda recording: activity[recording.recording_id]))


def _ray_get(reference: Any) -> Any:
    import ray

    return ray.get(reference)


def run_all(function: Callable[..., Result], arguments: Iterable[tuple[Any, ...]], out: str) -> Iterator[Result]:
    """Write the shards of ``out`` and report each one; see :func:`_run_all`."""
    meter = Meter("shard", out)
    for result in _run_all(function, arguments):
        meter.shard_done(result["duration_s"], result["num_quarantined"])
        record("shard", "shard done", shard=result["shard"], num_quarantined=result["num_quarantined"])
        yield result


def _run_all(function: Callable[..., Result], arguments: Iterable[tuple[Any, ...]]) -> Iterator[Result]:
    """Run ``function`` on every argument tuple as Ray tasks, results as they come; call inside a Ray session.

    At most two tasks a CPU are in flight, so that arguments made on the way (a stream's) do not pile up.

    Raises:
        SyllabaryError: what a task raised, as it raised it; no further tasks are started.
    """
    import ray

    task = ray.remote(num_cpus=1, max_retries=3)(function)
    limit = _IN_FLIGHT_PER_CPU * max(1, int(ray.cluster_resources().get("CPU", 1)))
    running: list[Any] = []
    try:
        for values in arguments:
            running.append(task.remote(*values))
            while len(running) >= limit:
                yield _next_result(running)
        while running:
            yield _next_result(running)
    finally:
        _stop(running)


def _stop(running: list[Any]) -> None:
    """After a failure: no task starts any more, and none is still writing when the error is raised."""
    import ray

    for reference in running:
        ray.cancel(reference, force=False)
    if running:
        ray.wait(running, num_returns=len(running), timeout=_STOP_S)


def _next_result(running: list[Any]) -> Result:
    import ray

    (ready,), running[:] = ray.wait(running, num_returns=1)
    try:
        result: Result = ray.get(ready)
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, SyllabaryError):
            raise error.cause from None
        raise
    return result
