"""Measure the pace of training: seconds, audio and waiting of all ranks between two logged steps, and the time left."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from syllabary.workers.control.log import Reached
from syllabary.workers.training.data.clips import Batch
from syllabary.workers.training.data.loader import TrainLoader
from syllabary.workers.training.engine import gather_from_ranks


@dataclass(frozen=True)
class Measures:
    """One stretch of steps, over all ranks.

    Attributes:
        step_s: seconds per step.
        data_wait_fraction: share of the time spent waiting for data, of the rank that waited longest.
        audio_s: seconds of audio that all ranks trained on.
        audio_s_per_s: the same per second.
        eta_s: seconds that the steps left will take at this rate.
    """

    step_s: float
    data_wait_fraction: float
    audio_s: float
    audio_s_per_s: float
    eta_s: float

    def as_metrics(self) -> dict[str, float]:
        """What the history keeps, by name."""
        return {name: value for name, value in vars(self).items() if name != "audio_s"}

    def reached(self, stage: str, step: int, num_steps: int, figures: Mapping[str, float]) -> Reached:
        """How far the training is, with these figures and the audio-seconds per second."""
        figures = {**figures, "audio_s_per_s": self.audio_s_per_s}
        return Reached(stage, "steps", step, num_steps, 1 / self.step_s, self.eta_s, figures)


class Pace:
    """What this rank did since the last logged step."""

    def __init__(self, loader: TrainLoader, clock: Callable[[], float] = time.monotonic) -> None:
        self._loader, self._clock = loader, clock
        self.restart()

    def restart(self) -> None:
        """Begin a new stretch."""
        self._started, self._waited = self._clock(), self._loader.waited_s
        self._steps = self._samples = 0

    def count(self, batches: list[Batch]) -> None:
        """One more step, of these batches."""
        self._steps += 1
        self._samples += sum(int(batch.num_samples.sum()) for batch in batches)

    def measures(self, steps_left: int) -> Measures:
        """The stretch so far. Collective: every rank calls it after the same step."""
        elapsed = max(self._clock() - self._started, 1e-9)
        ranks = gather_from_ranks((self._samples, (self._loader.waited_s - self._waited) / elapsed))
        audio_s = sum(samples for samples, _ in ranks) / self._loader.utterances.sample_rate
        step_s = elapsed / max(self._steps, 1)
        return Measures(step_s, max(waited for _, waited in ranks), audio_s, audio_s / elapsed, step_s * steps_left)
