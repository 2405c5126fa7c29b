"""Utterances as Lhotse Shar: ``<split>/cuts.NNNNNN.jsonl.gz`` and ``<split>/tokens.NNNNNN.tar``.

A cut is an utterance with its speaker and text; its field ``tokens`` is [num_frames, num_groups] as the archive has
them, without offset. Blocks and documents are Lhotse's own business, so block size and layout do not count here. Cut
ids are numbers, since a tar's members cannot be called what utterances are; ``supervisions[0].id`` is the utterance's.
"""

from __future__ import annotations

import gzip
import io
import json
import tarfile
from typing import Any

import numpy as np

from syllabary.shards import store
from syllabary.shards.blocks.tape import Tape
from syllabary.shards.blocks.writers.target import Tapes, Target, Totals, totals_of
from syllabary.shards.blocks.writers.tars import add_member, npy_bytes


def write_lhotse(target: Target, tapes: Tapes) -> Totals:
    """Write the files of every tape that has not been written; the cuts come last and say that they are whole."""
    totals = Totals(num_documents=0, num_tokens=0, num_ids=0)
    for number, (bucket, tape) in enumerate(tapes):
        totals += totals_of(tape)
        uri = target.uri(target.split, f"cuts.{number:06}.jsonl.gz")
        if not store.exists(uri):
            name = f"{target.split}-{bucket:05}"
            store.publish_bytes(target.uri(target.split, f"tokens.{number:06}.tar"), _tokens(tape, name))
            store.publish_bytes(uri, _cuts(tape, name))
    return totals


def _cuts(tape: Tape, name: str) -> bytes:
    lines = [json.dumps(_cut(row, f"{name}-{i:06}"), ensure_ascii=False) for i, row in enumerate(tape.rows.to_pylist())]
    return gzip.compress("".join(f"{line}\n" for line in lines).encode(), mtime=0)


def _cut(row: dict[str, Any], cut_id: str) -> dict[str, Any]:
    duration = row["num_samples"] / row["sample_rate"]
    supervision = {"id": row["utterance_id"], "recording_id": row["recording_id"], "start": 0.0, "duration": duration,
                   "channel": 0} | {n: row[n] for n in ("speaker", "text") if row[n] is not None}  # fmt: skip
    place = {"start_s": row["start_sample"] / row["sample_rate"], "num_samples": row["num_samples"],
             "sample_rate": row["sample_rate"]}  # fmt: skip
    return {"id": cut_id, "start": 0.0, "duration": duration, "channel": 0, "supervisions": [supervision],
            "custom": place, "type": "MonoCut"}  # fmt: skip


def _tokens(tape: Tape, name: str) -> bytes:
    groups, sink = tape.vocabulary.packing.num_groups, io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for number, (first, length) in enumerate(zip(tape.firsts.tolist(), tape.lengths.tolist(), strict=True)):
            ids = tape.ids[first : first + length].astype(np.int64) - tape.vocabulary.id_offset
            tokens = ids.astype(np.uint16).reshape(-1, groups)
            manifest = {"storage_type": "shar", "storage_path": "", "storage_key": "", "shape": list(tokens.shape)}
            add_member(tar, f"{name}-{number:06}.npy", npy_bytes(tokens))
            add_member(tar, f"{name}-{number:06}.json", json.dumps(manifest).encode())
    return sink.getvalue()
