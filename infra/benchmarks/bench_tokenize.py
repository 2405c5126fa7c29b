"""Pipeline throughput as a share of the bare forward of the same recipe, and 1 worker against 2.

    python infra/benchmarks/bench_tokenize.py [--recipe small] [--shards 4] [--shard-s 600] [--rounds 2] [--wall-only]
    python infra/benchmarks/bench_tokenize.py --shards 8 --shard-s 3600    a quarter of an hour, as results are recorded

Random weights: the cost does not depend on them. "bare" is ``Tokenizer.encode`` on waveforms already in memory, one
thread, on as many processes as there are workers; "bare, kept" is the same in processes that keep freed memory, as the
pipeline's actors do (workers/cluster/memory.py). "pipeline" is the Ray Data job over FLAC shards on local disk up to
the published part; an hour of audio is what a shard of the default size holds, and in shards of ten minutes handing
them over weighs more. Its clock starts when as many parts are published as there are workers and stops with the last
part, so that the parts of that time are a multiple of the workers: how they are staggered does not matter, and
start-up is apart. Bare and pipeline runs alternate. The processor time of every process of the job in that time says
where the difference goes.
"""

from __future__ import annotations

import argparse
import hashlib
import multiprocessing
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from command_line import Parser, at_least, run

from syllabary.shards import audio, dataset, outputs, store
from syllabary.shards.dataset import ShardWriter
from syllabary.shards.errors import JobError
from syllabary.workers.cluster.memory import keep_freed_memory
from syllabary.workers.control.jobs import TokenizeJob
from syllabary.workers.recipes.named import resolve

RATE, UTTERANCE_S = 16_000, 12


