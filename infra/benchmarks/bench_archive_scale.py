"""Time and memory of verify, open_archive, filter, fetch one id and the writers of pack on growing synthetic archives.

    python infra/benchmarks/bench_archive_scale.py [--in FOLDER] [ROWS ...] [--steps WORD ...]

Without ROWS they have 100 thousand and a million.

Utterances of 0.4 to 0.8 s keep the disk small; what is counted is rows. Each step is a process of its own; its time on
the processor and its peak memory are the kernel's. Memory must stay level from one size to the next. With ``--in``
archives are made in that folder, or taken from it when they are complete, and stay there. ``--steps`` runs only the
steps whose names begin with one of the words, and writes an archive that is not there.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
from command_line import Parser, at_least, run

from syllabary import open_archive
from syllabary.shards import dataset, outputs
from syllabary.shards.archive import parts as token_archive
from syllabary.shards.archive.encoding import encode_part
from syllabary.shards.archive.ledger import LEDGER_SCHEMA, TOKENIZED, Ledger, publish_part, sha256
from syllabary.shards.archive.packing import Packing
from syllabary.shards.archive.parts import ArchiveFormat, PartMetadata
from syllabary.shards.archive.reader import ArchiveReader
from syllabary.shards.archive.where import parse_where

RATE, ROWS_A_PART, ROWS_A_SPEAKER = 16_000, 8_192, 500
DEFAULT_ROWS = [100_000, 1_000_000]
PACKS = (
    ("blocks", "parquet"), ("whole documents", "parquet"), ("Megatron", "megatron"), ("datatrove", "datatrove"),
    ("WebDataset", "webdataset"), ("Lhotse Shar", "lhotse"),
)  # fmt: skip
FORM = ArchiveFormat("e" * 64, "c" * 64, Packing(128, 4, 7), RATE, 6_400)


def make(uri: str, num_rows: int) -> None:
    """An archive of ``num_rows`` rows in parts of 8,192, written like the real one."""
    FORM.claim(uri)
    rng = np.random.default_rng(0)
    num_parts = -(-num_rows // ROWS_A_PART)
    for number in range(num_parts):
        first = number * ROWS_A_PART
        _make_part(uri, f"train-{number:06}", first, min(ROWS_A_PART, num_rows - first), rng)
    outputs.mark_done(uri, {"num_parts": num_parts})


def _make_part(uri: str, shard: str, first: int, num_rows: int, rng: np.random.Generator) -> None:
    numbers = np.arange(first, first + num_rows)
    speakers = [str(n // ROWS_A_SPEAKER) for n in numbers]
    recordings = [f"{s}/r{n // 50:08}" for s, n in zip(speakers, numbers, strict=True)]
    columns = {
        "utterance_id": [f"{r}@{n:010}" for r, n in zip(recordings, numbers, strict=True)], "recording_id": recordings,
        "speaker": speakers, "split": ["train"] * num_rows, "shard": [shard] * num_rows, "key": speakers,
        "offset": numbers, "size_bytes": numbers, "sample_rate": np.full(num_rows, RATE, np.int32),
        "num_samples": rng.integers(6_401, 12_800, num_rows), "start_sample": numbers % 50 * 20_000,
        "sha256": ["0"] * num_rows, "source": recordings, "language": ["en"] * num_rows,
        "snr_db": np.full(num_rows, 20.0),
    }  # fmt: skip
    columns |= {name: [None] * num_rows for name in ("text", "gender", "extra")}
    rows = pa.table(
        {f.name: pa.array(columns[f.name], f.type) for f in dataset.INDEX_SCHEMA}, schema=dataset.INDEX_SCHEMA
    )
    digits = rng.integers(0, 4, (num_rows * 2, 128), dtype=np.uint8)
    tokens = list(FORM.packing.pack(digits).reshape(num_rows, 2, 19))
    salience = list(rng.integers(0, 256, (num_rows, 2), dtype=np.uint8))
    metadata = PartMetadata(FORM, shard, "0" * 64)
    part = encode_part(token_archive.part_table(rows, tokens, salience, metadata))
    status = {"status": [TOKENIZED] * num_rows, "reason": pa.nulls(num_rows, pa.string())}
    ledger = pa.table({n: status[n] if n in status else rows[n] for n in LEDGER_SCHEMA.names}).cast(LEDGER_SCHEMA)
    publish_part(uri, part, Ledger(shard, "0" * 64, sha256(part), len(part), ledger))


def filter_by(uri: str, where: str) -> None:
    """Read the rows that ``where`` selects, and say how many and how many bytes."""
    reader = ArchiveReader.open(uri)
    found = sum(len(table) for table in reader.scan(parse_where(where, reader.schema)))
    print(f"{found} rows, {reader.bytes_read / 1e6:.1f} MB, {reader.num_row_groups_read} row groups", end="")


def iterate(uri: str) -> None:
    """Go through every utterance as a user does, and say how many there are and how many frames of tokens."""
    num_rows = num_frames = 0
    for utterance in open_archive(uri):
        num_rows, num_frames = num_rows + 1, num_frames + len(utterance.tokens)
    print(f"{num_rows:,} rows, {num_frames:,} frames", end="")


def measured(*arguments: str) -> tuple[float, float, str]:
    """Seconds on the processor, peak MB and last words of a child process."""
    child = subprocess.Popen([sys.executable, *arguments], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    assert child.stdout is not None
    said = child.stdout.read()
    _, status, usage = os.wait4(child.pid, 0)
    assert status == 0, arguments
    return usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024, said


def steps_of(archive: str, packed: str, num_rows: int) -> dict[str, tuple[str, ...]]:
    """Arguments of the process of each step."""
    me = __file__
    packs = {
        f"pack as {name}": {"output_format": output_format} | ({"layout": "whole"} if name == "whole documents" else {})
        for name, output_format in PACKS
    }
    write = {} if Path(archive, outputs.DONE).exists() else {"write": (me, "--make", archive, str(num_rows))}
    return write | {
        "verify": ("-m", "syllabary.workers", "verify", f'{{"archive": "{archive}"}}'),
        "iterate open_archive": (me, "--iterate", archive),
        "filter by speaker": (me, "--filter", archive, "speaker = '77'"),
        "fetch one id": (me, "--filter", archive, "utterance_id = '77/r00000771@0000038555'"),
        **{step: ("-m", "syllabary.workers", "pack",
                  json.dumps({"archive": archive, "out": f"{packed}/{step}", "document": "utterance"} | values))
           for step, values in packs.items()},
    }  # fmt: skip


def table(folder: Path, sizes: list[int], wanted: list[str]) -> None:
    """Print a row for each size and step whose name begins with a wanted word; with none, for all."""
    print("| rows | archive MB | step | CPU-s | peak MB | |\n| --- | --- | --- | --- | --- | --- |", flush=True)
    for num_rows in sizes:
        archive = folder / str(num_rows)
        with tempfile.TemporaryDirectory(dir=folder) as packed:
            for step, arguments in steps_of(str(archive), packed, num_rows).items():
                if wanted and not step.startswith(("write", *wanted)):
                    continue
                seconds, peak_mb, said = measured(*arguments)
                size_mb = sum(p.stat().st_size for p in archive.rglob("*.parquet")) / 1e6
                note = said if step in ("iterate open_archive", "filter by speaker", "fetch one id") else ""
                if step.startswith("pack"):
                    note = f"{num_rows * 2 * 19 / seconds:,.0f} tokens/s"
                print(f"| {num_rows:,} | {size_mb:.0f} | {step} | {seconds:.1f} | {peak_mb:.0f} | {note} |", flush=True)


def parsed() -> argparse.Namespace:
    """The command line; ``--make``, ``--iterate`` and ``--filter`` are this script's own processes."""
    parser = Parser(__doc__)
    parser.add_argument("rows", nargs="*", type=at_least(1), metavar="ROWS")
    parser.add_argument("--in", dest="folder", type=Path)
    parser.add_argument("--steps", nargs="*", default=[], metavar="WORD")
    parser.add_argument("--make", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--iterate", help=argparse.SUPPRESS)
    parser.add_argument("--filter", nargs=2, help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    """Do a step as a process of its own, or print the table of all."""
    options = parsed()
    sizes = options.rows or DEFAULT_ROWS
    if options.make:
        make(options.make[0], int(options.make[1]))
    elif options.iterate:
        iterate(options.iterate)
    elif options.filter:
        filter_by(*options.filter)
    elif options.folder:
        options.folder.mkdir(parents=True, exist_ok=True)
        table(options.folder, sizes, options.steps)
    else:
        with tempfile.TemporaryDirectory() as made:
            table(Path(made), sizes, options.steps)


if __name__ == "__main__":
    run(main)
