"""Pack and unpack against a memory copy of the same bytes (one thread), interleaved, best of the rounds.

python infra/benchmarks/bench_packing.py [--frames 100000] [--rounds 9]
"""

from __future__ import annotations

import time

import numpy as np
from command_line import Parser, at_least, run

from syllabary.shards.archive.packing import Packing


def main() -> None:
    """Print tokens per second and the ratio to a copy of digits in and tokens out."""
    parser = Parser(__doc__)
    parser.add_argument("--frames", type=at_least(1), default=100_000)
    parser.add_argument("--rounds", type=at_least(1), default=9)
    options = parser.parse_args()
    for levels, group_size in ((4, 7), (8, 5), (5, 6)):
        packing = Packing(128, levels, group_size)
        digits = np.random.default_rng(0).integers(0, levels, (options.frames, 128)).astype(np.uint8)
        tokens = packing.pack(digits)
        actions = {
            "copy": lambda d=digits, t=tokens: (d.copy(), t.copy()),
            "pack": lambda p=packing, d=digits: p.pack(d),
            "unpack": lambda p=packing, t=tokens: p.unpack(t),
        }
        best = dict.fromkeys(actions, float("inf"))
        for _ in range(options.rounds):
            for name, action in actions.items():
                started = time.process_time()
                action()
                best[name] = min(best[name], time.process_time() - started)
        for name in ("pack", "unpack"):
            rate = tokens.size / best[name] / 1e6
            print(f"{levels} levels, group {group_size}: {name} {rate:.0f} M tokens/s, "
                  f"{best[name] / best['copy']:.1f} x the time of a copy")  # fmt: skip


if __name__ == "__main__":
    run(main)
