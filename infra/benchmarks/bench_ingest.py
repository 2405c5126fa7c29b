"""Ingest: audio-seconds per CPU-second against the bare limit and a plain cut-by-VAD, memory, scaling, read rates.

    python infra/benchmarks/bench_ingest.py SPEECH [--rounds 5]

SPEECH is a LibriLight tree. The limit is FLAC decode of every recording and FLAC encode of the samples that are stored,
and nothing else. "cut_by_vad" renders the published procedure plainly: the whole file in memory, speech segments butted
together into pieces of at least the target length, one FLAC file a piece. Rounds are interleaved; the figure is the
median.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import soundfile
from command_line import Parser, at_least, folder_with, run

from syllabary.shards import dataset
from syllabary.shards.audio import encode_flac
from syllabary.shards.dataset import iter_shard, read_utterance
from syllabary.shards.ingest import ingest
from syllabary.shards.ingest.config import IngestConfig
from syllabary.shards.ingest.cutting import write_shard
from syllabary.shards.ingest.sources.folder import list_recordings

CONFIG = IngestConfig(max_utterance_s=15.0, shard_size_mb=16)
LONG_MINUTES = 70


def ours(source: Path, out: Path) -> None:
    """The whole ingest of a folder in this process."""
    recordings = list_recordings(str(source), CONFIG)
    ingest.claim_output(str(out), str(source), CONFIG)
    plans = ingest.update_plan(str(out), recordings, CONFIG)
    for plan in plans:
        write_shard(str(out), plan, CONFIG, ingest.FILES)
    ingest.finish(str(out), plans, CONFIG)


def bare_limit(source: Path, spans: dict[str, list[tuple[int, int]]]) -> None:
    """Decode every recording, encode the spans that are stored; nothing is written."""
    for name, pieces in spans.items():
        samples, rate = soundfile.read(source / name, dtype="float32")
        for start, num_samples in pieces:
            encode_flac(samples[start : start + num_samples], rate)


def cut_by_vad(source: Path, out: Path) -> None:
    """The published procedure, plainly."""
    for path in sorted(source.rglob("*.flac")):
        samples, rate = soundfile.read(path)
        pieces: list[np.ndarray] = []
        length, count = 0.0, 0
        for onset, offset in json.loads(path.with_suffix(".json").read_text())["voice_activity"]:
            if length + offset - onset > CONFIG.max_utterance_s and pieces:
                _save(out, path, count, pieces, rate)
                pieces, length, count = [], 0.0, count + 1
            pieces.append(samples[int(onset * rate) : int(offset * rate)])
            length += offset - onset
        if pieces:
            _save(out, path, count, pieces, rate)


def _save(out: Path, path: Path, count: int, pieces: list[np.ndarray], rate: int) -> None:
    target = out / path.parent.parent.name / path.parent.name / f"{path.stem}_{count:04}.flac"
    target.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(target, np.hstack(pieces), rate)


def cpu_seconds(function: Callable[[], None]) -> float:
    """Processor time of this process for one call."""
    started = time.process_time()
    function()
    return time.process_time() - started


def stored_spans(out: Path) -> dict[str, list[tuple[int, int]]]:
    """start_sample and num_samples of every utterance, by source."""
    spans: dict[str, list[tuple[int, int]]] = {}
    for row in dataset.read_index(str(out)).to_pylist():
        spans.setdefault(row["source"], []).append((row["start_sample"], row["num_samples"]))
    return spans


def speed(source: Path, scratch: Path, rounds: int) -> None:
    """Print audio-seconds per CPU-second of the three, and the ratios."""
    ours(source, scratch / "first")
    spans = stored_spans(scratch / "first")
    audio_s = json.loads((scratch / "first" / "done.json").read_text())["input_s"]
    times: dict[str, list[float]] = {"ours": [], "limit": [], "cut_by_vad": []}
    for number in range(rounds):
        times["limit"].append(cpu_seconds(lambda: bare_limit(source, spans)))
        times["ours"].append(cpu_seconds(lambda n=number: ours(source, scratch / f"ours-{n}")))  # type: ignore[misc]
        times["cut_by_vad"].append(cpu_seconds(lambda n=number: cut_by_vad(source, scratch / f"vad-{n}")))  # type: ignore[misc]
    for name, values in times.items():
        print(f"{name:<12} {audio_s / statistics.median(values):>8,.0f} audio-s per CPU-s")
    for name in ("limit", "cut_by_vad"):
        ratios = [other / own for own, other in zip(times["ours"], times[name], strict=True)]
        print(f"ours / {name}: {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})")


def memory(scratch: Path) -> None:
    """Print the peak memory of a process that cuts one recording of 70 minutes."""
    folder = scratch / "long" / "1" / "book"
    folder.mkdir(parents=True)
    minute = (np.random.default_rng(0).standard_normal(60 * 16_000) * 0.05).astype(np.float32)
    with soundfile.SoundFile(folder / "long.flac", "w", 16_000, 1, "PCM_16") as target:
        for _ in range(LONG_MINUTES):
            target.write(minute)
    activity = [[float(at), at + 9.5] for at in range(0, LONG_MINUTES * 60, 10)]
    (folder / "long.json").write_text(json.dumps({"speaker": "1", "voice_activity": activity}))
    for name in ("ours", "cut_by_vad"):
        code = (
            f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); import bench_ingest;"
            f"from pathlib import Path; base = bench_ingest.peak_mb();"
            f"bench_ingest.{name}(Path(sys.argv[1]), Path(sys.argv[2]));"
            "print(base, bench_ingest.peak_mb())"
        )
        arguments = [sys.executable, "-c", code, str(scratch / "long"), str(scratch / f"long-{name}")]
        base, peak = subprocess.run(arguments, check=True, capture_output=True, text=True).stdout.split()
        print(f"{name:<12} peak {peak} MB on a {LONG_MINUTES}-minute recording, {base} MB of it before the first byte")


def peak_mb() -> int:
    """Peak resident memory of this process. Not ru_maxrss, which a child inherits from its parent."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) // 1024


