"""``salient``: the time spans where the DAAM gate lifts frames most, ranked, found without decoding audio.

Exactly the asked share of the frames is taken: those of higher salience first, of equal salience the earlier in the
archive's order, which is that of time in every recording.
"""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from syllabary.shards import outputs
from syllabary.shards.archive import parts as token_archive
from syllabary.shards.archive.reader import ArchiveReader
from syllabary.shards.archive.where import Condition, parse_where
from syllabary.shards.blocks.dealing import BUCKET, Dealer
from syllabary.shards.errors import NotFoundError
from syllabary.shards.store import Folder
from syllabary.workers.control.jobs import SalientJob
from syllabary.workers.control.log import say

SPANS = pa.schema(
    [
        ("rank", pa.int64()),
        ("recording_id", pa.string()),
        ("start_s", pa.float64()),
        ("end_s", pa.float64()),
        ("utterance_id", pa.string()),
        ("salience", pa.int64()),
    ]
)
_MOST = 255
_DEALT = pa.schema([(BUCKET, pa.int32()), *list(SPANS)[1:]])
_AT_ONCE = 1 << 16
_HELD_BYTES = 64e6
_COLUMNS = ["utterance_id", "recording_id", "start_sample", "num_samples", "sample_rate", "salience"]


def salient(job: SalientJob) -> dict[str, Any]:
    """List the spans of the ``top_percent`` frames of highest salience, by their highest salience, then by time.

    Returns:
        ``num_spans``, ``num_frames`` and ``top_percent`` as they came out, ``threshold`` (the lowest salience among
        them) and the first ``limit`` of the ``spans``.

    Raises:
        InputError: ``where`` does not parse.
        NotFoundError: no frame is selected.
        ConflictError: ``out`` holds spans of another archive or selection; that is refused before any row is read.
        StorageError: there is no space left to sort in.
    """
    reader = ArchiveReader.open(job.archive)
    condition = parse_where(job.where, reader.schema) if job.where is not None else None
    claim = _claim_of(job, reader)
    if job.out is not None:
        outputs.refuse_other(job.out, "report", **claim)
    counts = _histogram(reader, condition)
    total = int(counts.sum())
    if not total:
        raise NotFoundError("no frame is selected", value=job.where or job.archive)
    num_frames = max(1, int(total * job.top_percent / 100 + 1e-9))
    threshold, num_ties = salience_threshold(counts, num_frames)
    with tempfile.TemporaryDirectory(prefix="syllabary-salient-") as folder:
        dealer = Dealer(Path(folder) / "spans", _MOST + 1, _HELD_BYTES)
        spans = _spans(reader, condition, threshold, num_ties)
        num_spans = 0
        while rows := list(itertools.islice(spans, _AT_ONCE)):
            dealer.add(pa.Table.from_pylist(rows, schema=_DEALT))
            num_spans += len(rows)
        shown = _publish(job, claim, _ranked(dealer))
    share = round(100 * num_frames / total, 3)
    say("salient", f"{num_spans:,} spans hold {share} % of the frames, salience {threshold} and above")
    return {
        "num_spans": num_spans, "num_frames": num_frames, "top_percent": share, "threshold": threshold, "spans": shown,
    }  # fmt: skip


def salience_threshold(counts: NDArray[np.int64], num_frames: int) -> tuple[int, int]:
    """The lowest salience among the top ``num_frames`` of frames with these ``counts`` [256], and how many of that
    salience are among them."""
    reached = np.cumsum(counts[::-1])[::-1]
    threshold = int(np.flatnonzero(reached >= num_frames)[-1])
    above = int(reached[threshold]) - int(counts[threshold])
    return threshold, num_frames - above


def _histogram(reader: ArchiveReader, condition: Condition | None) -> NDArray[np.int64]:
    counts = np.zeros(_MOST + 1, np.int64)
    for table in reader.scan(condition, ["salience"]):
        for values in token_archive.list_values(table["salience"]):
            counts += np.bincount(values, minlength=_MOST + 1)
    return counts


def _spans(
    reader: ArchiveReader, condition: Condition | None, threshold: int, num_ties: int
) -> Iterator[dict[str, Any]]:
    """The spans of frames above the threshold, and of the first ``num_ties`` at it."""
    frame_s, left = reader.format.hop_length / reader.format.model_sample_rate, num_ties
    for table in reader.scan(condition, _COLUMNS):
        salience = token_archive.list_values(table["salience"])
        for row, own in zip(table.drop_columns("salience").to_pylist(), salience, strict=True):
            is_tie = own == threshold
            taken = is_tie & (np.cumsum(is_tie) <= left)
            left -= int(taken.sum())
            yield from _spans_of(row, own, (own > threshold) | taken, frame_s)


def _spans_of(
    row: dict[str, Any], salience: NDArray[np.uint8], is_taken: NDArray[np.bool_], frame_s: float
) -> Iterator[dict[str, Any]]:
    edges = np.flatnonzero(np.diff(np.concatenate([[0], is_taken, [0]]).astype(np.int8)))
    begin, length = row["start_sample"] / row["sample_rate"], row["num_samples"] / row["sample_rate"]
    for first, last in zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True):
        highest = int(salience[first:last].max())
        yield {
            BUCKET: _MOST - highest,
            "recording_id": row["recording_id"],
            "start_s": round(begin + first * frame_s, 6),
            "end_s": round(begin + min(last * frame_s, length), 6),
            "utterance_id": row["utterance_id"],
            "salience": highest,
        }


def _ranked(dealer: Dealer) -> Iterator[pa.Table]:
    """The spans by descending salience, equal ones in the order in which they were found; one table per salience."""
    num = 0
    for _, bucket in dealer.buckets():
        ranks = pa.array(np.arange(num, num + len(bucket)), pa.int64())
        num += len(bucket)
        yield bucket.drop_columns(BUCKET).add_column(0, "rank", ranks)


def _claim_of(job: SalientJob, reader: ArchiveReader) -> dict[str, dict[str, Any]]:
    inputs = {"encoder_digest": reader.format.encoder_digest, "parts_digest": reader.parts_digest}
    return {"inputs": inputs, "config": {"top_percent": job.top_percent, "where": job.where}}


def _publish(job: SalientJob, claim: dict[str, dict[str, Any]], tables: Iterator[pa.Table]) -> list[dict[str, Any]]:
    """Say the first spans and return them; with ``out``, write them all, those of one salience in memory at a time."""
    shown: list[dict[str, Any]] = []

    def told() -> Iterator[pa.Table]:
        for spans in tables:
            for span in spans.slice(0, job.limit - len(shown)).to_pylist():
                when = f"{span['start_s']:.2f}..{span['end_s']:.2f} s"
                say("salient", f"{span['recording_id']} {when}  {span['salience']}")
                shown.append(span)
            yield spans

    if job.out is None:
        for _ in told():
            if len(shown) >= job.limit:
                break
        return shown
    outputs.claim(job.out, "report", **claim)
    with (
        Folder(job.out).publishing("spans.parquet") as path,
        pq.ParquetWriter(path, SPANS, compression="zstd", write_page_checksum=True) as writer,
    ):
        for spans in told():
            writer.write_table(spans.cast(SPANS))
    return shown
