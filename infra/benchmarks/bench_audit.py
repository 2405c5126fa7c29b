"""What the decode audit costs: CPU time of sniffing and checking as a share of the whole ingest's, on real speech.

    python infra/benchmarks/bench_audit.py FOLDER [--files 60] [--rounds 5]

Rounds are interleaved; a figure is the median of the rounds, its range behind it. "plain" reads every file with
soundfile as it is, which checks nothing; "audited" is what the ingest does.
"""

from __future__ import annotations

import itertools
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import soundfile
from command_line import Parser, at_least, folder_with, run

from syllabary.shards.ingest import ingest
from syllabary.shards.ingest.config import IngestConfig
from syllabary.shards.ingest.cutting import write_shard
from syllabary.shards.ingest.decoding.decoder import Decoder, parts_of
from syllabary.shards.ingest.sources.files import AUDIO_SUFFIXES
from syllabary.shards.ingest.sources.listing import list_source, tell_source

BLOCK = 64_000
CONFIG = IngestConfig(coverage="all")


def plain(paths: list[Path]) -> None:
    """Read every file as soundfile does."""
    for path in paths:
        with soundfile.SoundFile(path) as audio:
            while len(audio.read(BLOCK, dtype="float32", always_2d=True)):
                pass


def audited(paths: list[Path]) -> None:
    """Read every file as the ingest does, held against its promises."""
    for path in paths:
        with Decoder(path) as decoder:
            while len(decoder.read(BLOCK)):
                pass


def sniffed(paths: list[Path]) -> None:
    """Take every file apart into its streams, without decoding."""
    for path in paths:
        parts_of(path)


def sharded(folder: Path, out: Path) -> None:
    """The whole ingest in this process."""
    recordings = list_source(tell_source(str(folder), CONFIG), CONFIG).recordings
    ingest.claim_output(str(out), str(folder), CONFIG)
    for plan in ingest.update_plan(str(out), recordings, CONFIG):
        write_shard(str(out), plan, CONFIG, ingest.FILES)


def cpu_s(function: Callable[[], None]) -> float:
    """Processor time of this process for one call."""
    started = time.process_time()
    function()
    return time.process_time() - started


def main() -> None:
    """Print the four times and the share of the audit."""
    parser = Parser(__doc__)
    parser.add_argument("speech", type=Path)
    parser.add_argument("--files", type=at_least(1), default=60)
    parser.add_argument("--rounds", type=at_least(1), default=5)
    arguments = parser.parse_args()
    folder_with(arguments.speech, AUDIO_SUFFIXES, "audio files")
    found = sorted(path for path in arguments.speech.rglob("*") if path.suffix.lower() in AUDIO_SUFFIXES)
    times: dict[str, list[float]] = {"plain": [], "audited": [], "sniffed": [], "ingest": []}
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "in"
        paths = []
        for path in itertools.islice(found, arguments.files):
            target = folder / path.relative_to(arguments.speech)
            target.parent.mkdir(parents=True, exist_ok=True)
            paths.append(Path(shutil.copy(path, target)))
        plain(paths)
        for number in range(arguments.rounds):
            times["plain"].append(cpu_s(lambda: plain(paths)))
            times["audited"].append(cpu_s(lambda: audited(paths)))
            times["sniffed"].append(cpu_s(lambda: sniffed(paths)))
            out = Path(scratch) / f"out-{number}"
            times["ingest"].append(cpu_s(lambda out=out: sharded(folder, out)))  # type: ignore[misc]
    seconds = sum(soundfile.info(path).duration for path in found[: arguments.files])
    print(f"{len(paths)} files, {seconds:,.0f} s of audio")
    for name, values in times.items():
        print(f"{name:<8} {statistics.median(values):7.3f} s CPU ({min(values):.3f} to {max(values):.3f})")
    rounds = zip(times["audited"], times["plain"], times["ingest"], strict=True)
    shares = [100 * (own - bare) / whole for own, bare, whole in rounds]
    print(f"audit: {statistics.median(shares):.1f} % of the ingest's CPU ({min(shares):.1f} to {max(shares):.1f})")


if __name__ == "__main__":
    run(main)
