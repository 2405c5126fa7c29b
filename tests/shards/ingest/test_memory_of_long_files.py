"""What a file of 70 minutes costs in memory, in a process of its own: no more than its decoder and one utterance."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import soundfile

from syllabary.shards.dataset import read_index
from tests.helpers.ingest_testing import RATE, ledger_of, tone

MINUTES, MOST_MB = 70, 300
SHARD = """
import sys
from syllabary.shards.ingest.config import IngestConfig
from tests.helpers.ingest_testing import shard

shard(sys.argv[1], sys.argv[2], IngestConfig(layout="folder"))
print(int(open("/proc/self/status").read().split("VmHWM:")[1].split()[0]) // 1024)
"""


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize(
    ("fmt", "subtype"), [("FLAC", "PCM_16"), ("MP3", "MPEG_LAYER_III"), ("OGG", "OPUS")], ids=["flac", "mp3", "opus"]
)
def test_seventy_minutes_below_300_mb(tmp_path: Path, fmt: str, subtype: str) -> None:
    """The voice is looked for too, so that the file is read twice."""
    minute = tone(60)
    (tmp_path / "in").mkdir()
    with soundfile.SoundFile(tmp_path / "in" / "long", "w", RATE, 1, subtype, format=fmt) as target:
        for _ in range(MINUTES):
            target.write(minute)
    run = subprocess.run(
        [sys.executable, "-c", SHARD, str(tmp_path / "in"), str(tmp_path / "out")],
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    print(f"{fmt}: {run.stdout.strip()} MB")
    assert int(run.stdout) < MOST_MB
    counted = sum(row["num_samples"] for row in ledger_of(tmp_path / "out"))
    assert 0 <= counted - MINUTES * 60 * RATE < 0.1 * RATE, "MP3 and Opus pad their ends"
    rows = read_index(str(tmp_path / "out")).to_pylist()
    assert sum(row["num_samples"] for row in rows) > 0.5 * counted
