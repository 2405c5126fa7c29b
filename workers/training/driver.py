"""The driver's side of training: a Ray Train job that is restarted when a rank dies and fails with one line.

Ray Train places the ranks and makes their process group. It restarts a group for any exception, also one that no
restart can mend, so the restarts are made here: a :class:`SyllabaryError` of a rank ends the job at once, anything else
(a dead worker, a lost node, a rank that hung until the collective timeout) starts the group again from the newest
checkpoint, ``max_restarts`` times without progress.
"""

from __future__ import annotations

import os
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol, TypeVar

from syllabary.shards.errors import JobError, SyllabaryError
from syllabary.workers.cluster.devices import ClusterGpus, Device, choose_device
from syllabary.workers.cluster.session import ray_session
from syllabary.workers.control.log import Reached, say, tell
from syllabary.workers.recipes.recipe import Recipe
from syllabary.workers.training.checkpoints import CheckpointStore

_POLL_S = 0.3
_START_TIMEOUT_VARIABLE = "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S"


class Ranks(Protocol):
    """The fields of a training configuration that decide how the ranks of a run are placed."""

    @property
    def num_workers(self) -> int: ...  # noqa: D102
    @property
    def threads_per_worker(self) -> int: ...  # noqa: D102
    @property
    def device(self) -> Literal["auto", "cpu", "cuda"]: ...  # noqa: D102
    @property
    def collective_timeout_s(self) -> int: ...  # noqa: D102
    @property
    def max_restarts(self) -> int: ...  # noqa: D102


class AnyRankJob(Protocol):
    """What every rank of any run gets: a frozen dataclass with these fields among its own."""

    @property
    def run_uri(self) -> str: ...  # noqa: D102
    @property
    def device(self) -> Literal["auto", "cpu", "cuda"]: ...  # noqa: D102


J = TypeVar("J", bound=AnyRankJob)


@dataclass(frozen=True)
class RankJob:
    """What every rank gets: small values and the mailbox, an actor that collects the lines of rank 0.

    ``device`` is what the driver made of the configuration's "auto"; a rank that no driver started decides by itself.
    """

    run_uri: str
    shards_uri: str
    recipe: Recipe
    mailbox: Any
    encoder_uri: str = "none"
    init: str = "none"
    device: Literal["cpu", "cuda", "auto"] = "auto"


class Mailbox:
    """Carries lines and progress from rank 0 to the driver (a Ray actor)."""

    def __init__(self) -> None:
        self._said: list[str | Reached] = []

    def put(self, said: str | Reached) -> None:
        """Add a line, or how far the run is."""
        self._said.append(said)

    def take(self) -> list[str | Reached]:
        """Return everything put in since the last call."""
        said, self._said = self._said, []
        return said


def train_on_ray(stage: str, rank_main: Callable[[J], None], train: Ranks, make_job: Callable[[Any], J]) -> None:
    """Run ``rank_main`` on ``train.num_workers`` ranks until it succeeds.

    Raises:
        SyllabaryError: what a rank raised.
        ConfigError: a GPU is asked for and there is none.
        JobError: the group died more than ``max_restarts`` times without a new checkpoint.
    """
    os.environ.setdefault(_START_TIMEOUT_VARIABLE, "600")
    cores = max(os.cpu_count() or 1, train.num_workers * train.threads_per_worker)
    with (
        ray_session(num_cpus=cores, show_worker_logs=False),
        tempfile.TemporaryDirectory(prefix="syllabary-") as scratch,
    ):
        import ray

        device = device_of_all_ranks(stage, train, ClusterGpus.of_ray())
        mailbox = ray.remote(num_cpus=0)(Mailbox).options(scheduling_strategy=_beside_the_driver()).remote()
        job = replace(make_job(mailbox), device=device)  # type: ignore[type-var]
        with _relayed(mailbox, stage):
            _until_done(stage, rank_main, train, job, scratch)


def device_of_all_ranks(stage: str, train: Ranks, gpus: ClusterGpus) -> Device:
    """Choose what the ranks train on, a GPU for each of them or the CPU, and log the choice.

    Ray hides no GPU from a process that asked for none, so a rank must not look for one by itself.

    Raises:
        ConfigError: GPUs are asked for that are not there and cannot come: Ray would wait for them.
    """
    choice = choose_device(train.device, train.num_workers, gpus)
    say(stage, choice.why)
    return choice.device


def _until_done(stage: str, rank_main: Callable[[J], None], train: Ranks, job: J, scratch: str) -> None:
    checkpoints = CheckpointStore(job.run_uri)
    failures, reached = 0, _last(checkpoints)
    while True:
        problem = _fit_once(rank_main, train, job, f"{scratch}/{failures}-{reached}")
        if problem is None:
            return
        now = _last(checkpoints)
        failures = 1 if now > reached else failures + 1
        reached = now
        if failures > train.max_restarts:
            raise JobError(
                f"{stage} failed {failures} times after step {reached:,}: {problem}",
                fix="mend the cause, then run again: it resumes from the last checkpoint",
            )
        say(stage, f"a rank failed ({problem}); restarting from step {reached:,}")


def _last(checkpoints: CheckpointStore) -> int:
    return max(checkpoints.steps(), default=0)


def _fit_once(rank_main: Callable[[J], None], train: Ranks, job: J, storage: str) -> str | None:
    """Run one group of ranks; returns None when it finished, else what ended it in a few words."""
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer
    from ray.train.v2.api.exceptions import TrainingFailedError, WorkerGroupError

    use_gpu = job.device == "cuda"
    resources = {"CPU": train.threads_per_worker} | ({"GPU": 1} if use_gpu else {})
    trainer = TorchTrainer(
        rank_main,  # type: ignore[arg-type]
        train_loop_config=job,  # type: ignore[arg-type]
        scaling_config=ScalingConfig(num_workers=train.num_workers, use_gpu=use_gpu, resources_per_worker=resources),
        torch_config=TorchConfig(backend="nccl" if use_gpu else "gloo", timeout_s=train.collective_timeout_s),
        run_config=RunConfig(storage_path=storage, failure_config=FailureConfig(max_failures=0)),
    )
    try:
        trainer.fit()
    except WorkerGroupError as error:
        causes = [_cause(e) for e in error.worker_failures.values()]
        for cause in causes:
            if isinstance(cause, SyllabaryError):
                raise cause from None
        for trace in {getattr(e, "_traceback_str", "") for e in error.worker_failures.values()}:
            sys.stderr.write(trace)  # not a user's error: whoever mends it needs to see where it happened
        return "; ".join(sorted({_first_line(cause) for cause in causes}))
    except TrainingFailedError as error:
        return _first_line(error)
    return None


def _beside_the_driver() -> Any:
    """Ray's scheduling strategy for this process's own node: what is placed there is not lost with another host."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    return NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)


def _cause(error: BaseException) -> BaseException:
    """The error that the rank raised, without Ray's wrapping."""
    return getattr(error, "_base_exc", error)


def _first_line(error: BaseException) -> str:
    text = str(error).strip()
    return f"{type(error).__name__}: {text.splitlines()[0] if text else ''}"[:300]


@contextmanager
def _relayed(mailbox: Any, stage: str) -> Iterator[None]:
    """Log what arrives in the mailbox while the block runs."""
    import ray

    stop = threading.Event()

    def relay() -> None:
        over = False
        while not over:
            over = stop.wait(_POLL_S)
            for said in ray.get(mailbox.take.remote()):
                if isinstance(said, Reached):
                    tell(said)
                else:
                    say(stage, said)

    thread = threading.Thread(target=relay, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(timeout=10)
