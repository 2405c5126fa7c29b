"""The report card as a file: it comes back as it was, and one that is damaged or of another format says so."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from syllabary.shards.errors import FormatError, NotFoundError, VersionError
from syllabary.workers.report.card import REPORT, read_card
from tests.helpers.report_card_example import write_example_report


def test_a_card_comes_back_as_it_was(tmp_path: Path) -> None:
    card = write_example_report(tmp_path)
    assert read_card(str(tmp_path)) == card
    for sound in (sound for sample in card.samples for sound in sample.sounds):
        assert (tmp_path / sound.path).stat().st_size > 100


def test_the_same_report_is_the_same_bytes(tmp_path: Path) -> None:
    for name in ("one", "two"):
        write_example_report(tmp_path / name)
    assert (tmp_path / "one" / REPORT).read_bytes() == (tmp_path / "two" / REPORT).read_bytes()


def test_no_report_another_version_and_damage_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(
        NotFoundError, match=r"no report of an evaluation: .*; expected a folder with report.json; give"
    ):
        read_card(str(tmp_path))
    write_example_report(tmp_path)
    values = json.loads((tmp_path / REPORT).read_text())
    (tmp_path / REPORT).write_text(json.dumps(values | {"format_version": 9}))
    with pytest.raises(VersionError, match="9"):
        read_card(str(tmp_path))
    values["scores"][0]["mean"] = "much"
    (tmp_path / REPORT).write_text(json.dumps(values))
    with pytest.raises(FormatError, match="scores"):
        read_card(str(tmp_path))
