"""How many recordings a shard takes: by the bytes of FLAC that are expected of each, whatever it is stored as."""

from __future__ import annotations

import pytest

from syllabary.shards.ingest.planning import plan_shards
from syllabary.shards.ingest.recordings import Recording
from tests.helpers.ingest_testing import config


def recordings_of(suffix: str, size_bytes: int, **values: float) -> list[Recording]:
    names = [f"{number}{suffix}" for number in range(8)]
    return [Recording(name, name, name, size_bytes, "f", f"s{name}", **values) for name in names]


@pytest.mark.parametrize(
    ("suffix", "size_bytes", "each"),
    [
        (".flac", 1_000_000, 1), (".flac", 500_000, 2), (".flac", 300_000, 4),
        (".wav", 1_000_000, 2),  # half as much in FLAC
        (".WAV", 500_000, 4),
        (".mp3", 400_000, 1),  # 2.5 times as much
        (".mp3", 200_000, 2),
        (".opus", 167_000, 1), (".opus", 84_000, 2),  # six times
    ],
)  # fmt: skip
def test_a_shard_is_closed_when_what_it_holds_comes_to_its_size(suffix: str, size_bytes: int, each: int) -> None:
    settings = config(shard_size_mb=1, valid_percent=0, test_percent=0)
    plans = plan_shards(recordings_of(suffix, size_bytes), settings)
    assert [len(plan.recordings) for plan in plans] == [each] * (8 // each)


@pytest.mark.parametrize(
    ("start_s", "end_s", "each"),
    [
        (0.0, 10.0, 4),  # 24 kB a second: 240 kB, so that four are 0.96 MB
        (35.0, 45.0, 4),
        (20.0, 40.0, 2),
        (0.0, 1000.0, 1),  # never more than the whole file
    ],
)
def test_a_part_of_a_file_is_expected_by_its_length(start_s: float, end_s: float, each: int) -> None:
    settings = config(shard_size_mb=0.95, valid_percent=0, test_percent=0)
    plans = plan_shards(recordings_of(".flac", 2_000_000, start_s=start_s, end_s=end_s), settings)
    assert [len(plan.recordings) for plan in plans] == [each] * (8 // each)
