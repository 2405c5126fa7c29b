"""The house in numbers: files per folder, files passed on four ways, lines of code, unreachable parameters.

    python infra/benchmarks/studies/house.py

A way passes a file when a function of that file runs (``sys.setprofile``), on random weights and made-up shards, in one
process. An unreachable parameter is a field of a job that its command does not take.
"""

from __future__ import annotations

import argparse
import ast
import inspect
import os
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import FrameType

import numpy as np
import torch

ROOT = Path(__file__).resolve().parents[3]
SOURCES = ("flows", "workers", "model", "shards")


def main() -> None:
    """Print the table."""
    argparse.ArgumentParser(description=__doc__).parse_args()
    sys.path.insert(0, str(ROOT))
    files = [path for folder in SOURCES for path in (ROOT / folder).rglob("*.py")]
    print("| | |\n| --- | --- |")
    rooms = Counter(path.parent.relative_to(ROOT).as_posix() for path in files if path.name != "__init__.py")
    largest = ", ".join(f"{count} ({name})" for name, count in rooms.most_common(3))
    print(f"| folders with code, most files in one | {len(rooms)}, {largest} |")
    with tempfile.TemporaryDirectory() as folder:
        for name, way in ways(Path(folder)).items():
            print(f"| files passed, {name} | {len(passed(way))} |")
    for source in SOURCES:
        own = [path for path in files if path.is_relative_to(ROOT / source)]
        print(f"| `{source}/`: files, lines, lines of code | {len(own)}, {lines(own):,}, {code(own):,} |")
    calls = sum(path.read_text().count("store.join(") for path in files)
    print(f"| calls of `store.join` | {calls} |")
    print(f"| parameters that no command takes | {len(unreachable())} |")


def ways(folder: Path) -> dict[str, Callable[[], object]]:
    """Each way, ready to be gone."""
    from syllabary.workers.archive.encode_shard import encode_shard
    from syllabary.workers.archive.restore import restore
    from syllabary.workers.control.jobs import RestoreJob
    from syllabary.workers.recipes.named import resolve
    from syllabary.workers.tokenizer.tokenizer import Tokenizer
    from syllabary.workers.training.driver import RankJob
    from syllabary.workers.training.engine import join_process_group
    from syllabary.workers.training.jepa import JepaStage
    from syllabary.workers.training.rank import RankSetup
    from tests.helpers.archive_corpus import make_base
    from tests.helpers.training_testing import free_port

    alone = {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(free_port()),
        "RANK": "0",
        "LOCAL_RANK": "0",
        "WORLD_SIZE": "1",
    }
    os.environ.update(alone)
    cpu = torch.device("cpu")
    join_process_group(cpu)

    def engine() -> object:
        recipe = resolve("tiny", overrides=["pretrain.precision=fp32"])
        return JepaStage(RankSetup(RankJob("", "", recipe, None), cpu, [], False)).engines

    base = make_base(folder)
    weights = str(base / "tokenizer")
    wav = np.random.default_rng(0).normal(0, 0.1, 24_000).astype(np.float32)
    job = RestoreJob(archive=str(base / "archive"), tokenizer=weights, out=str(base / "out"))
    return {
        "a waveform to tokens": lambda: Tokenizer.load(weights).encode(wav, 16_000),
        "a shard URI to a part": lambda: encode_shard(Tokenizer.load(weights), str(base / "shards"), "train-000000"),
        "an archive URI to FLAC": lambda: restore(job),
        "a recipe to an engine": engine,
    }


def passed(way: Callable[[], object]) -> set[str]:
    """Files of ours of which a function runs, in any thread."""
    found: set[str] = set()

    def note(frame: FrameType, event: str, _: object) -> None:
        if event == "call":
            found.add(frame.f_code.co_filename)

    threading.setprofile(note)
    sys.setprofile(note)
    try:
        way()
    finally:
        sys.setprofile(None)
        threading.setprofile(None)  # type: ignore[arg-type]
    kept = (Path(name).resolve() for name in found)
    return {path.as_posix() for path in kept if any(path.is_relative_to(ROOT / source) for source in SOURCES)}


def lines(paths: list[Path]) -> int:
    """All lines of the files."""
    return sum(len(path.read_text().splitlines()) for path in paths)


def code(paths: list[Path]) -> int:
    """Lines that hold code: neither blank nor comment nor docstring."""
    total = 0
    for path in paths:
        text = path.read_text()
        told: set[int] = set()
        for node in ast.walk(ast.parse(text)):
            body = getattr(node, "body", None)
            first = body[0] if isinstance(body, list) and body else None
            value = first.value if isinstance(first, ast.Expr) else None
            if first and isinstance(value, ast.Constant) and isinstance(value.value, str):
                told.update(range(first.lineno, (first.end_lineno or first.lineno) + 1))
        rows = enumerate(text.splitlines(), start=1)
        total += sum(bool(row.strip()) and not row.strip().startswith("#") and at not in told for at, row in rows)
    return total


def unreachable() -> list[str]:
    """Fields of jobs that their commands do not take."""
    from syllabary.flows.commands import command_of
    from syllabary.workers.control.jobs import PipelineParameters, declared_jobs

    return [
        f"{kind.__name__}.{name}"
        for kind in (PipelineParameters, *declared_jobs())
        for name in kind.model_fields
        if name not in inspect.signature(command_of(kind, lambda job: None)).parameters
    ]


if __name__ == "__main__":
    main()
