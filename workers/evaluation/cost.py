"""Measure what encoding and decoding cost here: real-time factor, CPU-seconds and memory at batch 1 and best batch.

Each figure comes from a process of its own, so that its peak of memory is its own. Times are measured: they differ from
run to run, and mean little on a machine that does something else besides.
"""

from __future__ import annotations

import multiprocessing
import os
import platform
import resource
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import psutil

from syllabary.workers.report.card import Cost, CostPoint, Machine, ScoringCost

if TYPE_CHECKING:
    from syllabary.workers.evaluation.scoring import Samples
    from syllabary.workers.tokenizer.tokenizer import Tokenizer

CLIP_S, NUM_REPEATS = 10.0, 3
BATCH_SIZES = (1, 2, 4, 8)
Direction = Literal["encode", "decode"]


def machine() -> Machine:
    """This machine, as far as :func:`measure_cost` uses it: on the CPU, whatever GPUs there are."""
    import torch

    return Machine(
        processor=_processor(),
        num_cores=os.cpu_count() or 1,
        memory_gb=round(psutil.virtual_memory().total / 2**30, 1),
        accelerator=None,
        system=f"{platform.system()} {platform.machine()}",
        torch=torch.__version__,
    )


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or "unknown"
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or "unknown"


def measure_cost(tokenizer_uri: str, clip: Samples, scoring_cpu_s: Mapping[str, float], scored_s: float) -> Cost:
    """Encode and decode at batch 1 with one thread, and at the best batch with one thread per core.

    Args:
        tokenizer_uri: whose cost.
        clip: real speech at 16 kHz to encode; it is repeated to ten seconds.
        scoring_cpu_s: CPU-seconds of scoring by what they went to, over ``scored_s`` seconds of speech.
    """
    from syllabary.workers.evaluation.scoring import RATE

    long_enough = _repeated(clip, int(CLIP_S * RATE))
    points = []
    for direction in ("encode", "decode"):
        for sizes, threads in (((1,), 1), (BATCH_SIZES[1:], os.cpu_count() or 1)):
            spawned = multiprocessing.get_context("spawn")
            with ProcessPoolExecutor(1, mp_context=spawned) as pool:
                points.append(pool.submit(_best_point, tokenizer_uri, direction, long_enough, sizes, threads).result())
    scoring = [
        ScoringCost(name=name, cpu_s_per_minute=60 * seconds / scored_s)
        for name, seconds in sorted(scoring_cpu_s.items())
        if scored_s
    ]
    return Cost(machine=machine(), points=tuple(points), scoring=tuple(scoring), scored_s=scored_s)


def _repeated(clip: Samples, num_samples: int) -> Samples:
    import numpy as np

    return np.tile(clip, -(-num_samples // len(clip)))[:num_samples]


def _best_point(
    tokenizer_uri: str, direction: Direction, clip: Samples, batch_sizes: Sequence[int], num_threads: int
) -> CostPoint:
    """The point of the lowest real-time factor; runs in a process of its own."""
    import torch

    from syllabary.workers.tokenizer.tokenizer import Tokenizer

    torch.set_num_threads(num_threads)
    tokenizer = Tokenizer.load(tokenizer_uri)
    points = [_point(tokenizer, direction, clip, size, num_threads) for size in batch_sizes]
    return min(points, key=lambda point: point.real_time_factor)


def _point(tokenizer: Tokenizer, direction: Direction, clip: Samples, batch_size: int, num_threads: int) -> CostPoint:
    from syllabary.workers.evaluation.scoring import RATE

    encoded = tokenizer.encode(clip, RATE)

    def encode() -> object:
        return tokenizer.encode([clip] * batch_size, RATE)

    def decode() -> object:
        return tokenizer.decode([encoded.tokens] * batch_size, [len(clip)] * batch_size, RATE)

    wall_s, cpu_s = _fastest(encode if direction == "encode" else decode)
    audio_s = batch_size * len(clip) / RATE
    return CostPoint(
        direction=direction,
        batch_size=batch_size,
        num_threads=num_threads,
        real_time_factor=wall_s / audio_s,
        cpu_s_per_audio_s=cpu_s / audio_s,
        peak_memory_mb=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    )


def _fastest(action: Callable[[], object]) -> tuple[float, float]:
    """Wall and CPU-seconds, each the least of some runs after one to warm up."""
    action()
    walls, cpus = [], []
    for _ in range(NUM_REPEATS):
        wall, cpu = time.perf_counter(), time.process_time()
        action()
        walls.append(time.perf_counter() - wall)
        cpus.append(time.process_time() - cpu)
    return min(walls), min(cpus)
