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
from syllabary.workers.evaluation.compare import Change, RegressionError, Scores, changes_of, compare, lost_values
from syllabary.workers.report.card import REPORT, SCORES, Metric, ReportCard
from tests.helpers.report_card_example import METRICS, write_example_report


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


ESTOI = METRICS[1]
LOWER = METRICS[2]


def scored(values: dict[str, float], metric: str = "estoi", *, weight: float = 1.0, speaker: str = "") -> dict:
    """Rows of one metric by (utterance_id, metric); an utterance is its own speaker unless one is named."""
    return {(u, metric): {"value": v, "weight": weight, "speaker": speaker or u} for u, v in values.items()}


def card_of(*metrics: Metric) -> ReportCard:
    return ReportCard.model_construct(metrics=metrics)


def only_change(
    before: dict, after: dict, tolerances: dict[str, float] | None = None, metric: Metric = ESTOI
) -> Change:
    (change,) = changes_of(card_of(metric), before, after, tolerances or {}, seed=0)
    return change


def test_a_difference_by_hand() -> None:
    change = only_change(scored({"a": 0.25, "b": 0.5, "c": 0.75}), scored({"a": 0.5, "b": 0.75, "c": 1.0}))
    assert (change.before, change.after, change.difference.mean) == (0.5, 0.75, 0.25)
    assert (change.difference.low, change.difference.high, change.verdict) == (0.25, 0.25, "better")


@pytest.mark.parametrize(
    ("metric", "step", "verdict"),
    [
        (ESTOI, 0.25, "better"),
        (ESTOI, -0.25, "worse"),
        (LOWER, 0.25, "worse"),
        (LOWER, -0.25, "better"),
        (ESTOI, 0, "same"),
    ],
)
def test_what_one_speaker_changes_counts_though_it_has_no_interval(metric: Metric, step: float, verdict: str) -> None:
    before = scored({"a": 0.5, "b": 0.5}, metric.name, speaker="103")
    after = scored({"a": 0.5 + step, "b": 0.5 + step}, metric.name, speaker="103")
    change = only_change(before, after, metric=metric)
    assert change.difference.low is None and change.verdict == verdict


def test_a_difference_of_just_the_tolerance_is_tolerated() -> None:
    before, after = scored({"a": 1.0, "b": 1.0}), scored({"a": 0.75, "b": 0.75})
    assert only_change(before, after, {"estoi": 0.25}).verdict == "worse, tolerated"
    assert only_change(before, after, {"estoi": 0.2499}).verdict == "worse"
    assert only_change(before, after).verdict == "worse"


def test_weights_are_those_of_the_first_report() -> None:
    """Words of the reference are the same in both; where they are not, the first says what an utterance counts."""
    before = scored({"a": 1.0}, weight=3.0) | scored({"b": 1.0}, weight=1.0)
    after = scored({"a": 2.0}, weight=1.0) | scored({"b": 5.0}, weight=100.0)
    change = only_change(before, after)
    assert (change.before, change.difference.mean, change.after) == (1.0, (3 * 1 + 1 * 4) / 4, 2.75)


def test_only_utterances_of_both_are_compared() -> None:
    change = only_change(scored({"a": 0.0, "b": 0.5, "x": 9.0}), scored({"a": 0.25, "b": 0.75, "y": -9.0}))
    assert (change.before, change.difference.mean, change.difference.num_utterances) == (0.25, 0.25, 2)


def test_a_value_that_one_speaker_lost_is_a_regression() -> None:
    """With one speaker nothing tells chance from fault, and a lost value is not taken for chance."""
    speakers = {"a": "103", "b": "103", "c": "103"}
    before = Scores(scored(dict.fromkeys(speakers, 0.5)), speakers)
    after = Scores(scored({"a": 0.5, "b": 0.5}), speakers)
    assert lost_values([ESTOI], before, after) == ["ESTOI has a value on 2 of 3 utterances, before on 3"]
    assert lost_values([ESTOI], after, before) == [], "a value that is new is none that was lost"
    assert lost_values([ESTOI], before, before) == []


def test_values_are_lost_only_where_both_measured() -> None:
    many = {f"{n}": f"{n}" for n in range(6)}
    before = Scores(scored(dict.fromkeys(many, 0.5)), many)
    fewer = {name: name for name in ("0", "1")}
    assert lost_values([ESTOI], before, Scores(scored(dict.fromkeys(fewer, 0.5)), fewer)) == []
    assert lost_values([ESTOI], before, Scores({}, many)) == ["ESTOI has a value on 0 of 6 utterances, before on 6"]
