"""The ledger of an ingest by hand: no second twice, and shares of seconds, not of recordings."""

from __future__ import annotations

import pyarrow as pa
import pytest

from syllabary.shards.errors import FormatError
from syllabary.shards.ingest.ledger import LEDGER_SCHEMA, as_table, fill_gaps, totals

GAP = {"recording_id": "r", "status": "silence", "start_sample": 0, "num_samples": 0}


def span(start: int, length: int) -> dict:
    return {"recording_id": "r", "status": "shard", "start_sample": start, "num_samples": length}


@pytest.mark.parametrize(
    "spans",
    [
        [span(0, 10), span(9, 5)],  # one sample twice
        [span(0, 10), span(3, 2)],  # one inside the other
        [span(4, 5), span(4, 5)],  # the same twice
        [span(5, 5), span(0, 6)],  # in any order
        [span(15, 6)],  # past the end
    ],
)
def test_spans_that_overlap_or_pass_the_end_are_refused(spans: list[dict]) -> None:
    with pytest.raises(FormatError, match=r"overlap or pass the end.*r"):
        fill_gaps(spans, 20, GAP)


def test_neighbours_that_touch_and_a_span_to_the_end_are_none() -> None:
    found = [
        (row["status"], row["start_sample"], row["num_samples"])
        for row in fill_gaps([span(0, 10), span(10, 5)], 20, GAP)
    ]
    assert found == [("shard", 0, 10), ("shard", 10, 5), ("silence", 15, 5)]
    assert len(fill_gaps([span(0, 20)], 20, GAP)) == 1


def ledger(*rows: tuple[str, str, str, int, int]) -> pa.Table:
    """Rows of recording, status, detail, samples, rate."""
    return pa.Table.from_pylist(
        [
            {"recording_id": recording, "source": recording, "speaker": "s", "status": status, "detail": detail,
             "start_sample": 0, "num_samples": num_samples, "sample_rate": rate}
            for recording, status, detail, num_samples, rate in rows
        ],
        schema=LEDGER_SCHEMA,
    )  # fmt: skip


# 60 + 15 s of shards at two rates, 20 s of silence, 4 s and 1 s filtered for two reasons, nothing known of one: 100 s.
ROWS = (
    ("a", "silence", "", 320_000, 16_000),
    ("a", "shard", "train-000000", 960_000, 16_000),
    ("b", "shard", "valid-000000", 120_000, 8_000),
    ("c", "filtered", "snr", 64_000, 16_000),
    ("d", "filtered", "language", 48_000, 48_000),
    ("e", "quarantined", "empty file", 0, 0),
)


def test_totals_are_seconds_and_percent_of_seconds() -> None:
    found = [
        (r["status"], r["detail"], r["num_recordings"], r["duration_s"], r["percent"]) for r in totals(ledger(*ROWS))
    ]
    assert found == [
        ("shard", "", 2, 75.0, 75.0),
        ("silence", "", 1, 20.0, 20.0),
        ("filtered", "language", 1, 1.0, 1.0),
        ("filtered", "snr", 1, 4.0, 4.0),
        ("quarantined", "empty file", 1, 0.0, 0.0),
    ]


def test_a_recording_is_counted_once_however_many_spans_it_has() -> None:
    rows = [("a", "silence", "", 16_000, 16_000)] * 3 + [("b", "silence", "", 16_000, 16_000)]
    ((_, num_recordings, duration_s),) = [
        (r["status"], r["num_recordings"], r["duration_s"]) for r in totals(ledger(*rows))
    ]
    assert (num_recordings, duration_s) == (2, 4.0)


def test_no_seconds_at_all_are_no_division_by_zero() -> None:
    (row,) = totals(ledger(("e", "quarantined", "empty file", 0, 0)))
    assert row["percent"] == 0.0


def test_the_lines_of_text_name_outcome_recordings_seconds_and_percent() -> None:
    lines = as_table(totals(ledger(*ROWS)))
    assert lines[1].split() == ["shard", "2", "75.0", "75.00", "%"]
    assert lines[4].split() == ["filtered:", "snr", "1", "4.0", "4.00", "%"]
