"""Every awkward input: it is in the ledger or clearly refused, nothing is lost and nothing doubled."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from syllabary.shards.dataset import read_index
from syllabary.shards.errors import ConflictError, InputError, NotFoundError
from tests.helpers.ingest_testing import (
    RATE,
    config,
    flac_bytes,
    ledger_of,
    librilight_json,
    outcomes,
    shard,
    tone,
    tree,
    without_privileges,
    write_audio,
    write_librilight_file,
)


def with_good(root: Path) -> Path:
    """A good recording beside the bad one: the run must go on."""
    write_librilight_file(root, "good/b/good", tone(2), librilight_json([[0, 2]], speaker="good"))
    return root


def assert_accounted(root: Path, out: Path) -> None:
    """Each recording covered once from 0 to its end; the good one is in a shard."""
    assert outcomes(out, "good/b/good") == {("shard", "")}
    spans: dict[str, list[tuple[int, int]]] = {}
    for row in ledger_of(out):
        spans.setdefault(row["recording_id"], []).append((row["start_sample"], row["num_samples"]))
    for pieces in spans.values():
        position = 0
        for start, num_samples in sorted(pieces):
            assert start == position
            position += num_samples
    keys = [row["utterance_id"] for row in read_index(str(out)).to_pylist()]
    assert len(keys) == len(set(keys))


def ingest_one(tmp_path: Path, name: str = "bad/b/bad", **values: Any) -> set[tuple[str, str]]:
    root = with_good(tmp_path / "in")
    shard(root, tmp_path / "out", config(**values))
    assert_accounted(root, tmp_path / "out")
    return outcomes(tmp_path / "out", name)


def put(tmp_path: Path, data: bytes, info: object = None, name: str = "bad/b/bad") -> None:
    path = tmp_path / "in" / f"{name}.flac"
    path.parent.mkdir(parents=True)
    path.write_bytes(data)
    path.with_suffix(".json").write_text(json.dumps(info or librilight_json([[0, 3]])))


@pytest.mark.parametrize("coverage", ["speech", "all"])
def test_truncated_flac(tmp_path: Path, coverage: str) -> None:
    """Utterances cut before the damage is reached are taken back; both lengths are in the ledger."""
    data = flac_bytes(tone(20))
    put(tmp_path, data[: len(data) * 3 // 4], librilight_json([[0, 20]]))
    ((status, detail),) = ingest_one(tmp_path, coverage=coverage)
    assert status == "quarantined"
    assert "damaged audio" in detail or "ends early" in detail
    (row,) = [row for row in ledger_of(tmp_path / "out") if row["recording_id"] == "bad/b/bad"]
    assert row["promised_samples"] == 20 * RATE
    assert 10 * RATE < row["num_samples"] < 15 * RATE, "what decodes before the damage"


def test_flipped_bit_in_the_middle(tmp_path: Path) -> None:
    data = bytearray(flac_bytes(tone(20)))
    data[len(data) // 2] ^= 0x10
    put(tmp_path, bytes(data), librilight_json([[0, 20]]))
    assert {status for status, _ in ingest_one(tmp_path)} == {"quarantined"}


def test_damage_after_the_last_speech_is_found(tmp_path: Path) -> None:
    data = flac_bytes(tone(20))
    put(tmp_path, data[:-5000], librilight_json([[0, 2]]))
    assert {status for status, _ in ingest_one(tmp_path)} == {"quarantined"}


def test_empty_file(tmp_path: Path) -> None:
    put(tmp_path, b"")
    assert ingest_one(tmp_path) == {("quarantined", "empty file")}


def test_text_named_flac(tmp_path: Path) -> None:
    put(tmp_path, b"This is a readme.\n" * 100)
    ((status, detail),) = ingest_one(tmp_path)
    assert (status, detail.split(" (")[0]) == ("quarantined", "not readable audio")


def test_flac_without_samples(tmp_path: Path) -> None:
    put(tmp_path, flac_bytes(np.zeros(0, np.float32)))
    ((status, _),) = ingest_one(tmp_path)
    assert status == "quarantined"


def test_mp3_with_a_broken_header(tmp_path: Path) -> None:
    root = tmp_path / "in"
    good = write_audio(root / "good" / "good.mp3", tone(2))
    (root / "bad.mp3").write_bytes(b"\0" * 4 + good.read_bytes()[4:])
    shard(root, tmp_path / "out", config(coverage="all"))
    ((status, detail),) = outcomes(tmp_path / "out", "bad.mp3")
    assert status == "quarantined"
    assert "audio" in detail
    assert outcomes(tmp_path / "out", "good/good.mp3") == {("shard", "")}


def test_truncated_wav(tmp_path: Path) -> None:
    root = tmp_path / "in"
    good = write_audio(root / "good.wav", tone(2))
    (root / "bad.wav").write_bytes(good.read_bytes()[:-3000])
    shard(root, tmp_path / "out", config(coverage="all"))
    ((status, detail),) = outcomes(tmp_path / "out", "bad.wav")
    assert status == "quarantined"
    assert detail == "audio ends early (its header promises 32,000 blocks, 30,500 are there)"


def test_wav_with_samples_that_are_not_numbers(tmp_path: Path) -> None:
    wave = tone(20)
    wave[9 * RATE] = np.nan
    write_audio(tmp_path / "in" / "bad.wav", wave, subtype="FLOAT")
    write_audio(tmp_path / "in" / "good.wav", tone(2))
    shard(tmp_path / "in", tmp_path / "out", config(coverage="all"))
    rows = [row for row in ledger_of(tmp_path / "out") if row["recording_id"] == "bad.wav"]
    bad = [(row["start_sample"], row["num_samples"]) for row in rows if row["status"] == "quarantined"]
    assert bad == [(8 * RATE, 4 * RATE)], "the one tile of five that holds it"
    assert sum(row["num_samples"] for row in rows if row["status"] == "shard") == 16 * RATE


def test_a_format_that_cannot_be_read_is_in_the_ledger(tmp_path: Path) -> None:
    write_audio(tmp_path / "in" / "good.wav", tone(2))
    (tmp_path / "in" / "phone.m4a").write_bytes(b"\0" * 100)
    shard(tmp_path / "in", tmp_path / "out", config(coverage="all"))
    ((status, detail),) = outcomes(tmp_path / "out", "phone.m4a")
    assert status == "quarantined"
    assert "convert it" in detail


def test_json_with_bare_nan(tmp_path: Path) -> None:
    info = '{"speaker": "s", "book_meta": {"id": "1"}, "snr": NaN, "voice_activity": [[0.0, 2.0]]}'
    write_librilight_file(tmp_path / "in", "bad/b/bad", tone(3), info)
    assert ingest_one(tmp_path) == {("shard", ""), ("silence", "")}
    rows = {row["recording_id"]: row for row in read_index(str(tmp_path / "out")).to_pylist()}
    assert rows["bad/b/bad"]["snr_db"] is None


@pytest.mark.parametrize(
    ("info", "reason"),
    [
        (None, "missing JSON"),
        ("{", "invalid JSON"),
        ("", "invalid JSON"),
        ("[1, 2]", "invalid JSON: not an object"),
        ("[" * 100_000, "invalid JSON"),
        ('{"speaker": "s"}', "JSON without voice_activity"),
        ('{"voice_activity": 3}', "invalid JSON: voice_activity is not a list"),
        ('{"voice_activity": [[1]]}', "invalid JSON: a voice_activity entry is not [onset, offset]"),
        ('{"voice_activity": [["a", 2]]}', "invalid JSON: a voice_activity entry is not [onset, offset]"),
        ('{"voice_activity": [[NaN, 2]]}', "invalid JSON: voice_activity interval [nan, 2.0]"),
        ('{"voice_activity": [[2, 1]]}', "invalid JSON: voice_activity interval [2.0, 1.0]"),
    ],
)
def test_missing_or_invalid_json(tmp_path: Path, info: str | None, reason: str) -> None:
    write_librilight_file(tmp_path / "in", "bad/b/bad", tone(3), info)
    assert ingest_one(tmp_path) == {("quarantined", reason)}
    (row,) = [row for row in ledger_of(tmp_path / "out") if row["recording_id"] == "bad/b/bad"]
    assert row["num_samples"] == 3 * RATE, "its seconds count"


def test_json_that_is_not_text(tmp_path: Path) -> None:
    write_librilight_file(tmp_path / "in", "bad/b/bad", tone(3), "x")
    (tmp_path / "in" / "bad/b/bad.json").write_bytes(b"\xff\xfe\x00\x80{")
    assert ingest_one(tmp_path) == {("quarantined", "invalid JSON")}


def test_json_without_its_audio_is_told(tmp_path: Path) -> None:
    write_librilight_file(tmp_path / "in", "bad/b/bad", tone(3), librilight_json([[0, 3]]))
    (tmp_path / "in" / "bad/b/bad.flac").unlink()
    assert ingest_one(tmp_path, "bad/b/bad.json") == {("quarantined", "JSON without its FLAC")}


def test_all_needs_no_json(tmp_path: Path) -> None:
    write_librilight_file(tmp_path / "in", "bad/b/bad", tone(3), None)
    assert ingest_one(tmp_path, coverage="all") == {("shard", "")}


@pytest.mark.parametrize("book", [{"id": 3}, {"id": "3"}, {"id": None}, None, "text"])
def test_book_meta_of_any_kind(tmp_path: Path, book: object) -> None:
    write_librilight_file(tmp_path / "in", "bad/b/bad", tone(3), librilight_json([[0, 3]], book_meta=book))
    assert ingest_one(tmp_path) == {("shard", "")}


def test_speaker_as_a_number(tmp_path: Path) -> None:
    write_librilight_file(tmp_path / "in", "bad/b/bad", tone(3), librilight_json([[0, 3]], speaker=19))
    ingest_one(tmp_path)
    assert {row["speaker"] for row in read_index(str(tmp_path / "out")).to_pylist()} == {"good", "19"}


def test_empty_voice_activity(tmp_path: Path) -> None:
    write_librilight_file(tmp_path / "in", "bad/b/bad", tone(3), librilight_json([]))
    assert ingest_one(tmp_path) == {("silence", "")}


@pytest.mark.parametrize(
    ("activity", "kept_s"),
    [
        ([[1, 99]], 4),  # past the end
        ([[90, 99]], 0),  # wholly past the end
        ([[0, 2], [1, 3]], 3),  # overlapping
        ([[3, 5], [0, 2]], 4),  # unsorted
        ([[0, 2], [0, 2]], 2),  # twice
        ([[-1, 2]], 2),  # before the start
        ([[1, 1], [2, 4]], 2),  # of no length
        ([[0, 5], [1, 2]], 5),  # one inside another
    ],
)
def test_offsets_of_every_kind(tmp_path: Path, activity: list, kept_s: float) -> None:
    write_librilight_file(tmp_path / "in", "bad/b/bad", tone(5), librilight_json(activity))
    ingest_one(tmp_path)
    rows = [row for row in read_index(str(tmp_path / "out")).to_pylist() if row["recording_id"] == "bad/b/bad"]
    assert sum(row["num_samples"] for row in rows) == kept_s * RATE


def test_two_files_of_one_name_in_different_books(tmp_path: Path) -> None:
    for book in ("one", "two"):
        write_librilight_file(tmp_path / "in", f"s/{book}/ch1", tone(2, seed=len(book)), librilight_json([[0, 2]]))
    assert ingest_one(tmp_path, "s/one/ch1") == {("shard", "")}
    assert outcomes(tmp_path / "out", "s/two/ch1") == {("shard", "")}


def test_one_stem_in_two_formats(tmp_path: Path) -> None:
    write_audio(tmp_path / "in" / "a.flac", tone(2))
    write_audio(tmp_path / "in" / "a.wav", tone(3))
    summary = shard(tmp_path / "in", tmp_path / "out", config(coverage="all"))
    assert summary["stored_s"] == 5


def test_names_that_would_collide_are_refused(tmp_path: Path) -> None:
    write_audio(tmp_path / "in" / "a.wav", tone(2))
    write_audio(tmp_path / "in" / "a.wav.flac", tone(3))
    with pytest.raises(InputError, match=r"two recordings of one name.*rename"):
        shard(tmp_path / "in", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_directory_named_flac(tmp_path: Path) -> None:
    write_librilight_file(tmp_path / "in", "s/book.flac/ch1", tone(2), librilight_json([[0, 2]]))
    (tmp_path / "in" / "s" / "empty.flac").mkdir()
    assert ingest_one(tmp_path, "s/book.flac/ch1") == {("shard", "")}


@pytest.mark.parametrize(
    ("name", "recording_id"),
    [
        ("s/b/two words", "s/b/two words"),
        ("s/b/line\nbreak", "s/b/line%0Abreak"),
        ("s/b/тест ünï 語", "s/b/тест ünï 語"),
        ("s/b/100%", "s/b/100%25"),
        ("s/b/~tilde", "s/b/~tilde"),
        ("s/b/.hidden", "s/b/.hidden"),
        ("s/b/with.dots.in", "s/b/with.dots.in"),
        ("s/b/not\udcff\udcfeutf8", "s/b/not%FF%FEutf8"),
    ],
)
def test_names_of_every_kind(tmp_path: Path, name: str, recording_id: str) -> None:
    root = tmp_path / "in"
    folder = root / Path(name).parent
    folder.mkdir(parents=True)
    Path(os.fsdecode(os.fsencode(str(root / name) + ".flac"))).write_bytes(flac_bytes(tone(2)))
    Path(str(root / name) + ".json").write_text(json.dumps(librilight_json([[0, 2]])))
    assert ingest_one(tmp_path, recording_id) == {("shard", "")}


def test_link_that_leads_back_is_told_and_followed_once(tmp_path: Path) -> None:
    root = with_good(tmp_path / "in")
    (root / "good" / "loop").symlink_to(root, target_is_directory=True)
    (root / "good" / "b" / "self.flac").symlink_to(root / "good" / "b" / "self.flac")
    (root / "good" / "b" / "gone.flac").symlink_to(root / "nowhere.flac")
    shard(root, tmp_path / "out")
    out = tmp_path / "out"
    assert outcomes(out, "good/loop") == {("quarantined", "link that leads back to a folder above it")}
    assert outcomes(out, "good/b/self") == {("quarantined", "cannot be read (Too many levels of symbolic links)")}
    assert outcomes(out, "good/b/gone") == {("quarantined", "cannot be read (No such file or directory)")}
    assert read_index(str(out)).num_rows == 1


def test_a_pipe_named_flac_does_not_hang(tmp_path: Path) -> None:
    root = with_good(tmp_path / "in")
    os.mkfifo(root / "good" / "b" / "pipe.flac")
    shard(root, tmp_path / "out")
    assert outcomes(tmp_path / "out", "good/b/pipe") == {("quarantined", "not a regular file")}


def test_unreadable_file_and_folder(open_tmp: Path) -> None:
    root = with_good(open_tmp / "in")
    write_librilight_file(root, "bad/b/bad", tone(2), librilight_json([[0, 2]])).chmod(0)
    write_librilight_file(root, "bad/c/json", tone(2), librilight_json([[0, 2]]))
    (root / "bad/c/json.json").chmod(0)
    write_librilight_file(root, "closed/b/x", tone(2), librilight_json([[0, 2]]))
    (root / "closed").chmod(0)
    with without_privileges():
        shard(root, open_tmp / "out")
    (root / "closed").chmod(0o755)
    out = open_tmp / "out"
    assert outcomes(out, "bad/b/bad") == {("quarantined", "cannot be read (Permission denied)")}
    assert outcomes(out, "bad/c/json") == {("quarantined", "cannot be read (Permission denied)")}
    assert outcomes(out, "closed") == {("quarantined", "folder cannot be read (Permission denied)")}
    assert outcomes(out, "good/b/good") == {("shard", "")}


@pytest.mark.parametrize("kind", ["missing", "empty", "no audio", "a file"])
def test_a_source_without_audio_is_refused(tmp_path: Path, kind: str) -> None:
    source = tmp_path / "in"
    if kind == "a file":
        source.write_text("x")
    elif kind != "missing":
        source.mkdir()
    if kind == "no audio":
        (source / "readme.txt").write_text("hello")
    with pytest.raises((InputError, NotFoundError)) as error:
        shard(source, tmp_path / "out")
    assert str(source) in str(error.value)
    assert not (tmp_path / "out").exists()


def test_output_inside_the_source_is_refused(corpus: Path) -> None:
    with pytest.raises(InputError, match="inside SOURCE"):
        shard(corpus, corpus / "out")
    assert not (corpus / "out").exists()


def test_changed_recipe_is_refused(corpus: Path, tmp_path: Path) -> None:
    shard(corpus, tmp_path / "out")
    before = tree(tmp_path / "out")
    with pytest.raises(ConflictError, match=r"min_utterance_s was 1\.0 and is now 2\.0"):
        shard(corpus, tmp_path / "out", config(min_utterance_s=2.0))
    assert tree(tmp_path / "out") == before


@pytest.mark.parametrize("change", ["audio", "json", "gone"])
def test_changed_input_is_refused(tmp_path: Path, change: str) -> None:
    root = with_good(tmp_path / "in")
    write_librilight_file(root, "s/b/a", tone(3), librilight_json([[0, 2]]))
    shard(root, tmp_path / "out")
    before = tree(tmp_path / "out")
    if change == "audio":
        write_audio(root / "s/b/a.flac", tone(3, seed=1))
    elif change == "json":
        (root / "s/b/a.json").write_text(json.dumps(librilight_json([[0, 3]])))
    else:
        (root / "s/b/a.flac").unlink()
        (root / "s/b/a.json").unlink()
    with pytest.raises(ConflictError, match=r"recording s/b/a (has changed|is gone)"):
        shard(root, tmp_path / "out")
    assert tree(tmp_path / "out") == before


def test_new_recordings_become_new_shards(tmp_path: Path) -> None:
    root = with_good(tmp_path / "in")
    shard(root, tmp_path / "out")
    before = tree(tmp_path / "out")
    write_librilight_file(root, "aa/b/new", tone(4), librilight_json([[0, 4]], speaker="good"))
    summary = shard(root, tmp_path / "out")
    after = tree(tmp_path / "out")
    assert summary["num_recordings"] == 2
    assert {name for name in after if name not in before} == {
        "plan/000001.parquet", "index/train-000001.parquet", "ledger/train-000001.parquet", "shards/train-000001.tar",
    }  # fmt: skip
    assert {name for name in before if before[name] != after[name]} == {"done.json"}


def test_a_duplicate_added_later_is_known(tmp_path: Path) -> None:
    write_audio(tmp_path / "in" / "b.flac", tone(3))
    settings = config(coverage="all", drop_duplicates=True)
    shard(tmp_path / "in", tmp_path / "out", settings)
    write_audio(tmp_path / "in" / "a.flac", tone(3))
    shard(tmp_path / "in", tmp_path / "out", settings)
    assert {row["detail"] for row in ledger_of(tmp_path / "out") if row["recording_id"] == "a"} == {"b"}


def test_a_rerun_decodes_nothing(corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shard(corpus, tmp_path / "out")
    before = tree(tmp_path / "out")
    monkeypatch.setattr(soundfile, "SoundFile", lambda *_, **__: pytest.fail("decodes again"))
    shard(corpus, tmp_path / "out")
    assert tree(tmp_path / "out") == before


def test_too_many_bad_recordings_stop_the_run(tmp_path: Path) -> None:
    for number in range(12):
        write_audio(tmp_path / "in" / f"good{number}.wav", tone(1.2, seed=number))
        (tmp_path / "in" / f"bad{number}.wav").write_bytes(b"nonsense" * 10)
    with pytest.raises(InputError, match=r"12 of 24 recordings cannot be used \(such as: not readable audio"):
        shard(tmp_path / "in", tmp_path / "out", config(coverage="all", quarantine_allowance=10))
    assert not (tmp_path / "out" / "done.json").exists()
    shard(tmp_path / "in", tmp_path / "out", config(coverage="all", max_quarantined_percent=60))


def test_when_nothing_is_left_the_run_says_so(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.flac").write_bytes(b"")
    with pytest.raises(InputError, match="no utterance is left: 'quarantined empty file'"):
        shard(tmp_path / "in", tmp_path / "out")
    assert not (tmp_path / "out" / "done.json").exists()


@pytest.mark.slow
def test_one_segment_of_69_minutes(tmp_path: Path) -> None:
    """Peak memory of a process that shards a 70-minute recording which is one segment."""
    import subprocess
    import sys

    minute = tone(60)
    path = tmp_path / "in" / "s" / "b" / "long.flac"
    path.parent.mkdir(parents=True)
    with soundfile.SoundFile(path, "w", RATE, 1, "PCM_16") as target:
        for _ in range(70):
            target.write(minute)
    path.with_suffix(".json").write_text(json.dumps(librilight_json([[0.0, 69 * 60.0]])))
    code = (
        "import sys; from tests.helpers.ingest_testing import shard; shard(sys.argv[1], sys.argv[2]);"
        "print(int(open('/proc/self/status').read().split('VmHWM:')[1].split()[0]) // 1024)"
    )
    run = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "in"), str(tmp_path / "out")],
        check=True, capture_output=True, text=True, cwd=Path(__file__).parents[2],
    )  # fmt: skip
    assert int(run.stdout) < 300
    rows = read_index(str(tmp_path / "out"))
    assert sum(rows["num_samples"].to_pylist()) == 69 * 60 * RATE
    assert max(rows["num_samples"].to_pylist()) <= 4.8 * RATE
