"""Turn voice activity into utterances: regions of speech, tiles, and cuts of long speech at its quietest points.

All positions are samples at the shard's rate, as half-open (start, stop).
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from typing import Protocol

import numpy as np

from syllabary.shards.audio import Samples
from syllabary.shards.ingest.config import IngestConfig

Region = tuple[int, int]
_HOPS_PER_S, _WINDOW_HOPS = 100, 10


class Reader(Protocol):
    """Reads samples start..stop of a recording; starts never go back."""

    def read(self, start: int, stop: int) -> Samples:
        """Samples [stop - start]."""
        ...


def speech_regions(
    activity: Iterable[tuple[float, float]], num_samples: int, rate: int, join_gap_s: float
) -> list[Region]:
    """Voice activity in seconds as disjoint regions in order: sorted, clipped to the recording, close ones joined."""
    join_gap = round(join_gap_s * rate)
    regions: list[Region] = []
    for onset, offset in sorted(activity):
        start, stop = max(0, round(onset * rate)), min(num_samples, round(offset * rate))
        if start >= stop:
            continue
        if regions and start - regions[-1][1] <= join_gap:
            regions[-1] = (regions[-1][0], max(stop, regions[-1][1]))
        else:
            regions.append((start, stop))
    return regions


def tiles(num_samples: int, max_samples: int) -> list[Region]:
    """The whole of a recording as the fewest pieces of at most ``max_samples``, equal within one sample."""
    count = -(-num_samples // max_samples)
    edges = [index * num_samples // count for index in range(count + 1)] if count else []
    return list(itertools.pairwise(edges))


def limits(config: IngestConfig, rate: int) -> tuple[int, int]:
    """Shortest and longest utterance in samples."""
    return max(1, round(config.min_utterance_s * rate)), max(1, int(config.max_utterance_s * rate))


def cut_long(
    region: Region, reader: Reader, rate: int, min_samples: int, max_samples: int
) -> Iterator[tuple[int, Samples]]:
    """A region as pieces (start, samples) of at most ``max_samples``, cut at the quietest points.

    Each cut lies in the later half of the longest possible piece, and leaves at least ``min_samples`` behind it. Only
    one piece is in memory at a time.
    """
    start, stop = region
    while stop - start > max_samples:
        window = reader.read(start, start + max_samples)
        latest = min(max_samples, stop - start - min_samples)
        cut = quietest_point(window, max_samples // 2, latest, rate)
        yield start, window[:cut]
        start += cut
    yield start, reader.read(start, stop)


def quietest_point(samples: Samples, earliest: int, latest: int, rate: int) -> int:
    """The centre of the 100 ms of least energy with its centre in earliest..latest; the last one when several are.

    A range shorter than that gives ``latest``.
    """
    hop = max(1, rate // _HOPS_PER_S)
    half = hop * _WINDOW_HOPS // 2
    centres = np.arange(max(earliest, half), min(latest, len(samples) - half) + 1, hop)
    if not len(centres):
        return latest
    energy = np.concatenate([[0.0], np.cumsum(np.square(samples, dtype=np.float64))])
    loudness = energy[centres + half] - energy[centres - half]
    return int(centres[len(centres) - 1 - int(np.argmin(loudness[::-1]))])
