"""``salient``: the time spans where the DAAM gate lifts frames most, found without decoding audio."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from syllabary.shards import outputs, store
from syllabary.shards.archive import parts as token_archive
from syllabary.shards.archive.reader import ArchiveReader
from syllabary.shards.archive.where import Condition, parse_where
from syllabary.shards.errors import NotFoundError
from syllabary.workers.control.jobs import SalientJob
from syllabary.workers.control.run_verb import say

_SPANS = pa.schema(
    [
        ("recording_id", pa.string()),
        ("start_s", pa.float64()),
        ("end_s", pa.float64()),
        ("utterance_id", pa.string()),
        ("salience", pa.int64()),
    ]
)
_ROW_GROUP_SIZE = 1 << 16
_COLUMNS = ["utterance_id", "recording_id", "start_sample", "num_samples", "sample_rate", "salience"]


def salient(job: SalientJob) -> dict[str, Any]:
    """List the spans of frames at or above the threshold that ``top_percent`` of the frames reach.

    Raises:
        InputError: ``where`` does not parse.
        NotFoundError: no frame is selected.
    """
    reader = ArchiveReader.open(job.archive)
    condition = parse_where(job.where, reader.schema) if job.where is not None else None
    counts = _histogram(reader, condition)
    if not counts.sum():
        raise NotFoundError("no frame is selected", value=job.where or job.archive)
    threshold = salience_threshold(counts, job.top_percent)
    shown: list[dict[str, Any]] = []
    spans = _told(job, _spans(reader, condition, threshold), shown)
    num_spans = _publish(job, reader, spans) if job.out is not None else sum(1 for _ in spans)
    share = 100 * counts[threshold:].sum() / counts.sum()
    say("salient", f"{num_spans:,} spans hold {share:.2f} % of the frames, salience {threshold} and above")
    return {"num_spans": num_spans, "threshold": int(threshold), "percent_of_frames": round(float(share), 3),
            "spans": shown}  # fmt: skip


def salience_threshold(counts: NDArray[np.int64], top_percent: float) -> int:
    """The lowest salience that at most ``top_percent`` of the frames reach; the highest that occurs if none is rare."""
    reached = np.cumsum(counts[::-1])[::-1]
    rare = np.flatnonzero((reached <= counts.sum() * top_percent / 100) & (reached > 0))
    return int(rare[0]) if len(rare) else int(np.flatnonzero(counts)[-1])


def _histogram(reader: ArchiveReader, condition: Condition | None) -> NDArray[np.int64]:
    counts = np.zeros(256, np.int64)
    for table in reader.scan(condition, ["salience"]):
        for values in token_archive.list_values(table["salience"]):
            counts += np.bincount(values, minlength=256)
    return counts


def _spans(reader: ArchiveReader, condition: Condition | None, threshold: int) -> Iterator[dict[str, Any]]:
    frame_s = reader.format.hop_length / reader.format.model_sample_rate
    for table in reader.scan(condition, _COLUMNS):
        salience = token_archive.list_values(table["salience"])
        for row, own in zip(table.drop_columns("salience").to_pylist(), salience, strict=True):
            yield from _spans_of(row, own, threshold, frame_s)


def _spans_of(
    row: dict[str, Any], salience: NDArray[np.uint8], threshold: int, frame_s: float
) -> Iterator[dict[str, Any]]:
    edges = np.flatnonzero(np.diff(np.concatenate([[0], salience >= threshold, [0]]).astype(np.int8)))
    begin, length = row["start_sample"] / row["sample_rate"], row["num_samples"] / row["sample_rate"]
    for first, last in zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True):
        yield {
            "recording_id": row["recording_id"],
            "start_s": round(begin + first * frame_s, 6),
            "end_s": round(begin + min(last * frame_s, length), 6),
            "utterance_id": row["utterance_id"],
            "salience": int(salience[first:last].max()),
        }


def _told(job: SalientJob, spans: Iterator[dict[str, Any]], shown: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """The spans, the first ``limit`` of them said and kept in ``shown``."""
    for span in spans:
        if len(shown) < job.limit:
            say("salient", f"{span['recording_id']} {span['start_s']:.2f}..{span['end_s']:.2f} s  {span['salience']}")
            shown.append(span)
        yield span


def _publish(job: SalientJob, reader: ArchiveReader, spans: Iterator[dict[str, Any]]) -> int:
    """Write all spans, some thousands in memory at a time; returns their number."""
    assert job.out is not None
    inputs = {"encoder_digest": reader.format.encoder_digest}
    outputs.claim(job.out, "report", inputs=inputs, config={"top_percent": job.top_percent, "where": job.where})
    num_spans = 0
    with (
        store.publishing(store.join(job.out, "spans.parquet")) as path,
        pq.ParquetWriter(path, _SPANS, compression="zstd", write_page_checksum=True) as writer,
    ):
        while rows := list(itertools.islice(spans, _ROW_GROUP_SIZE)):
            writer.write_table(pa.Table.from_pylist(rows, schema=_SPANS))
            num_spans += len(rows)
    return num_spans
