"""Transcripts: by id, or by time where every stretch that an utterance touches lies within it."""

from __future__ import annotations

from pathlib import Path

import pytest

from syllabary.shards.errors import FormatError, NotFoundError
from syllabary.workers.evaluation.transcripts import read_transcripts


def row(name: str, start_s: float, end_s: float) -> dict:
    rate = 16_000
    return {"utterance_id": name, "source": "a/b.flac", "sample_rate": rate, "start_sample": int(start_s * rate),
            "num_samples": int((end_s - start_s) * rate)}  # fmt: skip


def test_stretches_within_an_utterance_are_joined_and_cut_ones_refused(tmp_path: Path) -> None:
    table = tmp_path / "t.tsv"
    lines = ["a/b.flac\t0.0\t2.0\tONE TWO", "a/b.flac\t2.0\t5.0\tTHREE", "c.flac\t0\t9\tELSEWHERE"]
    table.write_text("\n".join(["path\tstart_sec\tend_sec\ttext", *lines]) + "\n")
    rows = [row("both", 0.3, 4.8), row("second", 1.9, 5.0), row("cut", 0.0, 3.5), row("late", 6.0, 8.0)]
    assert read_transcripts(str(table), rows) == {"both": "ONE TWO THREE", "second": "THREE"}


def test_ids_name_their_text(tmp_path: Path) -> None:
    (tmp_path / "t.tsv").write_text('utterance_id\ttext\nx\ta "quoted" word\nz\tunused\n')
    assert read_transcripts(str(tmp_path / "t.tsv"), [row("x", 0, 1), row("y", 0, 1)]) == {"x": 'a "quoted" word'}


@pytest.mark.parametrize(
    "text",
    ["", "a,b\n1,2\n", "path\tstart_sec\tend_sec\ttext\nx\tsoon\t2\thello\n"],
    ids=["empty", "csv", "no seconds"],
)
def test_another_table_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "t.tsv").write_text(text)
    with pytest.raises(FormatError, match=r"t\.tsv"):
        read_transcripts(str(tmp_path / "t.tsv"), [row("x", 0, 1)])


def test_a_missing_table_is_named(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="absent"):
        read_transcripts(str(tmp_path / "absent.tsv"), [])
