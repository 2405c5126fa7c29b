"""The training loop of both stages: resume, step, log, validate, checkpoint, finish.

Everything random is reseeded at each step from (seed, step, rank), and the loader's state is a position: a run killed
anywhere and started again takes the same steps. On CPUs of one kind that gives the same weights, bit for bit, at the
same world size; a GPU adds in an order of its own here and there (torch's deterministic algorithms are not asked for),
so there the last bits differ, from one unbroken run to the next too.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch

from syllabary.shards.errors import ConfigError, DamageError, StorageError, SyllabaryError
from syllabary.shards.outputs import mark_done
from syllabary.shards.store import Folder
from syllabary.workers.control.log import Reached
from syllabary.workers.recipes.recipe import TrainConfig
from syllabary.workers.training.checkpoints import CheckpointStore, Manifest, StoredFile
from syllabary.workers.training.compiling import as_written
from syllabary.workers.training.curves import dims, loss_curve, overview
from syllabary.workers.training.data.clips import Batch
from syllabary.workers.training.data.epoch_order import mix
from syllabary.workers.training.data.loader import TrainLoader
from syllabary.workers.training.engine import gather_from_ranks, holds_finite_weights, learning_rate, world
from syllabary.workers.training.engine_files import load_engines, save_engines
from syllabary.workers.training.history import History, Validation
from syllabary.workers.training.throughput import Pace
from syllabary.workers.training.watches.training_warnings import Warned, summed_up
from syllabary.workers.training.watches.words import in_short

CURVES = "curves"


class DivergedError(SyllabaryError):
    """Training produced a number that is not finite."""


class Stage(Protocol):
    """The interface of a training stage to the loop, on one rank.

    Attributes:
        name: of the stage, as its verb is called.
        headline: the metric by which the model is judged; lower is better.
        unit: of the headline.
        engines: by name; every rank holds the same.
    """

    name: str
    headline: str
    unit: str
    engines: Mapping[str, Any]

    def train_step(self, step: int, batches: list[Batch], lr: float, *, detailed: bool) -> dict[str, float]:
        """One optimizer step over all micro-batches; metrics over all ranks, more of them when ``detailed``."""

    def validate(self) -> dict[str, float]:
        """Metrics over all ranks on the held-out utterances; those of single dims by names like ``latent_std[017]``."""

    def warnings(self, validations: Sequence[Validation]) -> list[Warned]:
        """Warnings that the last of these validations gives cause for, a line each."""

    def illustrate(self, step: int) -> None:
        """Publish sounds and pictures of the model at this step (rank 0 only)."""

    def publish(self) -> Mapping[str, Any]:
        """Publish the trained weights (rank 0 only); returns their entries for done.json."""

    def marks(self) -> list[tuple[int, str]]:
        """Steps worth a line in the curves."""


@dataclass
class Run:
    """The state of a run on one rank.

    Attributes:
        run_uri: the output folder.
        train: the stage's training configuration.
        loader: this rank's steps.
        say: called on rank 0 with each line and with how far the run is.
        advance: called with the seconds of audio since the last call, over all ranks, and audio-seconds per second.
        identity: digest of what the weights depend on; a checkpoint of another one is not resumed from.
        is_compiled: whether blocks of the stage are compiled; validations compute them as they are written.
        history: every metric so far, on rank 0; other ranks keep an equal one.
        best: (step, value) of the best checkpointed validation so far.
        quarantined: utterance_id -> reason, over all ranks.
    """

    run_uri: str
    train: TrainConfig
    loader: TrainLoader
    say: Callable[[str | Reached], None]
    advance: Callable[[float, float], None] = lambda audio_s, rate: None
    identity: str = ""
    is_compiled: bool = False
    step: int = 0
    history: History = field(default_factory=History)
    best: tuple[int, float] | None = None
    quarantined: dict[str, str] = field(default_factory=dict)

    @property
    def checkpoints(self) -> CheckpointStore:
        """The run's checkpoints."""
        return CheckpointStore(self.run_uri)

    @property
    def is_leader(self) -> bool:
        """Whether this is rank 0."""
        return world()[0] == 0


def find_resume_step(run_uri: str, say: Callable[[str], None]) -> int | None:
    """The checkpoint to go on from, the same on every rank; rank 0 verifies, reports damage and sweeps orphans.

    Raises:
        DamageError: there are checkpoints, and none is whole. A run does not silently begin anew.
    """
    step: int | None = None
    if world()[0] == 0:
        checkpoints = CheckpointStore(run_uri)
        step, reports = checkpoints.newest_whole()
        for line in reports:
            say(line)
        if step is None and reports:
            raise DamageError(
                f"none of {len(reports)} checkpoints is whole; {reports[0]}",
                value=checkpoints.folder.uri,
                fix="restore one, or delete that folder to begin anew",
            )
        swept = checkpoints.sweep(keep=step)
        if swept:
            say(f"swept {swept} unfinished or damaged checkpoints")
    return gather_from_ranks(step)[0]


