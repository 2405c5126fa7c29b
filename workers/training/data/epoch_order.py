"""The order in which utterances are trained on: pure integers, no state beyond a position.

Training reads one endless sequence of positions; epoch e covers positions [e N, (e + 1) N) and is a permutation of the
N utterances that depends on (seed, e) alone. A step of ``world_size`` ranks takes the next world_size x
micro_batch_size x grad_accum_steps positions, so every batch is full, every utterance comes exactly once an epoch over
all ranks whatever their number, no rank runs dry before another, and resuming is starting at a position.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

_MASK = (1 << 64) - 1


def mix(*values: int) -> int:
    """A 64-bit hash of integers (splitmix64 chained), the same on every machine and version.

    >>> mix(0, 1) != mix(1, 0)
    True
    """
    state = 0
    for value in values:
        state = (state * 0x9E3779B97F4A7C15 + value + 0x632BE59BD9B4E019) & _MASK
        state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
        state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & _MASK
        state ^= state >> 31
    return state


@lru_cache(maxsize=4)
def epoch_order(seed: int, epoch: int, num_utterances: int) -> np.ndarray:
    """The permutation of epoch ``epoch``: int64 [num_utterances].

    Sorting by a hash rather than numpy's shuffle keeps the order independent of numpy's version.
    """
    with np.errstate(over="ignore"):
        keys = np.arange(num_utterances, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        keys += np.uint64(mix(seed, epoch))
        keys = (keys ^ (keys >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        keys = (keys ^ (keys >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        keys ^= keys >> np.uint64(31)
    return np.argsort(keys, kind="stable")


@dataclass(frozen=True)
class Slot:
    """One place in a batch: the utterance's row in the index, and the seed of its crop, mask and augmentation."""

    utterance: int
    seed: int


@dataclass(frozen=True)
class SamplePlan:
    """The order of training over ``num_utterances`` utterances.

    Raises:
        ValueError: there is nothing to order.
    """

    num_utterances: int
    seed: int

    def __post_init__(self) -> None:
        if self.num_utterances < 1:
            raise ValueError(f"num_utterances is {self.num_utterances}; expected at least 1")

    def slot(self, position: int) -> Slot:
        """The slot at a position of the endless sequence."""
        epoch, place = divmod(position, self.num_utterances)
        utterance = int(epoch_order(self.seed, epoch, self.num_utterances)[place])
        return Slot(utterance, mix(self.seed, epoch, utterance))

    def micro_batch(self, position: int, *, rank: int, world_size: int, micro_batch_size: int) -> list[Slot]:
        """What ``rank`` takes of the ``world_size * micro_batch_size`` positions from ``position`` on.

        Ranks take neighbouring runs, so two ranks with B clips together hold what one rank with 2 B clips holds.
        """
        if not 0 <= rank < world_size:
            raise ValueError(f"rank is {rank}; expected 0 to {world_size - 1}")
        first = position + rank * micro_batch_size
        return [self.slot(p) for p in range(first, first + micro_batch_size)]


def crop_start(seed: int, num_samples: int, crop_samples: int) -> int:
    """First sample of the crop of an utterance: 0 when it fits, else uniform over all starts."""
    spare = num_samples - crop_samples
    return mix(seed, 1) % (spare + 1) if spare > 0 else 0
