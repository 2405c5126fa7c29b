"""``evaluate`` and ``compare`` as commands: one clear line for a mistake, and the exit code that a gate needs."""

from __future__ import annotations

from pathlib import Path

from tests.flows.test_cli import refusal, syllabary
from tests.helpers.report_card_example import write_example_report


def test_an_unknown_metric_is_refused_with_those_that_exist(tmp_path: Path) -> None:
    out = tmp_path / "out"
    line = refusal("evaluate", "--tokenizer", "x", "--shards", "y", "--out", str(out), "--metrics", "estoi,loudness")
    assert "unknown metric: 'loudness'" in line and "speaker_similarity" in line
    assert not out.exists()


def test_an_unknown_split_is_refused() -> None:
    assert "splits" in refusal("evaluate", "--tokenizer", "x", "--shards", "y", "--out", "z", "--splits", "dev")


def test_compare_prints_differences_and_exits_1_on_a_regression(tmp_path: Path) -> None:
    for name, shift in (("before", 0.0), ("better", 0.1), ("worse", -0.1)):
        write_example_report(tmp_path / name, shift=shift)
    passed = syllabary("compare", str(tmp_path / "before"), str(tmp_path / "better"))
    assert passed.returncode == 0 and passed.stdout.count("better") == 3 and "no regression" in passed.stdout
    failed = syllabary("compare", str(tmp_path / "before"), str(tmp_path / "worse"))
    assert failed.returncode == 1 and "error: 3 regressions" in failed.stderr and "Traceback" not in failed.stderr
    tolerated = ("--tolerance", "estoi=0.2", "--tolerance", "pesq_wb=1", "--tolerance", "mel_distance=3")
    assert syllabary("compare", str(tmp_path / "before"), str(tmp_path / "worse"), *tolerated).returncode == 0
