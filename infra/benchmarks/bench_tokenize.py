"""Pipeline throughput as a share of the bare forward of the same recipe, and 1 worker against 2.

    python infra/benchmarks/bench_tokenize.py [--recipe small] [--shards 8] [--shard-s 300] [--rounds 3]

Random weights: the cost does not depend on them. "bare" is ``Tokenizer.encode`` on waveforms already in memory, one
thread, on as many processes as there are workers; "pipeline" is the Ray Data job over FLAC shards on local disk up to
the published part, from the first published part to the last, start-up apart. Bare and pipeline runs alternate.
"""

from __future__ import annotations

import argparse
import hashlib
import multiprocessing
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from shards import audio, index, outputs, store
from shards.wds import ShardWriter
from workers.jobs import TokenizeJob
from workers.recipes import resolve

RATE, UTTERANCE_S = 16_000, 12


def make_shards(uri: str, num_shards: int, shard_s: int) -> None:
    """Shards of 12 s noise bursts."""
    outputs.claim(uri, "shards", inputs={"source": "noise"}, config={})
    rng = np.random.default_rng(0)
    for number in range(num_shards):
        shard, rows = f"train-{number:06}", []
        with store.publishing(index.shard_uri(uri, shard)) as path, ShardWriter(path) as writer:
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
        index.publish_index(uri, shard, rows)


def make_tokenizer(uri: str, recipe: str) -> None:
    """A tokenizer of the recipe with random weights."""
    import torch

    from model.codec import make_generator
    from model.encoder import Encoder
    from workers.tokenizer import save_tokenizer

    torch.manual_seed(0)
    config = resolve(recipe).model
    states = Encoder(config.encoder).state_dict(), make_generator(config).state_dict()
    save_tokenizer(uri, config, *states, recipe={"name": recipe})


def bare_process(tokenizer_uri: str, seconds: float, results: Any, start: Any) -> None:
    """Encode 12 s waveforms for about ``seconds``; reports audio-seconds a second."""
    import torch

    from workers.tokenizer import Tokenizer

    torch.set_num_threads(1)
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


def bare(tokenizer_uri: str, num_processes: int, seconds: float) -> float:
    """Audio-seconds a second of ``num_processes`` processes encoding side by side."""
    context = multiprocessing.get_context("spawn")
    results, start = context.Queue(), context.Barrier(num_processes)
    processes = [
        context.Process(target=bare_process, args=(tokenizer_uri, seconds, results, start))
        for _ in range(num_processes)
    ]
    for process in processes:
        process.start()
    total = sum(results.get() for _ in processes)
    for process in processes:
        process.join()
    return total


def pipeline(shards: str, tokenizer: str, archive: str, num_workers: int, shard_s: int) -> tuple[float, float]:
    """Audio-seconds a second between the first and last published part, and seconds until the first."""
    job = TokenizeJob(shards=shards, tokenizer=tokenizer, archive=archive, num_workers=num_workers)
    started = time.time()
    command = [sys.executable, "-m", "workers.tokenize_corpus", job.model_dump_json()]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    published = sorted(p.stat().st_mtime for p in (Path(archive) / "parts").iterdir())
    rest = published[num_workers:]  # one shard a worker is under way when the clock starts
    return len(rest) * shard_s / (published[-1] - published[num_workers - 1]), published[0] - started


def cpu_share(shards: str, tokenizer_uri: str, rounds: int) -> float:
    """CPU seconds of the bare forward over those of the whole path from shard to part bytes, without Ray.

    Processor time does not depend on what else the machine does, so this holds on a busy machine too.
    """
    import torch

    from workers.encode_shard import decoded_utterances, encode_shard
    from workers.tokenizer import Tokenizer

    torch.set_num_threads(1)
    tokenizer = Tokenizer.load(tokenizer_uri, decoder=False)
    shard = index.committed_shards(shards)[0]
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


def main() -> None:
    """Print medians and ratios."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--recipe", default="small")
    parser.add_argument("--shards", type=int, default=8)
    parser.add_argument("--shard-s", type=int, default=300)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--cpu-only", action="store_true", help="only the CPU share, for a busy machine")
    options = parser.parse_args()
    shard_s = options.shard_s // UTTERANCE_S * UTTERANCE_S
    with tempfile.TemporaryDirectory() as folder:
        make_shards(f"{folder}/shards", options.shards, shard_s)
        make_tokenizer(f"{folder}/tokenizer", options.recipe)
        share_of_cpu = cpu_share(f"{folder}/shards", f"{folder}/tokenizer", options.rounds)
        print(f"{options.recipe}: bare forward as a share of the path's CPU time: {share_of_cpu:.3f}", flush=True)
        if options.cpu_only:
            return
        measured: dict[str, list[float]] = {}
        for turn in range(options.rounds):
            for workers in (1, 2):
                seconds = 10 if options.recipe != "paper" else 40
                measured.setdefault(f"bare {workers}", []).append(bare(f"{folder}/tokenizer", workers, seconds))
                archive = f"{folder}/archive-{turn}-{workers}"
                rate, start_s = pipeline(f"{folder}/shards", f"{folder}/tokenizer", archive, workers, shard_s)
                measured.setdefault(f"pipeline {workers}", []).append(rate)
                measured.setdefault(f"first part after s, {workers}", []).append(start_s)
                print({k: round(v[-1], 1) for k, v in measured.items()}, flush=True)
    median = {name: statistics.median(values) for name, values in measured.items()}
    share = {
        n: statistics.median(p / b for p, b in zip(measured[f"pipeline {n}"], measured[f"bare {n}"], strict=True))
        for n in (1, 2)
    }
    print(f"\n{options.recipe}: medians { ({k: round(v, 1) for k, v in median.items()}) }")
    print(f"pipeline as a share of the bare forward: 1 worker {share[1]:.3f}, 2 workers {share[2]:.3f}")
    print(f"1 to 2 workers: pipeline {median['pipeline 2'] / median['pipeline 1']:.2f}x, "
          f"bare {median['bare 2'] / median['bare 1']:.2f}x")  # fmt: skip


if __name__ == "__main__":
    main()