def make_shards(uri: str, num_shards: int, shard_s: int) -> None:
    """Shards of 12 s noise bursts."""
    outputs.claim(uri, "shards", inputs={"source": "noise"}, config={})
    rng = np.random.default_rng(0)
    for number in range(num_shards):
        shard, rows = f"train-{number:06}", []
        with store.publishing(dataset.shard_uri(uri, shard)) as path, ShardWriter(path) as writer:
            for i in range(shard_s // UTTERANCE_S):
                wave = (0.1 * np.sin(np.arange(UTTERANCE_S * RATE) / 9) * rng.random(UTTERANCE_S * RATE)).astype(
                    np.float32
                )
                flac = audio.encode_flac(wave, RATE)
                rows.append({
                    "utterance_id": f"{shard}/{i:05}", "recording_id": shard, "speaker": "1", "split": "train",
                    "shard": shard, "key": f"{i:05}", "offset": writer.add(f"{i:05}", flac, {}),
                    "size_bytes": len(flac),
                    "sample_rate": RATE, "num_samples": len(wave), "start_sample": i * len(wave),
                    "sha256": hashlib.sha256(flac).hexdigest(), "source": shard, "language": "en", "snr_db": 20.0,
                })  # fmt: skip
        dataset.publish_index(uri, shard, rows)


def make_tokenizer(uri: str, recipe: str) -> None:
    """A tokenizer of the recipe with random weights."""
    import torch

    from syllabary.model.codec import make_generator
    from syllabary.model.encoder import Encoder
    from syllabary.workers.tokenizer.tokenizer import save_tokenizer

    torch.manual_seed(0)
    config = resolve(recipe).model
    states = Encoder(config.encoder).state_dict(), make_generator(config).state_dict()
    save_tokenizer(uri, config, *states, recipe={"name": recipe})


def bare_process(tokenizer_uri: str, seconds: float, keep: bool, results: Any, start: Any) -> None:
    """Encode 12 s waveforms for about ``seconds``; reports audio-seconds per second."""
    import torch

    from syllabary.workers.tokenizer.tokenizer import Tokenizer

    torch.set_num_threads(1)
    if keep:
        keep_freed_memory()
    tokenizer = Tokenizer.load(tokenizer_uri, decoder=False)
    rate = tokenizer.sample_rate
    waves = [np.random.default_rng(i).normal(0, 0.1, UTTERANCE_S * rate).astype(np.float32) for i in range(4)]
    tokenizer.encode(waves[0], rate)
    start.wait()
    began, done = time.monotonic(), 0
    while time.monotonic() - began < seconds:
        tokenizer.encode(waves[done % 4], rate)
        done += 1
    results.put(done * UTTERANCE_S / (time.monotonic() - began))


def bare(tokenizer_uri: str, num_processes: int, seconds: float, *, keep: bool = False) -> float:
    """Audio-seconds per second of ``num_processes`` processes encoding side by side."""
    context = multiprocessing.get_context("spawn")
    results, start = context.Queue(), context.Barrier(num_processes)
    processes = [
        context.Process(target=bare_process, args=(tokenizer_uri, seconds, keep, results, start))
        for _ in range(num_processes)
    ]
    for process in processes:
        process.start()
    total = sum(results.get() for _ in processes)
    for process in processes:
        process.join()
    return total


def pipeline(shards: str, tokenizer: str, archive: str, num_workers: int, shard_s: int) -> tuple[float, float]:
    """Audio-seconds per second of the clock's time, and seconds until the first part; prints who used the processor."""
    job = TokenizeJob(shards=shards, tokenizer=tokenizer, archive=archive, num_workers=num_workers)
    started = time.time()
    command = [sys.executable, "-m", "syllabary.workers", "tokenize", job.model_dump_json()]
    said = Path(f"{archive}.log")
    with said.open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    used: list[tuple[int, dict[str, float]]] = []
    seen: dict[int, tuple[str, float]] = {}  # an actor that is done leaves before the last part: its time still counts
    while process.poll() is None:
        seen |= processor_seconds(process.pid)
        sums: dict[str, float] = defaultdict(float)
        for name, spent in seen.values():
            sums[name] += spent
        used.append((len(list(Path(archive, "parts").glob("*.parquet"))), sums))
        time.sleep(0.5)
    if process.returncode:
        last = said.read_text().splitlines()[-5:]
        raise JobError(f"tokenize failed: {last[-1] if last else 'without a word'}", tuple(last))
    published = sorted(p.stat().st_mtime for p in (Path(archive) / "parts").iterdir())
    seconds = published[-1] - published[num_workers - 1]
    before = next(cpu for parts, cpu in used if parts >= num_workers)
    after = [cpu for parts, cpu in used if parts < len(published)][-1]
    shares = {name: 100 * (spent - before.get(name, 0.0)) / seconds for name, spent in after.items()}
    largest = sorted(shares.items(), key=lambda item: -item[1])
    print("  % of a core:", ", ".join(f"{name} {share:.1f}" for name, share in largest if share > 0.05))
    return (len(published) - num_workers) * shard_s / seconds, published[0] - started


def processor_seconds(pid: int) -> dict[int, tuple[str, float]]:
    """What a process and each of its descendants is, and its processor seconds so far, by pid."""
    seconds: dict[int, tuple[str, float]] = {}
    for process in [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]:
        try:
            name, times = " ".join(process.cmdline()), process.cpu_times()
        except psutil.NoSuchProcess:
            continue
        known = re.search(
            r"ray::\w+(?:\(\w+\(\w+\)\))?|gcs_server|raylet/raylet|log_monitor|dashboard|syllabary.workers", name
        )
        seconds[process.pid] = (known[0] if known else "other", times.user + times.system)
    return seconds


def cpu_share(shards: str, tokenizer_uri: str, rounds: int) -> float:
    """CPU seconds of the bare forward over those of the whole path from shard to part bytes, without Ray.

    Processor time does not depend on what else the machine does, so this holds on a busy machine too.
    """
    import torch

    from syllabary.workers.archive.encode_shard import decoded_utterances, encode_shard
    from syllabary.workers.tokenizer.tokenizer import Tokenizer

    torch.set_num_threads(1)
    tokenizer = Tokenizer.load(tokenizer_uri, decoder=False)
    shard = dataset.committed_shards(shards)[0]
    waves = [u.waveform for u in decoded_utterances(shards, shard, tokenizer.sample_rate) if u.waveform is not None]
    shares = []
    for _ in range(rounds):
        began = time.process_time()
        for wave in waves:
            tokenizer.encode(wave, tokenizer.sample_rate)
        between = time.process_time()
        encode_shard(tokenizer, shards, shard)
        shares.append((between - began) / (time.process_time() - between))
    return statistics.median(shares)


def measure(options: argparse.Namespace, folder: str, shard_s: int) -> dict[str, list[float]]:
    """Every figure of every round; one worker and two, bare and pipeline in turn."""
    measured: dict[str, list[float]] = {}
    tokenizer, seconds = f"{folder}/tokenizer", options.bare_s or (40 if options.recipe == "paper" else 10)
    for turn in range(options.rounds):
        for n in (1, 2):
            found = {
                f"bare {n}": bare(tokenizer, n, seconds),
                f"bare, kept {n}": bare(tokenizer, n, seconds, keep=True),
            }
            archive = f"{folder}/archive-{turn}-{n}"
            rate, start_s = pipeline(f"{folder}/shards", tokenizer, archive, n, shard_s)
            found |= {f"pipeline {n}": rate, f"first part after s, {n}": start_s}
            print({name: round(value, 1) for name, value in found.items()}, flush=True)
            for name, value in found.items():
                measured.setdefault(name, []).append(value)
    return measured


def main() -> None:
    """Print medians and ratios."""
    parser = Parser(__doc__)
    parser.add_argument("--recipe", default="small")
    parser.add_argument("--shards", type=at_least(3), default=4, help="results are of 6 to 8")
    parser.add_argument("--shard-s", type=at_least(UTTERANCE_S), default=600, help="of audio; results are of 3600")
    parser.add_argument("--rounds", type=at_least(1), default=2)
    parser.add_argument("--bare-s", type=at_least(1), help="seconds of each bare run; 10 unless given, of paper 40")
    only = parser.add_mutually_exclusive_group()
    only.add_argument("--cpu-only", action="store_true", help="only the CPU share, for a busy machine")
    only.add_argument("--wall-only", action="store_true", help="only the wall clock, for an idle one")
    options = parser.parse_args()
    shard_s = options.shard_s // UTTERANCE_S * UTTERANCE_S
    resolve(options.recipe)  # before anything is made
    with tempfile.TemporaryDirectory() as folder:
        make_shards(f"{folder}/shards", options.shards, shard_s)
        make_tokenizer(f"{folder}/tokenizer", options.recipe)
        for keep in () if options.wall_only else (False, True):  # the second for good: there is no way back
            share = cpu_share(f"{folder}/shards", f"{folder}/tokenizer", options.rounds)
            how = "memory kept" if keep else "as it is"
            print(f"{options.recipe}: bare forward as a share of the path's CPU time, {how}: {share:.3f}", flush=True)
            keep_freed_memory()
        if not options.cpu_only:
            report(options.recipe, measure(options, folder, shard_s))


def report(recipe: str, measured: dict[str, list[float]]) -> None:
    """Print medians, and the medians of the ratios of runs that were neighbours in time."""
    print(f"\n{recipe}: medians { ({name: round(statistics.median(v), 1) for name, v in measured.items()}) }")
    for what in ("bare", "bare, kept"):
        one, two = (
            statistics.median(p / b for p, b in zip(measured[f"pipeline {n}"], measured[f"{what} {n}"], strict=True))
            for n in (1, 2)
        )
        print(f"pipeline as a share of {what}: 1 worker {one:.3f}, 2 workers {two:.3f}")
    for what in ("pipeline", "bare", "bare, kept"):
        pairs = zip(measured[f"{what} 1"], measured[f"{what} 2"], strict=True)
        print(f"1 to 2 workers, {what}: {statistics.median(two / one for one, two in pairs):.2f}x")


if __name__ == "__main__":
    run(main)
