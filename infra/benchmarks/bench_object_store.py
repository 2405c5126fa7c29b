"""What the memory limit costs SeaweedFS: the same writes and reads under each limit, turns taken.

python infra/benchmarks/bench_object_store.py [--limits 256MiB 1GiB] [--rounds 2]
"""

from __future__ import annotations

import argparse
import os
import re
import sys
import tempfile
import time
from pathlib import Path

import psutil
from command_line import Parser, at_least, run

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent))

from infra.stack.object_store import MEMORY_LIMIT, start_object_store

NUM_OBJECTS, SIZE_BYTES = 200, 200_000


def measure(limit: str) -> tuple[float, float, int]:
    """Processor seconds of the server, seconds in all, and its memory in MiB after the load."""
    with tempfile.TemporaryDirectory() as folder:
        store = start_object_store(Path(folder), memory_limit=limit)
        try:
            server, fs, bucket = psutil.Process(store.process.pid), store.filesystem(), store.bucket()
            before, started = sum(server.cpu_times()[:2]), time.monotonic()
            for number in range(NUM_OBJECTS):
                fs.pipe_file(f"{bucket}/{number}", os.urandom(SIZE_BYTES))
                fs.cat_file(f"{bucket}/{number}")
            seconds = time.monotonic() - started
            return sum(server.cpu_times()[:2]) - before, seconds, server.memory_info().rss >> 20
        finally:
            store.stop()


def limit_of(text: str) -> str:
    """A memory limit as Go reads it; refuses what it would not."""
    if not re.fullmatch(r"[1-9]\d*[KMG]iB", text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a size as 256MiB or 1GiB")
    return text


def main() -> None:
    """Print the table."""
    parser = Parser(__doc__)
    parser.add_argument("--limits", nargs="+", type=limit_of, default=["256MiB", "512MiB", MEMORY_LIMIT])
    parser.add_argument("--rounds", type=at_least(1), default=2)
    options = parser.parse_args()
    print("| round | limit | server, CPU-s | all, s | memory, MiB |\n| --- | --- | --- | --- | --- |")
    for number in range(options.rounds):
        for limit in options.limits:
            cpu_s, seconds, memory_mib = measure(limit)
            print(f"| {number + 1} | {limit} | {cpu_s:.2f} | {seconds:.2f} | {memory_mib} |", flush=True)


if __name__ == "__main__":
    run(main)
