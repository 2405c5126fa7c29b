"""Promotion: the first tokenizer is pointed to, a better one takes its place, a worse one leaves the pointer alone."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import pytest

from syllabary.flows import promote_tokenizer as module
from syllabary.shards import store
from syllabary.shards.errors import InputError
from syllabary.workers.control.run_layout import POINTER
from syllabary.workers.evaluation.compare import RegressionError, compare
from tests.helpers.report_card_example import write_example_report


@pytest.fixture
def promote(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The flow's body; evaluating writes an example report, better or worse by the tokenizer's name."""

    def evaluated(tokenizer: str, shards: str, out: str, **options: Any) -> None:
        write_example_report(Path(out), shift=float(Path(tokenizer).name))

    monkeypatch.setattr(module, "evaluate_tokenizer", evaluated)
    monkeypatch.setattr(module, "run_job", compare)
    monkeypatch.setattr(module, "output_lock", lambda *uris: contextlib.nullcontext())
    monkeypatch.setattr(module.artifacts, "summary", lambda *figures: None)

    def run(shift: str, **options: Any) -> dict[str, Any]:
        description = {"encoder_digest": "e" * 64, "decoder_digest": f"{shift.encode().hex():0<64}"}
        (tmp_path / shift).mkdir(exist_ok=True)
        (tmp_path / shift / "config.json").write_bytes(store.pretty_json(description))
        return module.promote_tokenizer.fn(str(tmp_path / shift), "shards", str(tmp_path / "registry"), **options)

    return run


def promoted(tmp_path: Path) -> str:
    return Path(store.read_json(str(tmp_path / "registry" / POINTER))["tokenizer"]).name


def test_better_ones_follow_one_another(promote: Any, tmp_path: Path) -> None:
    assert promote("0.0")["comparison"].startswith("the first")
    assert promoted(tmp_path) == "0.0"
    assert "better" in promote("0.1")["comparison"] and promoted(tmp_path) == "0.1"


def test_a_worse_one_is_not_pointed_to_unless_it_is_tolerated(promote: Any, tmp_path: Path) -> None:
    promote("0.0")
    with pytest.raises(RegressionError):
        promote("-0.1")
    assert promoted(tmp_path) == "0.0"
    promote("-0.1", tolerances=("estoi=0.2", "pesq_wb=1", "mel_distance=3"))
    assert promoted(tmp_path) == "-0.1"


def test_a_folder_that_is_no_tokenizer_is_refused(promote: Any, tmp_path: Path) -> None:
    (tmp_path / "none").mkdir()
    (tmp_path / "none" / "config.json").write_text("{}")
    with pytest.raises(InputError, match="no tokenizer there"):
        module.promote_tokenizer.fn(str(tmp_path / "none"), "shards", str(tmp_path / "registry"))
