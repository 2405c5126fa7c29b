"""``compare``: what differs by more than chance, and which differences stop a promotion."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from shards.errors import InputError, NotFoundError
from tests.report_card_example import write_example_report
from workers.compare import RegressionError, compare
from workers.jobs import CompareJob
from workers.report_card import REPORT


def job(tmp_path: Path, *tolerances: str, shift: float = 0.0, **example: Any) -> CompareJob:
    write_example_report(tmp_path / "before")
    write_example_report(tmp_path / "after", shift=shift, **example)
    return CompareJob(before=str(tmp_path / "before"), after=str(tmp_path / "after"), tolerances=tolerances)


def test_the_same_report_has_no_difference(tmp_path: Path) -> None:
    found = compare(job(tmp_path))
    assert found["differences"] == {} and "no difference exceeds its interval (3 metrics)" in found["text"]


def test_a_better_tokenizer_passes_with_its_differences(tmp_path: Path) -> None:
    found = compare(job(tmp_path, shift=0.1))
    assert found["differences"]["estoi"] == pytest.approx(0.1)
    assert found["differences"]["mel_distance"] == pytest.approx(-2), "lower is better there"
    assert found["text"].count("better") == 3 and "worse" not in found["text"]


def test_a_worse_one_is_stopped_with_exit_code_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(RegressionError, match=r"3 regressions: .*ESTOI 0\.\d+ → 0\.\d+") as caught:
        compare(job(tmp_path, shift=-0.1))
    assert caught.value.exit_code == 1
    assert capsys.readouterr().err.count("  worse\n") == 3


def test_what_is_tolerated_is_no_regression(tmp_path: Path) -> None:
    found = compare(job(tmp_path, "estoi=0.11", "pesq_wb=0.4", "mel_distance=2.1", shift=-0.1))
    assert found["num_regressions"] == 0 and found["text"].count("worse, tolerated") == 3
    with pytest.raises(RegressionError, match="1 regressions: ESTOI"):
        compare(job(tmp_path, "estoi=0.09", "pesq_wb=0.4", "mel_distance=2.1", shift=-0.1))


def test_broken_promises_are_not_tolerated(tmp_path: Path) -> None:
    wanted = job(tmp_path, shift=0.1)
    path = tmp_path / "after" / REPORT
    card = json.loads(path.read_text())
    card["behaviour"]["certificate"][0]["num_mismatches"] = 2
    card["metrics"] = [m for m in card["metrics"] if m["name"] != "pesq_wb"]
    path.write_text(json.dumps(card))
    with pytest.raises(RegressionError, match=r"certificate 'batched': 2 of 760 differ; metric pesq_wb is missing"):
        compare(wanted)


def test_another_encoder_is_remarked(tmp_path: Path) -> None:
    wanted = job(tmp_path)
    path = tmp_path / "after" / REPORT
    path.write_text(path.read_text().replace("e" * 64, "f" * 64))
    assert "archives of one are not those of the other" in compare(wanted)["text"]


@pytest.mark.parametrize("tolerance", ["estoi", "estoi=much", "estoi=-1", "estoi=nan", "wer=1"])
def test_a_wrong_tolerance_is_refused(tmp_path: Path, tolerance: str) -> None:
    with pytest.raises(InputError, match="--tolerance"):
        compare(job(tmp_path, tolerance))


def test_reports_must_be_there_and_share_speech(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="absent"):
        compare(CompareJob(before=str(tmp_path / "absent"), after=str(tmp_path / "absent")))
    wanted = job(tmp_path, num_utterances=8)
    import pyarrow.parquet as pq

    path = tmp_path / "after" / "scores.parquet"
    table = pq.read_table(path).to_pandas()
    table["utterance_id"] = "other/" + table["utterance_id"]
    table.to_parquet(path)
    with pytest.raises(InputError, match="share no utterance"):
        compare(wanted)
