"""``compare``: what differs by more than chance, and which differences stop a promotion."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from syllabary.shards.errors import FormatError, InputError, NotFoundError
from syllabary.workers.control.jobs import CompareJob
from syllabary.workers.evaluation.compare import RegressionError, compare
from syllabary.workers.report.card import REPORT, SCORES
from tests.helpers.report_card_example import write_example_report


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


@pytest.mark.parametrize("without", ["behaviour", "checks", "comparisons"])
def test_a_second_report_without_its_certificate_is_stopped(tmp_path: Path, without: str) -> None:
    wanted = job(tmp_path, "estoi=1", shift=0.1)
    path = tmp_path / "after" / REPORT
    card = json.loads(path.read_text())
    if without == "behaviour":
        card["behaviour"] = None
    elif without == "checks":
        card["behaviour"]["certificate"] = []
    else:
        for check in card["behaviour"]["certificate"]:
            check["num_compared"] = 0
    path.write_text(json.dumps(card))
    with pytest.raises(RegressionError, match="1 regressions: the second report has no certificate that tokens do not"):
        compare(wanted)


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


def rewrite_scores(report: Path, keep: Callable[[pd.DataFrame], pd.Series]) -> None:
    table = pd.read_parquet(report / SCORES)
    table[keep(table)].to_parquet(report / SCORES)


def test_values_that_were_lost_are_a_regression_whatever_the_tolerance(tmp_path: Path) -> None:
    """A tokenizer that falls silent on hard utterances would be better on those that are left."""
    wanted = job(tmp_path, "estoi=1", shift=0.1)
    lost = [f"10{n}/book/chapter-{n:09}" for n in range(4)]
    rewrite_scores(
        tmp_path / "after",
        lambda t: ~((t.system == "ours") & t.utterance_id.isin(lost) & (t.metric == "estoi")),
    )
    with pytest.raises(RegressionError, match=r"^1 regressions: ESTOI has a value on 4 of 8 utterances, before on 8$"):
        compare(wanted)


def test_one_value_more_or_less_is_chance(tmp_path: Path) -> None:
    wanted = job(tmp_path)
    rewrite_scores(tmp_path / "after", lambda t: ~((t.system == "ours") & (t.utterance_id == t.utterance_id[0])))
    assert compare(wanted)["num_regressions"] == 0


def test_reports_of_other_utterances_say_how_many_they_share(tmp_path: Path) -> None:
    wanted = job(tmp_path)
    assert "utterances of both" not in compare(wanted)["text"]
    rewrite_scores(tmp_path / "after", lambda t: t.speaker != "103")
    assert "over the 6 utterances of both, of 8 before and 6 after" in compare(wanted)["text"]


@pytest.mark.parametrize("damage", ["cut", "other columns"])
def test_damaged_scores_are_one_line(tmp_path: Path, damage: str) -> None:
    wanted, path = job(tmp_path), tmp_path / "after" / SCORES
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:-9])
    else:
        pd.read_parquet(path).drop(columns="value").to_parquet(path)
    with pytest.raises(FormatError, match=r"damaged scores: .*scores\.parquet.*evaluate again") as caught:
        compare(wanted)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("tolerance", ["estoi", "estoi=much", "estoi=-1", "estoi=nan", "wer=1"])
def test_a_wrong_tolerance_is_refused(tmp_path: Path, tolerance: str) -> None:
    with pytest.raises(InputError, match="--tolerance"):
        compare(job(tmp_path, tolerance))


def test_reports_must_be_there_and_share_speech(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="absent"):
        compare(CompareJob(before=str(tmp_path / "absent"), after=str(tmp_path / "absent")))
    wanted = job(tmp_path, num_utterances=8)
    path = tmp_path / "after" / SCORES
    table = pd.read_parquet(path)
    table["utterance_id"] = "other/" + table["utterance_id"]
    table.to_parquet(path)
    with pytest.raises(InputError, match="share no utterance"):
        compare(wanted)
