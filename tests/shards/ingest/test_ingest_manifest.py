"""A JSONL manifest as a source."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import soundfile

from syllabary.shards import store
from syllabary.shards.dataset import read_index, shard_uri
from syllabary.shards.errors import ConflictError, InputError, NotFoundError
from syllabary.shards.ingest.recordings import Recording
from syllabary.shards.ingest.sources.lines import _location as location_of
from syllabary.shards.ingest.sources.listing import list_source, tell_source
from tests.helpers.ingest_testing import RATE, config, ledger_of, outcomes, shard, tone, write_audio


def list_manifest(uri: str) -> list[Recording]:
    return list_source(tell_source(uri, config()), config()).recordings


def manifest(folder: Path, *lines: object) -> Path:
    path = folder / "list.jsonl"
    path.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines))
    return path


def test_parts_of_files_are_recordings(tmp_path: Path) -> None:
    write_audio(tmp_path / "audio" / "long.flac", tone(10))
    path = manifest(
        tmp_path,
        {"path": "audio/long.flac", "speaker": "anna", "start_s": 1, "end_s": 3.5},
        "",
        {"path": str(tmp_path / "audio" / "long.flac"), "speaker": "bob", "start_s": 4, "language": "Welsh"},
    )
    shard(path, tmp_path / "out", config(coverage="all"))
    rows = read_index(str(tmp_path / "out")).to_pylist()
    seconds = {(row["speaker"], row["language"]): 0.0 for row in rows}
    for row in rows:
        seconds[row["speaker"], row["language"]] += row["num_samples"] / RATE
    assert seconds == {("anna", None): 2.5, ("bob", "Welsh"): 6.0}
    assert "audio/long#1-3.5" in {row["recording_id"] for row in rows}


def test_the_part_is_the_right_part(tmp_path: Path) -> None:
    from syllabary.shards.audio import decode
    from syllabary.shards.dataset import read_utterance

    write_audio(tmp_path / "a.flac", tone(6))
    path = manifest(tmp_path, {"path": "a.flac", "start_s": 2.25, "end_s": 4})
    shard(path, tmp_path / "out", config(coverage="all"))
    (row,) = read_index(str(tmp_path / "out")).to_pylist()
    source, _ = soundfile.read(tmp_path / "a.flac", dtype="float32")
    assert (decode(read_utterance(str(tmp_path / "out"), row))[0] == source[36_000:64_000]).all()


def test_what_a_list_says_of_a_part_is_what_it_promises(tmp_path: Path) -> None:
    write_audio(tmp_path / "a.flac", tone(6))
    parts = [{"start_s": 2.25, "end_s": 4}, {"end_s": 1.5}, {"start_s": 5}]
    shard(manifest(tmp_path, *({"path": "a.flac", **part} for part in parts)), tmp_path / "out", config(coverage="all"))
    promised = {row["recording_id"]: row["promised_samples"] for row in ledger_of(tmp_path / "out")}
    assert promised == {"a#2.25-4": 1.75 * RATE, "a#0-1.5": 1.5 * RATE, "a#5-end": None}


def test_missing_files_and_spans_without_audio_are_quarantined(tmp_path: Path) -> None:
    write_audio(tmp_path / "a.flac", tone(3))
    path = manifest(
        tmp_path, {"path": "gone.flac"}, {"path": "a.flac", "start_s": 2, "end_s": 9}, {"path": "a.flac", "end_s": 2}
    )
    shard(path, tmp_path / "out", config(coverage="all"))
    assert outcomes(tmp_path / "out", "gone") == {("quarantined", "cannot be read (not found)")}
    assert outcomes(tmp_path / "out", "a#2-9") == {("quarantined", "no audio at 2..9 s in a file of 3.000 s")}
    assert outcomes(tmp_path / "out", "a#0-2") == {("shard", "")}


def test_numbers_as_text_and_ends_that_are_rounded_are_taken(tmp_path: Path) -> None:
    write_audio(tmp_path / "a.flac", tone(3))
    parts = [{"start_s": "0", "end_s": "1"}, {"start_s": 1, "end_s": 3.05}, {"start_s": "2.5", "end_s": "3.2"}]
    shard(manifest(tmp_path, *({"path": "a.flac"} | part for part in parts)), tmp_path / "out", config(coverage="all"))
    rows = {row["recording_id"]: row["num_samples"] / RATE for row in read_index(str(tmp_path / "out")).to_pylist()}
    assert rows == {"a#0-1": 1, "a#1-3.05": 2}
    assert outcomes(tmp_path / "out", "a#2.5-3.2") == {("quarantined", "no audio at 2.5..3.2 s in a file of 3.000 s")}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{not json", "line 2 is not JSON"),
        ({"sound": "a.flac"}, "line 2: path"),
        ({"path": "a.flac", "start_s": 3, "end_s": 2}, "not after start_s"),
        ({"path": "a.flac", "start_s": -1}, "line 2: start_s"),
        ({"path": "a.flac", "speaker": ["x"]}, "line 2: speaker"),
        ({"path": "a.flac", "start_s": "soon"}, "line 2: start_s"),
        ({"path": "a.flac", "start_s": float("nan")}, "line 2: start_s"),
        ({"path": ""}, "line 2: path"),
        ({"path": "first.flac"}, "lines 1 and 2 of .*list.jsonl are the same recording: 'first.flac'"),
        ("[1]", "line 2"),
    ],
)
def test_a_line_that_is_not_understood_refuses_the_manifest(tmp_path: Path, line: object, message: str) -> None:
    with pytest.raises(InputError, match=message):
        list_manifest(str(manifest(tmp_path, {"path": "first.flac"}, line)))


def test_an_empty_manifest_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="empty manifest"):
        list_manifest(str(manifest(tmp_path, "")))


def test_another_speaker_is_changed_input(tmp_path: Path) -> None:
    write_audio(tmp_path / "a.flac", tone(3))
    shard(manifest(tmp_path, {"path": "a.flac"}), tmp_path / "out")
    with pytest.raises(ConflictError, match="recording a has changed"):
        shard(manifest(tmp_path, {"path": "a.flac", "speaker": "x"}), tmp_path / "out")


def test_paths_that_climb_give_ids_that_do_not(tmp_path: Path) -> None:
    write_audio(tmp_path / "a.flac", tone(2))
    (tmp_path / "lists").mkdir()
    shard(manifest(tmp_path / "lists", {"path": "../a.flac"}), tmp_path / "out", config(coverage="all"))
    assert outcomes(tmp_path / "out", "%2E%2E/a") == {("shard", "")}


def test_a_manifest_on_s3_gives_the_bytes_of_the_same_manifest_on_disk(tmp_path: Path, s3: Any) -> None:
    lines = (
        {"path": "audio/long.flac", "speaker": "anna", "start_s": 1, "end_s": 3.5},
        {"path": "audio/long.flac", "speaker": "bob", "start_s": 4},
        {"path": "gone.flac"},
    )
    write_audio(tmp_path / "audio" / "long.flac", tone(8))
    path = manifest(tmp_path, *lines)
    bucket = s3.bucket()
    store.publish_bytes(f"{bucket}/lists/audio/long.flac", (tmp_path / "audio" / "long.flac").read_bytes())
    store.publish_bytes(f"{bucket}/lists/list.jsonl", path.read_bytes())
    for source, out in ((str(path), str(tmp_path / "out")), (f"{bucket}/lists/list.jsonl", f"{bucket}/out")):
        shard(source, out, config(coverage="all"))
    local, remote = (read_index(uri) for uri in (str(tmp_path / "out"), f"{bucket}/out"))
    assert remote.num_rows == 2 and remote.equals(local)
    name = remote["shard"][0].as_py()
    tars = [store.read_bytes(shard_uri(uri, name)) for uri in (str(tmp_path / "out"), f"{bucket}/out")]
    assert tars[0] == tars[1]


@pytest.mark.parametrize(
    ("lies_at", "path", "location"),
    [
        ("/lists/a.jsonl", "b.flac", "/lists/b.flac"), ("/lists/a.jsonl", "/abs/b.flac", "/abs/b.flac"),
        ("/lists/a.jsonl", "s3://other/b.flac", "s3://other/b.flac"),
        ("s3://bucket/lists/a.jsonl", "c/b.flac", "s3://bucket/lists/c/b.flac"),
        ("s3://bucket/lists/a.jsonl", "/abs/b.flac", "/abs/b.flac"),
        ("s3://bucket/lists/a.jsonl", "s3://other/b.flac", "s3://other/b.flac"),
    ],
)  # fmt: skip
def test_what_a_list_names_lies_beside_it_or_where_it_says(lies_at: str, path: str, location: str) -> None:
    assert location_of(lies_at, path) == location


def test_what_lies_at_s3_is_a_file_a_folder_or_nothing(s3: Any) -> None:
    bucket = s3.bucket()
    store.publish_bytes(f"{bucket}/lists/list.jsonl", b'{"path": "a.flac"}\n')
    store.publish_bytes(f"{bucket}/both", b'{"path": "a.flac"}\n')
    store.publish_bytes(f"{bucket}/both/anna/b.flac", b"fLaC")
    told = {name: tell_source(f"{bucket}/{name}", config()) for name in ("lists/list.jsonl", "both")}
    assert told["lists/list.jsonl"].layout == "manifest"
    assert told["both"].layout == "auto", "a key that is also a prefix is the folder: a list would be one file of it"
    assert [file.name for file in (told["both"].listed or ([], 0))[0]] == ["anna/b.flac"]
    with pytest.raises(NotFoundError, match="nothing at SOURCE"):
        tell_source(f"{bucket}/gone", config())