def scaling(source: Path, scratch: Path, rounds: int) -> None:
    """Print wall time of the same plan on one and on two Ray workers, Ray's start left out."""
    from syllabary.workers.cluster.session import ray_session
    from syllabary.workers.ingest.tasks import run_all, write_planned_shard

    walls: dict[int, list[float]] = {1: [], 2: []}
    with ray_session(num_cpus=2):
        import ray

        for number in range(-1, rounds):  # the first round warms the workers up
            for workers in walls:
                out = str(scratch / f"ray-{number}-{workers}")
                recordings = list_recordings(str(source), CONFIG)
                ingest.claim_output(out, str(source), CONFIG)
                plans = ingest.update_plan(out, recordings, CONFIG)
                started = time.perf_counter()
                if workers == 2:
                    list(run_all(write_planned_shard, ((out, plan, CONFIG) for plan in plans), out))
                else:
                    task = ray.remote(write_planned_shard)
                    for plan in plans:
                        ray.get(task.remote(out, plan, CONFIG))
                if number >= 0:
                    walls[workers].append(time.perf_counter() - started)
    ratios = [one / two for one, two in zip(walls[1], walls[2], strict=True)]
    print(f"1 worker {statistics.median(walls[1]):.2f} s, 2 workers {statistics.median(walls[2]):.2f} s wall: "
          f"{statistics.median(ratios):.2f} x ({min(ratios):.2f} to {max(ratios):.2f})")  # fmt: skip


def reading(out: Path, rounds: int) -> None:
    """Print how fast the index, whole shards and single utterances are read."""
    uri = str(out)
    table = dataset.read_index(uri)
    rows = table.to_pylist()
    size_mb = sum(row["size_bytes"] for row in rows) / 1e6
    whole, streamed, single = [], [], []
    for _ in range(rounds):
        whole.append(_wall(lambda: dataset.read_index(uri)))
        streamed.append(_wall(lambda: [None for name in dataset.list_shards(uri) for _ in iter_shard(uri, name)]))
        single.append(_wall(lambda: [read_utterance(uri, row) for row in rows[:1000]]))
    num_parts = len(dataset.list_shards(uri))
    print(f"index: {table.num_rows / statistics.median(whole):,.0f} rows/s in {num_parts} parts")
    print(f"shards in sequence, sha256 checked: {size_mb / statistics.median(streamed):,.0f} MB/s, "
          f"{len(rows) / statistics.median(streamed):,.0f} utterances/s")  # fmt: skip
    print(f"single utterances, one range request each: {min(1000, len(rows)) / statistics.median(single):,.0f}/s")


def _wall(function: Callable[[], object]) -> float:
    started = time.perf_counter()
    function()
    return time.perf_counter() - started


def main() -> None:
    """Run every part and print its figures."""
    parser = Parser(__doc__)
    parser.add_argument("speech", type=Path, metavar="SPEECH")
    parser.add_argument("--rounds", type=at_least(1), default=5)
    arguments = parser.parse_args()
    folder_with(arguments.speech, (".flac",), "FLAC files")
    folder_with(arguments.speech, (".json",), "LibriLight's JSON beside the FLAC files")
    with tempfile.TemporaryDirectory() as scratch:
        speed(arguments.speech, Path(scratch), arguments.rounds)
        memory(Path(scratch))
        reading(Path(scratch) / "first", arguments.rounds)
        scaling(arguments.speech, Path(scratch), arguments.rounds)


if __name__ == "__main__":
    run(main)
