"""Planning and cutting in integers: every sample once, every limit kept, whatever the input."""

from __future__ import annotations

import itertools
import math
from collections import Counter

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from syllabary.shards.dataset import SPLITS
from syllabary.shards.ingest.config import IngestConfig
from syllabary.shards.ingest.ledger import fill_gaps
from syllabary.shards.ingest.planning import next_numbers, plan_shards
from syllabary.shards.ingest.recordings import Recording, escape, unescape
from syllabary.shards.ingest.segments import cut_long, quietest_point, speech_regions, tiles
from syllabary.shards.ingest.splits import percentile, split_of

RATE = 1000
times = st.floats(0, 30, allow_nan=False)
activities = st.lists(st.tuples(times, times).map(lambda pair: (min(pair), max(pair))), max_size=20)


class Noise:
    """A recording whose samples are a pure function of their position."""

    def __init__(self, num_samples: int) -> None:
        self.samples = np.random.default_rng(num_samples).standard_normal(num_samples).astype(np.float32)
        self.last_start = 0

    def read(self, start: int, stop: int) -> np.ndarray:
        assert self.last_start <= start <= stop <= len(self.samples)
        self.last_start = start
        return self.samples[start:stop]


@settings(deadline=None)
@given(activities, st.integers(0, 25_000), st.floats(0, 2))
def test_regions_are_ordered_disjoint_and_hold_all_speech(activity: list, num_samples: int, gap_s: float) -> None:
    regions = speech_regions(activity, num_samples, RATE, gap_s)
    edges = [edge for region in regions for edge in region]
    assert edges == sorted(edges)
    assert all(0 <= start < stop <= num_samples for start, stop in regions)
    assert all(after - before > round(gap_s * RATE) for (_, before), (after, _) in itertools.pairwise(regions))
    for onset, offset in activity:
        start, stop = round(onset * RATE), min(num_samples, round(offset * RATE))
        if start < stop:
            assert any(low <= start and stop <= high for low, high in regions)


@settings(deadline=None)
@given(st.integers(0, 20_000), st.integers(1, 4000))
def test_tiles_cover_each_sample_once(num_samples: int, max_samples: int) -> None:
    pieces = tiles(num_samples, max_samples)
    assert [start for start, _ in pieces] == [0, *(stop for _, stop in pieces[:-1])][: len(pieces)]
    assert sum(stop - start for start, stop in pieces) == num_samples
    lengths = {stop - start for start, stop in pieces}
    assert all(0 < length <= max_samples for length in lengths)
    assert not lengths or max(lengths) - min(lengths) <= 1


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 40_000), st.integers(0, 500), st.integers(2, 3000), st.data())
def test_long_speech_is_cut_without_loss(length: int, start: int, max_samples: int, data: st.DataObject) -> None:
    min_samples = data.draw(st.integers(1, max_samples // 2))
    reader = Noise(start + length)
    pieces = list(cut_long((start, start + length), reader, RATE, min_samples, max_samples))
    position = start
    for at, samples in pieces:
        assert at == position
        position += len(samples)
        assert len(samples) <= max_samples
        assert len(samples) >= min(min_samples, length)
    assert position == start + length
    assert (np.concatenate([samples for _, samples in pieces]) == reader.samples[start:]).all()


@settings(deadline=None)
@given(st.integers(200, 5000), st.data())
def test_the_quietest_point_is_the_quietest(length: int, data: st.DataObject) -> None:
    samples = Noise(length).samples
    earliest = data.draw(st.integers(0, length))
    latest = data.draw(st.integers(earliest, length))
    cut = quietest_point(samples, earliest, latest, RATE)
    assert earliest <= cut <= latest
    candidates = range(max(earliest, 50), min(latest, length - 50) + 1, 10)
    if candidates:
        loudness = {at: float(np.sum(samples[at - 50 : at + 50].astype(np.float64) ** 2)) for at in candidates}
        assert loudness[cut] <= min(loudness.values()) + 1e-6


names = st.text(st.characters(exclude_categories=("Cs",)), min_size=1, max_size=12)


def recordings_of(sizes: dict[str, int]) -> list[Recording]:
    return [
        Recording(
            recording_id=escape(name), source=name, location="", size_bytes=size, fingerprint="", speaker=name[:1]
        )
        for name, size in sizes.items()
    ]


@settings(deadline=None)
@given(st.dictionaries(names, st.integers(0, 3_000_000), max_size=40), st.randoms())
def test_a_plan_holds_each_recording_once_whatever_the_order(sizes: dict, random: object) -> None:
    config = IngestConfig(shard_size_mb=2, valid_percent=20, test_percent=20)
    recordings = recordings_of(sizes)
    plans = plan_shards(recordings, config)
    shuffled = list(recordings)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert plan_shards(shuffled, config) == plans
    held = [recording for plan in plans for recording in plan.recordings]
    assert Counter(r.recording_id for r in held) == Counter(r.recording_id for r in recordings)
    assert len({plan.shard for plan in plans}) == len(plans)
    for plan in plans:
        assert {split_of(r.speaker, r.recording_id, config) for r in plan.recordings} == {plan.split}
        assert sum(r.size_bytes for r in plan.recordings[:-1]) < 2_000_000
    for split in SPLITS:
        numbers = [int(plan.shard.rpartition("-")[2]) for plan in plans if plan.split == split]
        assert sorted(numbers) == list(range(len(numbers)))
        assert next_numbers(plans)[split] == len(numbers)


@settings(deadline=None)
@given(names, st.text(max_size=5))
def test_the_split_depends_on_the_speaker_alone(speaker: str, recording: str) -> None:
    config = IngestConfig(valid_percent=30, test_percent=30)
    assert split_of(speaker, recording, config) == split_of(speaker, "another", config)
    assert 0 <= percentile(speaker) < 100


def test_shares_are_about_what_was_asked_for() -> None:
    config = IngestConfig(valid_percent=10, test_percent=5)
    found = Counter(split_of(str(number), "", config) for number in range(20_000))
    for split, share in (("test", 0.05), ("valid", 0.10), ("train", 0.85)):
        assert math.isclose(found[split] / 20_000, share, abs_tol=0.01)


@settings(deadline=None)
@given(st.lists(st.integers(1, 50), max_size=10), st.data())
def test_gaps_are_filled_exactly(lengths: list[int], data: st.DataObject) -> None:
    rows, position = [], 0
    for length in lengths:
        position += data.draw(st.integers(0, 20))
        rows.append({"recording_id": "r", "status": "shard", "start_sample": position, "num_samples": length})
        position += length
    total = position + data.draw(st.integers(0, 20))
    gap = {"recording_id": "r", "status": "silence"}
    filled = fill_gaps(data.draw(st.permutations(rows)), total, gap)
    position = 0
    for row in filled:
        assert row["start_sample"] == position
        position += row["num_samples"]
    assert position == total
    assert [row for row in filled if row["status"] == "shard"] == rows


@settings(deadline=None)
@given(st.text(max_size=20), st.binary(max_size=6))
def test_escaping_is_reversible_and_printable(text: str, raw: bytes) -> None:
    import os

    try:
        name = text.encode().decode() + os.fsdecode(raw)
    except UnicodeEncodeError:
        return
    assert unescape(escape(name)) == name
    assert escape(name).isprintable()
    escape(name).encode()
