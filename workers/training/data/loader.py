"""Load batches from shards: range reads by index, decoding, crops and augmentation, in the background.

What a batch holds is a pure function of the plan and a position, so prefetching, restarts and the number of ranks
change nothing, and resuming reads nothing of what is behind. An utterance that cannot be read is quarantined with its
reason and replaced by another one drawn from its slot's seed; beyond a stated share the run stops. An object store that
is away is no fault of an utterance: it is waited for, and then the run stops.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from syllabary.shards import audio, dataset
from syllabary.shards.errors import InputError, SyllabaryError, UnavailableError
from syllabary.workers.control.patience import patiently
from syllabary.workers.training.data.clips import Batch, ClipMaker
from syllabary.workers.training.data.epoch_order import SamplePlan, Slot, epoch_order, mix

PREFETCH_STEPS = 3
STORAGE_PATIENCE_S = 300.0
_READ_COLUMNS = ("utterance_id", "shard", "offset", "size_bytes", "sample_rate", "num_samples", "sha256", "speaker")
_SUBSTITUTES = 16


class Utterances:
    """The utterances of one split, readable one by one at the model's rate.

    Attributes:
        quarantined: utterance_id -> why it could not be read, as far as this process has met it.
    """

    def __init__(self, shards_uri: str, split: Literal["train", "valid", "test"], sample_rate: int) -> None:
        table = dataset.read_index(shards_uri, splits=[split])
        self._columns = table.select([c for c in _READ_COLUMNS if c in table.column_names]).combine_chunks()
        self.shards_uri, self.split, self.sample_rate = shards_uri, split, sample_rate
        self.quarantined: dict[str, str] = {}

    def __len__(self) -> int:
        return self._columns.num_rows

    @property
    def num_samples(self) -> int:
        """Of all utterances at the model's rate, as the index has them."""
        columns = (self._columns.column(name).to_numpy() for name in ("num_samples", "sample_rate"))
        return sum(-(-int(n) * self.sample_rate // int(rate)) for n, rate in zip(*columns, strict=True))

    def speakers(self) -> set[str]:
        """The speakers of this split, as far as the corpus names them."""
        return {name for name in self._columns.column("speaker").unique().to_pylist() if name is not None}

    def row(self, utterance: int) -> dict[str, Any]:
        """The index row of an utterance."""
        return self._columns.slice(utterance, 1).to_pylist()[0]

    def read(self, utterance: int) -> np.ndarray:
        """The whole utterance, float32 [num_samples], at the model's rate.

        Raises:
            SyllabaryError: its shard is gone, its bytes changed, or they do not decode.
        """
        row = self.row(utterance)
        samples, rate = audio.decode(dataset.read_utterance(self.shards_uri, row))
        return audio.resample(samples, rate, self.sample_rate)

    def read_or_quarantine(self, utterance: int) -> np.ndarray | None:
        """The utterance, or None after noting why it cannot be read.

        Raises:
            UnavailableError: the store has been away for ``STORAGE_PATIENCE_S``.
        """
        try:
            return patiently(lambda: self.read(utterance), STORAGE_PATIENCE_S, passes=_is_away)
        except UnavailableError:
            raise
        except SyllabaryError as error:
            self.quarantined[str(self.row(utterance)["utterance_id"])] = str(error)
            return None


def _is_away(error: Exception) -> bool:
    return isinstance(error, UnavailableError)


@dataclass(frozen=True)
class RankShare:
    """Which part of each step is this rank's."""

    rank: int
    world_size: int
    micro_batch_size: int
    grad_accum_steps: int

    @property
    def positions_a_step(self) -> int:
        """Positions that one step of all ranks takes."""
        return self.world_size * self.micro_batch_size * self.grad_accum_steps


@dataclass
class TrainLoader:
    """Endless steps from ``position`` on, read ahead by a background thread.

    Attributes:
        position: of the next step to be taken; the only state there is.
        waited_s: time the training loop has waited for data so far.
    """

    utterances: Utterances
    plan: SamplePlan
    clips: ClipMaker
    share: RankShare
    position: int = 0
    max_quarantined_percent: float = 5.0
    waited_s: float = 0.0
    _ahead: deque[Future[list[Batch]]] = field(default_factory=deque)
    _pool: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1, "loader"))

    def __post_init__(self) -> None:
        self._next_read = self.position

    def take(self) -> list[Batch]:
        """The next step: ``grad_accum_steps`` micro-batches.

        Raises:
            InputError: more than max_quarantined_percent of the utterances cannot be read.
            UnavailableError: the store is away.
        """
        while len(self._ahead) < PREFETCH_STEPS:
            self._ahead.append(self._pool.submit(self.step_at, self._next_read))
            self._next_read += self.share.positions_a_step
        started = time.monotonic()
        batches = self._ahead.popleft().result()
        self.waited_s += time.monotonic() - started
        self.position += self.share.positions_a_step
        return batches

    def seek(self, position: int) -> None:
        """Go on from another position; call before the first :meth:`take`."""
        assert not self._ahead, "seek before the first step is read"
        self.position = self._next_read = position

    def step_at(self, position: int) -> list[Batch]:
        """The micro-batches of the step at a position, for this rank."""
        share = self.share
        stride = share.world_size * share.micro_batch_size
        return [self._micro_batch(position + k * stride) for k in range(share.grad_accum_steps)]

    def close(self) -> None:
        """Stop reading ahead."""
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _micro_batch(self, position: int) -> Batch:
        read = [self._readable(slot) for slot in self._wanted(position)]
        slots = [slot for slot, _ in read]
        return self.clips.batch([self.clips.clip(samples, slot) for slot, samples in read], slots)

    def _wanted(self, position: int) -> list[Slot]:
        share = self.share
        return self.plan.micro_batch(
            position, rank=share.rank, world_size=share.world_size, micro_batch_size=share.micro_batch_size
        )

    def _readable(self, slot: Slot) -> tuple[Slot, np.ndarray]:
        for candidate in self._candidates(slot):
            samples = self.utterances.read_or_quarantine(candidate.utterance)
            if samples is not None and len(samples):
                return candidate, samples
        raise AssertionError("candidates end in an error")

    def _candidates(self, slot: Slot) -> Iterator[Slot]:
        """The slot, then others in its place, drawn from its seed, as long as none can be read. Raises InputError."""
        yield slot
        for attempt in range(1, _SUBSTITUTES):
            self.require_readable(self.utterances.quarantined)
            yield Slot(mix(slot.seed, 3, attempt) % len(self.utterances), slot.seed)
        self.require_readable(self.utterances.quarantined)
        raise InputError(
            f"no readable utterance found in {_SUBSTITUTES} tries",
            value=self.utterances.shards_uri,
            fix="verify the shards",
        )

    def require_readable(self, quarantined: Mapping[str, str]) -> None:
        """Raise InputError when these utterances (utterance_id -> reason) are more than may be unreadable."""
        bad, total = len(quarantined), len(self.utterances)
        if bad * 100 > max(self.max_quarantined_percent * total, 100):
            last = list(quarantined.values())[-1]
            raise InputError(
                f"{bad} of {total} utterances cannot be read, the last because: {last}",
                expected=f"at most {self.max_quarantined_percent:g} %",
                fix="mend the shards, or raise max_quarantined_percent",
            )


def fixed_batches(
    utterances: Utterances, clips: ClipMaker, share: RankShare, *, seed: int, count: int
) -> Iterator[Batch]:
    """This rank's part of the same ``count`` utterances every time, for validation; unreadable ones are left out, and
    stand in ``utterances.quarantined``."""
    chosen = epoch_order(seed, 0, len(utterances))[:count][share.rank :: share.world_size]
    for first in range(0, len(chosen), share.micro_batch_size):
        pairs: list[tuple[Slot, np.ndarray]] = []
        for utterance in map(int, chosen[first : first + share.micro_batch_size]):
            samples = utterances.read_or_quarantine(utterance)
            if samples is not None and len(samples):
                pairs.append((Slot(utterance, mix(seed, 0, utterance)), samples))
        if pairs:
            slots = [slot for slot, _ in pairs]
            yield clips.batch([clips.clip(samples, slot) for slot, samples in pairs], slots)
