"""What a source says beside the sound: text, gender, and all else, in the index and in the tar."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from syllabary.shards.dataset import read_index
from syllabary.shards.ingest.recordings import RecordingError, extra_json
from syllabary.shards.ingest.sources.folder import Layout, require_sidecar, speaker_of
from syllabary.shards.ingest.sources.librilight import Sidecar, parse_sidecar
from tests.helpers.ingest_testing import (
    RATE,
    config,
    flac_bytes,
    librilight_json,
    make_tar,
    outcomes,
    shard,
    tone,
    write_librilight_file,
)


def rows_of(out: Path) -> list[dict[str, Any]]:
    return read_index(str(out)).sort_by("utterance_id").to_pylist()


def test_the_book_of_a_librilight_recording_is_kept(tmp_path: Path) -> None:
    book = {
        "id": "7",
        "title": "Emma",
        "genre": ["Romance"],
        "language": "English",
        "url_rss": "http://x",
        "authors": [],
    }
    info = librilight_json([[0, 2]], book_meta=book, reader_note="cold")
    write_librilight_file(tmp_path / "in", "s/b/a", tone(2), info)
    shard(tmp_path / "in", tmp_path / "out")
    (row,) = rows_of(tmp_path / "out")
    expected = {"book_meta": {"genre": ["Romance"], "id": "7", "title": "Emma"}, "reader_note": "cold"}
    assert json.loads(row["extra"]) == expected
    assert row["extra"].startswith('{"book_meta":{"genre"'), "canonical: sorted keys, no spaces"
    assert (row["text"], row["gender"], row["language"]) == (None, None, "English")


def test_a_transcribed_recording_is_one_utterance_with_its_text(tmp_path: Path) -> None:
    wave = np.concatenate([tone(1.5), np.zeros(RATE, np.float32), tone(1.5)])
    info = librilight_json([[0, 1.5], [2.5, 4]], text="two words", gender="f")
    write_librilight_file(tmp_path / "in", "s/b/a", wave, info)
    shard(tmp_path / "in", tmp_path / "out")
    (row,) = rows_of(tmp_path / "out")
    assert (row["num_samples"], row["text"], row["gender"]) == (4 * RATE, "two words", "f")
    with tarfile.open(tmp_path / "out" / "shards" / f"{row['shard']}.tar") as tar:
        member = json.load(tar.extractfile(f"{row['key']}.json"))  # type: ignore[arg-type]
    assert {name: member[name] for name in ("text", "gender", "extra")} == {
        name: row[name] for name in ("text", "gender", "extra")
    }


def test_a_transcript_of_several_utterances_is_claimed_by_none_and_not_lost(tmp_path: Path) -> None:
    info = librilight_json([[0, 1.5], [2.5, 4]], text="two words", note=1)
    write_librilight_file(tmp_path / "in", "s/b/a", tone(4), info)
    write_librilight_file(tmp_path / "in", "s/b/b", tone(9), librilight_json([[0, 9]], text="long words"))
    shard(tmp_path / "in", tmp_path / "out", config(transcribed="cut"))
    told = [(row["text"], json.loads(row["extra"]).get("recording_text")) for row in rows_of(tmp_path / "out")]
    assert told == [(None, "two words"), (None, None), (None, "long words"), (None, None)]


def test_a_cut_recording_with_one_stretch_of_speech_keeps_its_text(tmp_path: Path) -> None:
    write_librilight_file(tmp_path / "in", "s/b/a", tone(4), librilight_json([[0.5, 3]], text="two words"))
    shard(tmp_path / "in", tmp_path / "out", config(transcribed="cut"))
    (row,) = rows_of(tmp_path / "out")
    assert (row["num_samples"], row["text"]) == (2.5 * RATE, "two words")


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({}, None),
        ({"a": None}, None),
        ({"b": 1, "a": [True, {"c": None}]}, '{"a":[true,{"c":null}],"b":1}'),
        ({"a": float("nan")}, '{"a":"nan"}'),
        ({"ü": "語"}, '{"ü":"語"}'),
        ({"a": b"x"}, '{"a":"b\'x\'"}'),
        ({"a": "\ud800"}, '{"a":"?"}'),
    ],
)
def test_extra_is_one_json_object_or_nothing(values: dict[str, Any], expected: str | None) -> None:
    assert extra_json(values) == expected


@pytest.mark.parametrize(
    ("name", "layout", "speaker"),
    [
        ("100/emma/a.flac", "librilight", "100"), ("small/100/emma/a.flac", "librilight", "100"),
        ("100/a.flac", "librilight", "100"), ("a.flac", "librilight", "unknown"),
        ("100/emma/a.flac", "folder", "100"), ("small/100/emma/a.flac", "folder", "small"),
        ("100/a.flac", "folder", "100"), ("a.flac", "folder", "unknown"),
    ],
)  # fmt: skip
def test_the_speaker_is_above_the_book_in_librilight_and_the_first_folder_elsewhere(
    name: str, layout: Layout, speaker: str
) -> None:
    assert speaker_of(name, layout) == speaker


def test_what_lacks_its_json_in_a_tar_of_librilight_is_told_at_its_end(tmp_path: Path) -> None:
    members = {f"s/b/{name}.flac": flac_bytes(tone(2, seed=n)) for n, name in enumerate("ac")}
    make_tar(tmp_path / "a.tar", {"s/b/a.json": json.dumps(librilight_json([[0, 2]])).encode()} | members)
    shard(tmp_path / "a.tar", tmp_path / "out")
    assert outcomes(tmp_path / "out", "s/b/a") == {("shard", "")}
    assert outcomes(tmp_path / "out", "s/b/c") == {("quarantined", "missing JSON")}


MARKED = parse_sidecar(json.dumps(librilight_json([[0, 2]])).encode())
UNMARKED = parse_sidecar(b'{"speaker": "s1"}')


@pytest.mark.parametrize(
    ("said", "layout", "coverage", "missing"),
    [
        (None, "librilight", "speech", "missing JSON"),
        (UNMARKED, "librilight", "speech", "JSON without voice_activity"),
        (MARKED, "librilight", "speech", None),
        (None, "librilight", "all", None),
        (UNMARKED, "librilight", "all", None),
        (None, "folder", "speech", None),
    ],
)
def test_voice_activity_is_asked_of_librilight_where_it_says_what_is_taken(
    said: Sidecar | None, layout: Layout, coverage: str, missing: str | None
) -> None:
    if missing is None:
        require_sidecar(said, layout, config(coverage=coverage))
        return
    with pytest.raises(RecordingError, match=f"^{missing}$"):
        require_sidecar(said, layout, config(coverage=coverage))
