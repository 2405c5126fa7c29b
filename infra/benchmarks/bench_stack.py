"""`make stack-run` against `make run`: the same speech and recipe, both whole, and where the difference goes.

    python infra/benchmarks/bench_stack.py [SOURCE] [--set a.b=c ...]

Takes the stack that `make stack` has brought up; where none is up, it brings up one of its own in a temporary folder
and ends it. Wall-clock time, alone and then on the stack: run it on an otherwise idle machine. A stage's row holds all
from the end of the one before, alone by the last line its job told, on the stack by its Ray job's end. Without SOURCE
a small corpus is synthesized and both stages are cut to a few steps, so that the way to the work is measured rather
than the work.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

from command_line import Parser, run

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from infra.stack.services import SERVICES, answers  # noqa: E402
from infra.stack.stack_files import Stack, open_stack  # noqa: E402
from syllabary.shards import store  # noqa: E402
from syllabary.shards.errors import JobError, NotFoundError  # noqa: E402
from syllabary.workers.recipes.named import resolve  # noqa: E402
from syllabary.workers.recipes.shipped import demo_recipe  # noqa: E402

SHORT = ("pretrain.num_steps=20", "codec.num_steps=20", "codec.discriminator_start_step=10", "ingest.valid_percent=30")


def main() -> None:
    """Run both and print the table."""
    parser = Parser(__doc__)
    parser.add_argument("source", nargs="?", metavar="SOURCE", help="a folder or URI of speech")
    parser.add_argument("--set", dest="overrides", action="append", default=[], metavar="a.b=c", help="over the recipe")
    options = parser.parse_args()
    if options.source and not store.exists(options.source):
        raise NotFoundError("no such folder of speech", value=options.source, expected="a folder or an s3:// URI")
    overrides = [*(() if options.source else SHORT), *options.overrides]
    resolve(demo_recipe(), overrides=overrides)  # a mistake in them is told before anything runs
    with tempfile.TemporaryDirectory(prefix="bench-stack-") as folder, _running_stack(Path(folder) / "stack") as stack:
        report(stack, options.source or _synthesized(Path(folder) / "speech"), overrides, folder)


def report(stack: Stack, source: str, overrides: list[str], folder: str) -> None:
    """Run the pipeline alone and on the stack, and print when each stage was done."""
    name = f"bench-{int(time.time())}"
    settings = [part for override in overrides for part in ("--set", override)]
    here, log = _timed([_bin("syllabary"), "run", source, "--out", f"{folder}/run", *settings])
    there, _ = _timed([*_LOCAL_STACK, "run", source, "--folder", str(stack.folder), "--name", name, *settings])
    os.environ.update(stack.variables())
    jobs, alone = _ray_jobs(name), _last_lines(log)
    print("| until the end of | make run, s | make stack-run, s | of it Ray job |\n| --- | --- | --- | --- |")
    mine, theirs = here.start, there.start
    for job in jobs:
        ended_here, ended_there = alone[job.verb], job.span.end
        took = f"{ended_here - mine:.1f} | {ended_there - theirs:.1f} | {job.span.seconds:.1f}"
        print(f"| {job.verb} | {took} |")
        mine, theirs = ended_here, ended_there
    print(f"| the command | {here.end - mine:.1f} | {there.end - theirs:.1f} | |")
    print(f"| all of it | {here.seconds:.1f} | {there.seconds:.1f} | {sum(job.span.seconds for job in jobs):.1f} |")
    print(f"| ratio | | {there.seconds / here.seconds:.2f} | |")


_LOCAL_STACK = (sys.executable, "-m", "infra.stack.local_stack")


@contextmanager
def _running_stack(folder: Path) -> Iterator[Stack]:
    """The stack of `make stack` where it is up; otherwise one of its own in ``folder``, which is ended at the end."""
    stack = open_stack(ROOT / "runs" / "stack")
    if stack is not None and all(answers(stack, service) for service in SERVICES):
        yield stack
        return
    print("no stack is up: this brings up one of its own and ends it\n", flush=True)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # whoever ends this ends the stack with it
    try:
        _timed([*_LOCAL_STACK, "up", "--folder", str(folder)])
        own = open_stack(folder)
        assert own is not None
        yield own
    finally:
        end = [*_LOCAL_STACK, "down", "--folder", str(folder)]
        subprocess.run(end, cwd=ROOT, check=False, stderr=subprocess.DEVNULL)


def _synthesized(folder: Path) -> str:
    """A small corpus made up for the run."""
    from conftest import write_librilight

    write_librilight(folder, num_speakers=12, num_files=1, num_segments=5)
    return str(folder)


def _bin(name: str) -> str:
    return str(Path(sys.executable).parent / name)


class Span(NamedTuple):
    """Seconds since the epoch."""

    start: float
    end: float

    @property
    def seconds(self) -> float:
        """How long it took."""
        return self.end - self.start


class RayJob(NamedTuple):
    """A job of the stack's run, from submission to end."""

    verb: str
    span: Span


def _timed(command: list[str]) -> tuple[Span, str]:
    """How long a command took, and what it said on standard error."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("RAY_", "PREFECT_API"))}
    environment["SYLLABARY_LOG"] = "json"
    started = time.time()
    ended = subprocess.run(command, cwd=ROOT, env=environment, check=False, stderr=subprocess.PIPE, text=True)
    if ended.returncode:
        raise JobError(f"{Path(command[0]).name} {' '.join(command[1:4])} failed: {_last_message(ended.stderr)}")
    return Span(started, time.time()), ended.stderr


def _last_message(log: str) -> str:
    """The last thing that a command said, whether its line is JSON or text."""
    last = next((line for line in reversed(log.splitlines()) if line.strip()), "without a word")
    with suppress(ValueError, KeyError, TypeError):
        return str(json.loads(last)["message"])
    return last


def _last_lines(log: str) -> dict[str, float]:
    """When each job told its last line."""
    last: dict[str, float] = {}
    for line in log.splitlines():
        with suppress(ValueError, KeyError, TypeError):
            values = json.loads(line)
            last[values["job"]] = datetime.fromisoformat(values["time"]).timestamp()
    return last


def _ray_jobs(name: str) -> list[RayJob]:
    from ray.job_submission import JobSubmissionClient

    jobs = [j for j in JobSubmissionClient(os.environ["RAY_API_SERVER_ADDRESS"]).list_jobs() if name in j.entrypoint]
    jobs.sort(key=lambda job: job.start_time)
    return [RayJob(_verb(job.entrypoint), Span(job.start_time / 1000, job.end_time / 1000)) for job in jobs]


def _verb(entrypoint: str) -> str:
    return entrypoint.split(" syllabary.workers ", 1)[1].split()[0]


if __name__ == "__main__":
    run(main)