def resume(stage: Stage, run: Run, step: int) -> None:
    """Restore the run from the checkpoint of ``step``. Raises ConfigError: it is of another recipe."""
    manifest = Manifest.read(run.checkpoints.of_step(step))
    if manifest.state["identity"] != run.identity:
        raise ConfigError(
            f"the checkpoint of step {step:,} is of another recipe",
            value=run.checkpoints.of_step(step).uri,
            fix="train with the recipe it was written by, or choose another --out",
        )
    with run.checkpoints.fetched(step) as folder:
        load_engines(stage.engines, folder, written_by=manifest.world_size)
        run.history = History.from_parquet((folder / "metrics.parquet").read_bytes())
    run.step = step
    best = manifest.state["best"]
    run.best = (best[0], best[1]) if best else None
    run.quarantined = dict(manifest.state["quarantined"])
    run.loader.seek(int(manifest.state["position"]))
    run.say(f"resumes from the checkpoint of step {step:,}")


def train(stage: Stage, run: Run) -> None:
    """Train from the current step to the last, then publish weights, curves and done.json.

    Raises:
        DivergedError: loss, gradient or weights are NaN or infinite; names the last good checkpoint. The metrics and
            curves up to there are published.
        StorageError: the last checkpoint cannot be stored.
        InputError: more utterances than allowed cannot be read, over all ranks.
    """
    try:
        _train(stage, run)
    except DivergedError:
        _leave_evidence(stage, run)
        raise
    run.loader.close()
    if run.is_leader:
        _finish(stage, run)


def _train(stage: Stage, run: Run) -> None:
    pace = Pace(run.loader)
    if run.step == 0:
        _validate(stage, run)
    while run.step < run.train.num_steps:
        _step(stage, run, pace)
        last = run.step == run.train.num_steps
        if last or run.step % run.train.validate_every == 0:
            _validate(stage, run)
            pace.restart()
        if last or run.step % run.train.checkpoint_every == 0:
            _checkpoint(stage, run, must_succeed=last)
            pace.restart()


def _step(stage: Stage, run: Run, pace: Pace) -> None:
    step, train = run.step + 1, run.train
    batches = run.loader.take()
    torch.manual_seed(mix(train.seed, step, world()[0]) >> 1)
    logged = step % train.log_every == 0 or step == train.num_steps or step == 1
    lr = learning_rate(train.optimizer, step, train.num_steps)
    stats = stage.train_step(step, batches, lr, detailed=logged)
    if logged or not _all_finite(stats):
        run.history.add(step, "train", stats | {"learning_rate": lr})
    _require_finite(stats, run, f"step {step:,}")
    run.step = step
    pace.count(batches)
    if logged:
        _log(stage, run, pace, stats[stage.headline])


def _log(stage: Stage, run: Run, pace: Pace, headline: float) -> None:
    measures = pace.measures(run.train.num_steps - run.step)
    run.history.add(run.step, "timing", measures.as_metrics())
    run.say(measures.reached(stage.name, run.step, run.train.num_steps, {stage.headline: headline}))
    run.advance(measures.audio_s, measures.audio_s_per_s)
    pace.restart()


def _all_finite(stats: Mapping[str, float]) -> bool:
    return all(map(math.isfinite, stats.values()))


def _require_finite(stats: Mapping[str, float], run: Run, when: str) -> None:
    # What is checked is the same on all ranks, so that every rank raises at the same step and none waits for another.
    wrong = sorted(name for name, value in stats.items() if not math.isfinite(value))
    if wrong:
        steps = run.checkpoints.steps()
        good = f"the last good checkpoint is step {steps[-1]:,}" if steps else "no checkpoint was written yet"
        named = ", ".join(wrong[:5]) + (f" and {len(wrong) - 5} more" if len(wrong) > 5 else "")
        raise DivergedError(
            f"{when} of {run.run_uri}: {named} is not finite; {good}",
            fix="lower optimizer.lr, raise optimizer.warmup_steps or use precision fp32, with another --out",
        )


def _leave_evidence(stage: Stage, run: Run) -> None:
    """Publish the metrics and curves that led to a failure, as far as storage accepts them."""
    if run.is_leader:
        with contextlib.suppress(StorageError):
            run.history.publish(run.run_uri)
            _draw(stage, run)


def _validate(stage: Stage, run: Run) -> None:
    with as_written(run.is_compiled):
        _validate_as_written(stage, run)


def _validate_as_written(stage: Stage, run: Run) -> None:
    metrics = stage.validate()
    run.history.add(run.step, "valid", {name: value for name, value in metrics.items() if "[" not in name})
    run.history.add(run.step, "dims", {name: value for name, value in metrics.items() if "[" in name})
    _require_finite(metrics, run, f"the validation after step {run.step:,}")
    run.say(f"step {run.step:,}: validation {stage.headline} {metrics[stage.headline]:.4f}{in_short(metrics)}")
    for warned in stage.warnings(run.history.validations()):
        run.say(f"step {run.step:,}: warning: {warned.text}")
    if run.is_leader:
        try:
            run.history.publish(run.run_uri)
            stage.illustrate(run.step)
        except StorageError as error:
            run.say(f"metrics of step {run.step:,} could not be stored: {error}")


