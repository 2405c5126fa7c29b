"""Whether stage 1 helps stage 2: the bottleneck from a stage-1 encoder and from nothing, at equal CPU time.

    python infra/benchmarks/studies/warm_start.py SHARDS OUT [--recipe tiny] [--seeds 3] [--pretrain-steps 150]
        [--steps 400]

For each seed: `pretrain`, `train-codec` from its encoder, and `train-codec` from nothing, all of one rank. A pilot of
both stages measures a step of each, so that the cold run has as many steps more as stage 1 took time. Only the first
phase of stage 2 is trained (log-mel through the tokens): what tokens say is decided there. Prints a line a run: seed,
start, seconds of its steps with stage 1's, held-out mel L1, voicing and pitch that are wrong, bits given the place.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

from syllabary.shards import store
from syllabary.workers.training.history import METRICS, TIMINGS, History

FIGURES = ("mel_head", "voicing_wrong", "pitch_wrong", "level_entropy_given_place")
PILOT_STEPS = 20


def syllabary(*arguments: str) -> None:
    """Run one command; its output is shown only where it fails."""
    done = subprocess.run(
        [sys.executable, "-m", "syllabary.flows.cli", *arguments], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(f"{' '.join(arguments)}\n{done.stdout[-2000:]}{done.stderr[-2000:]}")


def train(verb: str, stage: str, out: Path, steps: int, asked: argparse.Namespace, *more: str) -> Path:
    """One run of a stage, if it is not done; returns its folder."""
    values = {
        "num_workers": "1", "num_steps": str(steps), "optimizer.warmup_steps": str(max(1, steps // 10)),
        "checkpoint_every": str(steps), "validate_every": str(max(1, steps // 4)), "num_validation_utterances": "48",
        "log_every": "10", "micro_batch_size": "10",
    }  # fmt: skip
    if stage == "codec":
        values["bottleneck.share"] = "0.9999"
    sets = [part for name, value in values.items() for part in ("--set", f"{stage}.{name}={value}")]
    if not (out / "done.json").exists():
        syllabary(verb, "--shards", asked.shards, "--out", str(out), "--recipe", asked.recipe, *sets, *more)
    return out


def history(run: Path, file: str) -> History:
    """What a run recorded."""
    return History.from_parquet(store.read_bytes(str(run / file)))


def seconds(run: Path) -> float:
    """Seconds of a run's steps, without validations; the first, which compiles and warms up, counts as its second."""
    steps, values = history(run, TIMINGS).series("timing", "step_s")
    spans = [step - last for step, last in zip(steps, [0, *steps], strict=False)]
    return sum(span * value for span, value in zip(spans, [values[1], *values[1:]], strict=True))


def main() -> None:
    """Run all, printing as they end."""
    parser = argparse.ArgumentParser(description="Whether stage 1 helps stage 2, at equal CPU time.")
    parser.add_argument("shards")
    parser.add_argument("out", type=Path)
    parser.add_argument("--recipe", default="tiny")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--pretrain-steps", type=int, default=150)
    parser.add_argument("--steps", type=int, default=400)
    asked = parser.parse_args()
    pilots = [
        seconds(train("pretrain", "pretrain", asked.out / "pilot-1", PILOT_STEPS, asked)) / PILOT_STEPS,
        seconds(train("train-codec", "codec", asked.out / "pilot-2", PILOT_STEPS, asked, "--encoder", "none"))
        / PILOT_STEPS,
    ]
    longer = asked.steps + round(asked.pretrain_steps * pilots[0] / pilots[1])
    print(f"a step of stage 1 {pilots[0]:.3f} s, of stage 2 {pilots[1]:.3f} s: {longer} cold steps", flush=True)
    print("seed,start,seconds," + ",".join(FIGURES), flush=True)
    for seed in range(asked.seeds):
        first = train(
            "pretrain", "pretrain", asked.out / f"{seed}-stage1", asked.pretrain_steps, asked,
            "--set", f"pretrain.seed={seed}",
        )  # fmt: skip
        for start, steps, encoder in (("warm", asked.steps, str(first)), ("cold", longer, "none")):
            run = train(
                "train-codec", "codec", asked.out / f"{seed}-{start}", steps, asked,
                "--set", f"codec.seed={seed}", "--encoder", encoder,
            )  # fmt: skip
            spent = seconds(run) + (seconds(first) if start == "warm" else 0.0)
            found = [history(run, METRICS).series("valid", name)[1][-1] for name in FIGURES]
            print(f"{seed},{start},{spent:.0f}," + ",".join(f"{value:.4f}" for value in found), flush=True)


if __name__ == "__main__":
    main()
