"""What planning a long list takes: CPU time and the peak of memory, for lines that are parts of files.

    python infra/benchmarks/bench_manifest.py [--lines 1000000] [--files 100]

A NeMo manifest with speaker, text, offset and duration, of files that are there; every line becomes a recording of the
published plan. Asked: a million lines below 1 GB and 60 s.
"""

from __future__ import annotations

import json
import resource
import tempfile
import time
from pathlib import Path

import numpy as np
from command_line import Parser, at_least, run

from syllabary.shards import audio
from syllabary.shards.ingest import ingest
from syllabary.shards.ingest.config import IngestConfig
from syllabary.shards.ingest.sources.listing import list_source, tell_source

_TEXT = "a text of about eighty letters, as an utterance of five seconds of read speech has it, number "


def write_manifest(folder: Path, num_lines: int, num_files: int) -> Path:
    """A NeMo manifest of ``num_lines`` parts of ``num_files`` short files."""
    (folder / "wavs").mkdir()
    data = audio.encode_flac(np.zeros(1600, np.float32), 16_000)
    for number in range(num_files):
        (folder / f"wavs/book_{number:04}.flac").write_bytes(data)
    path = folder / "manifest.json"
    with path.open("w") as file:
        for line in range(num_lines):
            at = line // num_files
            said = {"audio_filepath": f"wavs/book_{line % num_files:04}.flac", "offset": at * 5.0, "duration": 4.5,
                    "speaker": f"speaker {line % num_files % 50}", "text": f"{_TEXT}{line}"}  # fmt: skip
            file.write(json.dumps(said) + "\n")
    return path


def peak_mb() -> float:
    """The most memory that this process has held, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6


def main() -> None:
    """Plan, and print what it took."""
    parser = Parser(__doc__)
    parser.add_argument("--lines", type=at_least(1), default=1_000_000)
    parser.add_argument("--files", type=at_least(1), default=100)
    arguments = parser.parse_args()
    config = IngestConfig()
    with tempfile.TemporaryDirectory() as scratch:
        (Path(scratch) / "in").mkdir()
        manifest = write_manifest(Path(scratch) / "in", arguments.lines, arguments.files)
        before, started, begun = peak_mb(), time.process_time(), time.monotonic()
        recordings = list_source(tell_source(str(manifest), config), config).recordings
        listed, listed_mb = time.process_time() - started, peak_mb()
        out = str(Path(scratch) / "out")
        ingest.claim_output(out, str(manifest), config)
        plans = ingest.update_plan(out, recordings, config)
        cpu_s, wall_s = time.process_time() - started, time.monotonic() - begun
        size_mb = manifest.stat().st_size / 1e6
    print(f"{len(recordings):,} lines ({size_mb:.0f} MB) in {len(plans):,} shards: {cpu_s:.1f} s CPU, {wall_s:.1f} s")
    print(f"memory: {before:.0f} MB before, {listed_mb:.0f} MB listed after {listed:.1f} s, {peak_mb():.0f} MB at most")


if __name__ == "__main__":
    run(main)
