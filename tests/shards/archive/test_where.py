"""The --where language selects what plain Python selects, and says in one line what it does not understand."""

from __future__ import annotations

from collections.abc import Callable

import pyarrow as pa
import pytest

from syllabary.shards.archive.where import parse_where
from syllabary.shards.errors import InputError

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
        ("not snr_db is null", lambda r: r["snr_db"] is not None),
        ("snr_db not in (1, 2)", lambda r: r["snr_db"] not in (None, 1, 2)),
        ("not (snr_db in (1, 2) or speaker = '0')", lambda r: r["snr_db"] not in (None, 1, 2) and r["speaker"] != "0"),
        ("not (not snr_db in (1, 2, 3))", lambda r: r["snr_db"] in (1, 2, 3)),
        ("not (snr_db > 5 and not speaker like '%1')",
         lambda r: r["speaker"] == "1" or (r["snr_db"] is not None and r["snr_db"] <= 5)),
        ("start_s > .5", lambda r: r["start_sample"] > 8000),
        ("num_samples < 9999999999999999999999 and start_s between -1e9 and 3", lambda r: r["start_sample"] <= 48000),
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


def test_a_chain_of_a_thousand_is_taken_and_a_longer_one_refused_with_what_to_write() -> None:
    def chain(num: int) -> str:
        return " or ".join(f"utterance_id = 'u{number}'" for number in range(3, 3 + num))

    assert TABLE.filter(parse_where(chain(1000), TABLE.schema).expression).num_rows == 9
    with pytest.raises(InputError, match=r"above 1,000 comparisons.*write it flat, with `in \(\.\.\.\)`"):
        parse_where(chain(1001), TABLE.schema)


def test_numbers_beyond_every_integer_select_nothing_or_everything() -> None:
    for text, num_rows in (
        ("num_samples > 99999999999999999999999", 0),
        ("num_samples > -99999999999999999999999", 12),
    ):
        assert TABLE.filter(parse_where(text, TABLE.schema).expression).num_rows == num_rows


@pytest.mark.parametrize(
    "text",
    ["", "speaker", "speaker =", "speaker = 19", "start_s = 'x'", "spk = '1'", "speaker = '19", "(speaker = '1'",
     "speaker = '1')", "speaker = '1' speaker = '2'", "speaker in ()", "speaker not '1'", "speaker not = '1'",
     "speaker like 3", "tokens = 1", "__import__('os')", "speaker = speaker", "1 = 1", "speaker = '1' and",
     "; drop table", "snr_db is 3", "(" * 5000 + "speaker = '1'" + ")" * 5000, "not " * 5000 + "speaker = '1'"],
)  # fmt: skip
def test_what_does_not_parse_is_one_line_with_an_example(text: str) -> None:
    with pytest.raises(InputError, match=r"^invalid --where: [^\n]*(example: |write it flat)"):
        parse_where(text, TABLE.schema)