def _checkpoint(stage: Stage, run: Run, *, must_succeed: bool) -> None:
    """Store a checkpoint; when storage refuses, say so and go on, unless this is the last one."""
    weights = {f"{name}.weights": holds_finite_weights(engine) for name, engine in stage.engines.items()}
    _require_finite({name: 0.0 if good else math.nan for name, good in weights.items()}, run, f"step {run.step:,}")
    unreadable = _gather_quarantine(run)
    problems = [p for p in gather_from_ranks(_store(stage, run)) if isinstance(p, str)]
    if problems and must_succeed:
        raise StorageError(
            f"the last checkpoint cannot be stored: {problems[0]}",
            fix="mend the storage, then run again: it resumes from the checkpoint before",
        )
    if problems:
        run.say(f"checkpoint of step {run.step:,} not stored, training goes on: {problems[0]}")
    run.loader.require_readable(unreadable)


def _gather_quarantine(run: Run) -> dict[str, str]:
    """What any rank could not read since it started, utterance_id -> reason; what is new is logged."""
    parts = gather_from_ranks(dict(run.loader.utterances.quarantined))
    unreadable = {utterance: reason for part in parts for utterance, reason in part.items()}
    for utterance, reason in unreadable.items():
        if utterance not in run.quarantined:
            run.say(f"quarantined {utterance}: {reason}")
    run.quarantined.update(unreadable)
    return unreadable


def _store(stage: Stage, run: Run) -> str | None:
    """Every rank stores its files, then rank 0 commits; returns what went wrong."""
    everyone = gather_from_ranks(save_engines(stage.engines, run.checkpoints, run.step, run.history))
    problem = next((part for part in everyone if isinstance(part, str)), None)
    if not run.is_leader:
        return problem
    files = tuple(sorted((f for part in everyone if isinstance(part, list) for f in part), key=lambda f: f.name))
    problem = problem or _commit(run, files, _best(stage, run))
    if problem:  # what was stored of it can only be in the way, of a full disk for one
        with contextlib.suppress(StorageError):
            run.checkpoints.discard(run.step)
    return problem


def _best(stage: Stage, run: Run) -> tuple[int, float] | None:
    """(step, value) of the best validation that has a checkpoint, counting the one about to be stored."""
    steps, values = run.history.series("valid", stage.headline)
    if steps and steps[-1] == run.step and (run.best is None or values[-1] < run.best[1]):
        return run.step, values[-1]
    return run.best


def _commit(run: Run, files: tuple[StoredFile, ...], best: tuple[int, float] | None) -> str | None:
    """Make the checkpoint exist and delete those that it replaces; returns why it does not exist."""
    state = {
        "position": run.loader.position, "best": best, "quarantined": run.quarantined, "identity": run.identity
    }  # fmt: skip
    try:
        run.checkpoints.commit(Manifest(run.step, world()[1], state, files))
    except StorageError as error:
        return str(error)
    run.best = best
    try:
        run.checkpoints.retain(last=run.train.keep_checkpoints, best=best[0] if best else None)
    except StorageError as error:
        run.say(f"older checkpoints could not be deleted: {error}")
    return None


def _finish(stage: Stage, run: Run) -> None:
    _, values = run.history.series("valid", stage.headline)
    weights = stage.publish()
    run.history.publish(run.run_uri)
    _draw(stage, run)
    name = stage.headline
    summary = {
        "steps": run.step,
        "headline": name,
        "precision": run.train.precision,
        f"first_valid_{name}": values[0],
        f"final_valid_{name}": values[-1],
        f"best_valid_{name}": min(values),
        "best_checkpoint_step": run.best[0] if run.best else None,
        "quarantined": run.quarantined,
        "warnings": _all_warnings(stage, run.history.validations()),
        **weights,
    }
    mark_done(run.run_uri, summary)


def _all_warnings(stage: Stage, validations: Sequence[Validation]) -> list[dict[str, Any]]:
    """Warnings of all validations, drawn from the history, so that a resumed run reports the same."""
    told = [(one.step, stage.warnings(validations[:place])) for place, one in enumerate(validations, start=1)]
    return summed_up(told)


def _draw(stage: Stage, run: Run) -> None:
    picture = loss_curve(
        run.history, stage.headline, title=f"{stage.name}: {stage.headline}", unit=stage.unit, marks=stage.marks()
    )
    curves = Folder(run.run_uri) / CURVES
    curves.publish(f"{stage.headline}.png", picture)
    curves.publish("overview.png", overview(run.history, title=stage.name))
    curves.publish("dims.png", dims(run.history, title=stage.name))
