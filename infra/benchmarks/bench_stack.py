"""`make stack-run` against `make run`: the same speech and recipe, both whole, and where the difference goes.

    python infra/benchmarks/bench_stack.py [SOURCE] [--set a.b=c ...]

Needs `make stack`. Wall-clock time: run it on an otherwise idle machine. Without SOURCE a small corpus is synthesized
and both stages are cut to a few steps, so that what is measured is the way to the work rather than the work.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from infra.stack.stack_files import open_stack  # noqa: E402

SHORT = ("pretrain.num_steps=20", "codec.num_steps=20", "codec.discriminator_start_step=10", "ingest.valid_percent=30")
VERBS = {
    "write_shards": "shard", "pretrain_jepa": "pretrain", "train_codec": "train codec", "export": "export",
    "tokenize_corpus": "tokenize", "verify": "verify", "restore": "restore", "report": "report",
}  # fmt: skip


def main(arguments: list[str]) -> None:
    """Run both and print the table."""
    stack = open_stack(ROOT / "runs" / "stack")
    if stack is None:
        sys.exit("no stack: make stack")
    source, overrides = _source(arguments)
    name = f"bench-{int(time.time())}"
    with tempfile.TemporaryDirectory() as folder:
        here = _timed([_bin("syllabary"), "run", source, "--out", f"{folder}/run", *overrides])
        there = _timed(
            [sys.executable, "-m", "infra.stack.local_stack", "run", source, "--name", name, *overrides], cwd=ROOT
        )
    os.environ.update(stack.variables())
    jobs, starts = _ray_jobs(name)
    print("| part | s |\n| --- | --- |")
    print(f"| make run | {here:.1f} |\n| make stack-run | {there:.1f} |\n| ratio | {there / here:.2f} |")
    for verb, seconds in jobs.items():
        print(f"| of it Ray job {verb} | {seconds:.1f} |")
    print(f"| of it outside of Ray jobs (upload, Prefect, polling) | {there - sum(jobs.values()):.1f} |")
    print(f"| jobs | {len(starts)} |")


def _source(arguments: list[str]) -> tuple[str, list[str]]:
    if arguments and not arguments[0].startswith("--"):
        return arguments[0], arguments[1:]
    from conftest import write_librilight

    folder = Path(tempfile.mkdtemp(prefix="bench-stack-"))
    write_librilight(folder, num_speakers=12, num_files=1, num_segments=5)
    return str(folder), [part for override in SHORT for part in ("--set", override)] + arguments


def _bin(name: str) -> str:
    return str(Path(sys.executable).parent / name)


def _timed(command: list[str], cwd: Path | None = None) -> float:
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("RAY_", "PREFECT_API"))}
    started = time.monotonic()
    subprocess.run(command, cwd=cwd, env=environment, check=True, stderr=subprocess.DEVNULL)
    return time.monotonic() - started


def _ray_jobs(name: str) -> tuple[dict[str, float], list[int]]:
    """Seconds of each Ray job of the run, by verb, from submission to end."""
    from ray.job_submission import JobSubmissionClient

    jobs = [j for j in JobSubmissionClient(os.environ["RAY_API_SERVER_ADDRESS"]).list_jobs() if name in j.entrypoint]
    jobs.sort(key=lambda job: job.start_time)
    seconds = {VERBS[_module(job.entrypoint)]: (job.end_time - job.start_time) / 1000 for job in jobs}
    return seconds, [job.start_time for job in jobs]


def _module(entrypoint: str) -> str:
    return entrypoint.split("workers.", 1)[1].split()[0]


if __name__ == "__main__":
    main(sys.argv[1:])
