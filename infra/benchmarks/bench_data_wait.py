"""Share of a training step spent waiting for data, with one loader thread.

python infra/benchmarks/bench_data_wait.py SHARDS [--recipe small] [--steps 24] [--clips 8]
"""

from __future__ import annotations

import os
import statistics
import tempfile
from pathlib import Path

from bench_jepa_ablation import Mailbox
from command_line import Parser, at_least, run


def waits(shards: str, recipe_name: str, steps: int, clips: int, out: str) -> tuple[list[float], list[float]]:
    """(seconds, share of them spent waiting) of each step of stage 1."""
    import torch

    from syllabary.workers.recipes.named import resolve
    from syllabary.workers.training.driver import RankJob
    from syllabary.workers.training.engine import join_process_group
    from syllabary.workers.training.history import TIMINGS, History
    from syllabary.workers.training.jepa import train_jepa_rank

    join_process_group(torch.device("cpu"))
    changes = {
        "num_steps": steps, "micro_batch_size": clips, "num_workers": 1, "device": "cpu", "log_every": 1,
        "validate_every": steps, "checkpoint_every": steps, "num_validation_utterances": 2,
    }  # fmt: skip
    recipe = resolve(recipe_name, overrides=[f"pretrain.{key}={value}" for key, value in changes.items()])
    train_jepa_rank(RankJob(out, shards, recipe, Mailbox(recipe_name)))
    history = History.from_parquet(Path(out, TIMINGS).read_bytes())
    return history.series("timing", "step_s")[1], history.series("timing", "data_wait_fraction")[1]


def main() -> None:
    """Run from the command line."""
    parser = Parser(__doc__)
    parser.add_argument("shards")
    parser.add_argument("--recipe", default="small")
    parser.add_argument("--steps", type=at_least(1), default=24)
    parser.add_argument("--clips", type=at_least(1), default=8)
    options = parser.parse_args()
    os.environ |= {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1",
                   "MASTER_PORT": str(29_000 + os.getpid() % 1000), "GLOO_SOCKET_IFNAME": "lo"}  # fmt: skip
    with tempfile.TemporaryDirectory() as out:
        seconds, shares = waits(options.shards, options.recipe, options.steps, options.clips, out)
    total = sum(s * share for s, share in zip(seconds, shares, strict=True)) / sum(seconds)
    print(f"median {statistics.median(shares):.4%}, largest {max(shares):.2%}, of all time {total:.3%}")


if __name__ == "__main__":
    run(main)
