"""Utterances as Lhotse Shar: ``<split>/cuts.NNNNNN.jsonl.gz`` and ``<split>/tokens.NNNNNN.tar``.

A cut is an utterance with its speaker and text; its field ``tokens`` is [num_frames, num_groups] as the archive has
them, without offset. Blocks and documents are Lhotse's own business, so block size and layout do not count here. Cut
ids are numbers, since a tar's members cannot be called what utterances are; ``supervisions[0].id`` is the utterance's.
"""

from __future__ import annotations

import itertools
import json
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from syllabary.shards import store
from syllabary.shards.blocks.tape import Tape
from syllabary.shards.blocks.writers.target import Tapes, Target, Totals, totals_of
from syllabary.shards.blocks.writers.tars import npy_bytes, writing_tar

_AT_ONCE = 4096
_GZIP = 31  # a window of 32 KB, in gzip's frame, which tells no time


def write_lhotse(target: Target, tapes: Tapes) -> Totals:
    """Write the files of every tape that has not been written; the cuts come last and say that they are whole."""
    totals = Totals(num_documents=0, num_tokens=0, num_ids=0)
    numbers = itertools.count()
    for bucket, tape in tapes:  # not enumerated: that keeps what it gave last
        number = next(numbers)
        totals.update(totals_of(tape))
        uri = target.uri(target.split, f"cuts.{number:06}.jsonl.gz")
        if not store.exists(uri):
            name = f"{target.split}-{bucket:05}"
            with store.publishing(target.uri(target.split, f"tokens.{number:06}.tar")) as path:
                _write_tokens(path, tape, name)
            with store.publishing(uri) as path:
                _write_cuts(path, tape, name)
        del tape  # not beside the next
    return totals


def _write_cuts(path: Path, tape: Tape, name: str) -> None:
    packer = zlib.compressobj(9, zlib.DEFLATED, _GZIP)
    with path.open("wb") as out:
        for first in range(0, len(tape.rows), _AT_ONCE):
            rows = enumerate(tape.rows.slice(first, _AT_ONCE).to_pylist(), first)
            lines = [json.dumps(_cut(row, f"{name}-{i:06}"), ensure_ascii=False) for i, row in rows]
            out.write(packer.compress("".join(f"{line}\n" for line in lines).encode()))
        out.write(packer.flush())


def _cut(row: dict[str, Any], cut_id: str) -> dict[str, Any]:
    duration = row["num_samples"] / row["sample_rate"]
    supervision = {"id": row["utterance_id"], "recording_id": row["recording_id"], "start": 0.0, "duration": duration,
                   "channel": 0} | {n: row[n] for n in ("speaker", "text") if row[n] is not None}  # fmt: skip
    place = {"start_s": row["start_sample"] / row["sample_rate"], "num_samples": row["num_samples"],
             "sample_rate": row["sample_rate"]}  # fmt: skip
    return {"id": cut_id, "start": 0.0, "duration": duration, "channel": 0, "supervisions": [supervision],
            "custom": place, "type": "MonoCut"}  # fmt: skip


def _write_tokens(path: Path, tape: Tape, name: str) -> None:
    groups = tape.vocabulary.packing.num_groups
    with writing_tar(path) as add:
        for number, (first, length) in enumerate(zip(tape.firsts, tape.lengths, strict=True)):
            ids = tape.ids[first : first + length].astype(np.int64) - tape.vocabulary.id_offset
            tokens = ids.astype(np.uint16).reshape(-1, groups)
            manifest = {"storage_type": "shar", "storage_path": "", "storage_key": "", "shape": list(tokens.shape)}
            add(f"{name}-{number:06}.npy", npy_bytes(tokens))
            add(f"{name}-{number:06}.json", json.dumps(manifest).encode())
