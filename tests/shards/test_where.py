"""The --where language selects what plain Python selects, and says in one line what it does not understand."""

from __future__ import annotations

from collections.abc import Callable

import pyarrow as pa
import pytest

from shards.errors import InputError
from shards.where import parse_where

ROWS = [
    {"utterance_id": f"u{i}", "speaker": str(i % 3), "start_sample": 16_000 * i, "num_samples": 8_000 * (i + 1),
     "sample_rate": 16_000, "snr_db": None if i % 4 == 0 else float(i), "tokens": [i]}
    for i in range(12)
]  # fmt: skip
TABLE = pa.Table.from_pylist(ROWS)


@pytest.mark.parametrize(
    ("text", "keeps"),
    [
        ("speaker='1'", lambda r: r["speaker"] == "1"),
        ("speaker == '1' AND NOT start_sample > 80000", lambda r: r["speaker"] == "1" and r["start_sample"] <= 80000),
        ("speaker != '1' or utterance_id = 'u4'", lambda r: r["speaker"] != "1" or r["utterance_id"] == "u4"),
        ("speaker <> '1' and (start_s < 3 or duration_s >= 5.5)",
         lambda r: r["speaker"] != "1" and (r["start_sample"] < 48000 or r["num_samples"] >= 88000)),
        ("utterance_id in ('u1','u2', 'nobody')", lambda r: r["utterance_id"] in ("u1", "u2")),
        ("utterance_id not in ('u1')", lambda r: r["utterance_id"] != "u1"),
        ("utterance_id like 'u1%'", lambda r: r["utterance_id"].startswith("u1")),
        ("start_s between 2 and 4", lambda r: 2 <= r["start_sample"] / 16000 <= 4),
        ("end_s <= 2.0", lambda r: r["start_sample"] + r["num_samples"] <= 32000),
        ("snr_db is null", lambda r: r["snr_db"] is None),
        ("snr_db is not null and snr_db > 1e0", lambda r: r["snr_db"] is not None and r["snr_db"] > 1),
    ],
)  # fmt: skip
def test_the_condition_selects_what_python_selects(text: str, keeps: Callable[[dict], bool]) -> None:
    condition = parse_where(text, TABLE.schema)
    expected = [r["utterance_id"] for r in ROWS if keeps(r)]
    assert TABLE.filter(condition.expression)["utterance_id"].to_pylist() == expected
    assert 0 < len(expected) < len(ROWS)
    assert TABLE.select(sorted(condition.columns)).filter(condition.expression).num_rows == len(expected)


def test_a_quote_is_doubled() -> None:
    condition = parse_where("speaker = 'o''brien'", TABLE.schema)
    table = pa.table({"speaker": ["o'brien", "x"]})
    assert table.filter(condition.expression).num_rows == 1


@pytest.mark.parametrize(
    "text",
    ["", "speaker", "speaker =", "speaker = 19", "start_s = 'x'", "spk = '1'", "speaker = '19", "(speaker = '1'",
     "speaker = '1')", "speaker = '1' speaker = '2'", "speaker in ()", "speaker not '1'", "speaker like 3",
     "tokens = 1", "__import__('os')", "speaker = speaker", "1 = 1", "speaker = '1' and", "; drop table",
     "snr_db is 3"],
)  # fmt: skip
def test_what_does_not_parse_is_one_line_with_an_example(text: str) -> None:
    with pytest.raises(InputError, match=r"^--where does not do: [^\n]*example: "):
        parse_where(text, TABLE.schema)
