"""The lists that people have: one and the same speech in each, read to the same utterances."""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import json
import lzma
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from syllabary.shards import audio, outputs
from syllabary.shards.dataset import read_index
from syllabary.shards.errors import FormatError, InputError
from syllabary.shards.ingest.recordings import Recording
from syllabary.shards.ingest.sources.flat import is_ljspeech
from syllabary.shards.ingest.sources.lines import speaker_above
from syllabary.shards.ingest.sources.listing import Listing, list_source, tell_source
from syllabary.shards.ingest.sources.parquet import ParquetStream
from tests.helpers.ingest_testing import RATE, config, ledger_of, make_tar, outcomes, shard, tone, write_audio

TEXTS = {"anna/1": "hello there", "anna/2": 'a | and a "quote"', "bob/1": "日本語, with a comma", "bob/2": "last one"}
COLUMNS = ["recording_id", "speaker", "start_sample", "num_samples", "sample_rate", "sha256", "split"]


@pytest.fixture
def speech(tmp_path: Path) -> Path:
    """Four recordings of two speakers; beside them the lists are written."""
    root = tmp_path / "corpus"
    for seed, name in enumerate(TEXTS):
        write_audio(root / f"{name}.flac", tone(2 + seed / 2, seed=seed))
    return root


def duration(name: str) -> float:
    return 2 + list(TEXTS).index(name) / 2


def lines(*objects: dict[str, Any]) -> bytes:
    return "".join(json.dumps(own) + "\n" for own in objects).encode()


def nemo(root: Path) -> Path:
    path = root / "nemo.json"
    rows = [
        {"audio_filepath": f"{name}.flac", "duration": duration(name), "text": text, "speaker": name[:-2], "pred": 1}
        for name, text in TEXTS.items()
    ]
    path.write_bytes(lines(*rows))
    return path


def own_gz(root: Path) -> Path:
    path = root / "list"
    rows = [{"path": f"{name}.flac", "speaker": name[:-2], "text": text} for name, text in TEXTS.items()]
    path.write_bytes(gzip.compress(lines(*rows)))
    return path


def json_list(root: Path) -> Path:
    path = root / "list.json"
    rows = [{"path": f"{name}.flac", "text": text} for name, text in TEXTS.items()]
    path.write_text(json.dumps(rows, indent=1))
    return path


def recording_of(name: str) -> dict[str, Any]:
    return {
        "id": name, "sources": [{"type": "file", "channels": [0], "source": f"{name}.flac"}], "sampling_rate": RATE,
        "num_samples": round(duration(name) * RATE), "duration": duration(name), "channel_ids": [0],
    }  # fmt: skip


def supervision_of(name: str) -> dict[str, Any]:
    return {
        "id": f"s-{name}", "recording_id": name, "start": 0.0, "duration": duration(name), "channel": 0,
        "text": TEXTS[name], "speaker": name[:-2], "language": "English", "gender": "f", "custom": {"mos": 4},
    }  # fmt: skip


def lhotse_cuts(root: Path) -> Path:
    path = root / "cuts.jsonl.gz"
    cuts = [
        {"id": f"cut-{name}", "start": 0.0, "duration": duration(name), "channel": 0, "type": "MonoCut",
         "supervisions": [supervision_of(name)], "recording": recording_of(name)}
        for name in TEXTS
    ]  # fmt: skip
    path.write_bytes(gzip.compress(lines(*cuts)))
    return path


def lhotse_pair(root: Path) -> Path:
    (root / "x_recordings.jsonl").write_bytes(lines(*map(recording_of, TEXTS)))
    (root / "x_supervisions.jsonl.gz").write_bytes(gzip.compress(lines(*map(supervision_of, TEXTS))))
    return root / "x_recordings.jsonl"


def kaldi(root: Path) -> Path:
    tables = {
        "wav.scp": {f"r-{name}": f"{name}.flac" for name in TEXTS},
        "utt2spk": {f"r-{name}": name[:-2] for name in TEXTS},
        "text": {f"r-{name}": text for name, text in TEXTS.items()},
        "spk2gender": {"anna": "f", "bob": "m"},
        "utt2dur": {f"r-{name}": str(duration(name)) for name in TEXTS},
    }
    for name, table in tables.items():
        (root / name).write_text("".join(f"{key} {value}\n" for key, value in table.items()))
    return root


def comma_table(root: Path) -> Path:
    path = root / "meta.csv"
    with path.open("w", newline="", encoding="utf-8-sig") as handle:
        writer = csv.writer(handle)
        writer.writerow(["file_name", "transcription", "speaker_id", "note"])
        writer.writerows([f"{name}.flac", text, name[:-2], "x"] for name, text in TEXTS.items())
    return path


def tab_table(root: Path) -> Path:
    path = root / "validated.tsv"
    rows = ["client_id\tpath\tsentence\tlocale", *(f"{n[:-2]}\t{n}.flac\t{t}\tcy" for n, t in TEXTS.items())]
    path.write_bytes("\r\n".join(rows).encode())
    return path


def tar_gz(root: Path) -> Path:
    path = root.parent / "speech.tar.gz"
    with tarfile.open(path, "w:gz") as tar:
        for name in TEXTS:
            tar.add(root / f"{name}.flac", f"{name}.flac")
    return path


def gz_named_tar(root: Path) -> Path:
    return tar_gz(root).rename(root.parent / "speech.tar")


def xz(root: Path) -> Path:
    with tarfile.open(root.parent / "speech.bin", "w:xz") as tar:
        for name in TEXTS:
            tar.add(root / f"{name}.flac", f"./{name}.flac")
    return root.parent / "speech.bin"


def parquet(root: Path) -> Path:
    folder = root.parent / "hf" / "data"
    folder.mkdir(parents=True)
    rows = [
        {"audio": {"bytes": (root / f"{name}.flac").read_bytes(), "path": f"{name}.flac"}, "sentence": text,
         "speaker_id": name[:-2], "accent": "welsh"}
        for name, text in TEXTS.items()
    ]  # fmt: skip
    for number in range(2):
        pq.write_table(pa.Table.from_pylist(rows[2 * number : 2 * number + 2]), folder / f"train-{number}.parquet")
    return folder.parent


WRITERS: list[Callable[[Path], Path]] = [
    nemo, own_gz, json_list, lhotse_cuts, lhotse_pair, kaldi, comma_table, tab_table, tar_gz, gz_named_tar, xz, parquet,
]  # fmt: skip


@pytest.mark.parametrize("write", WRITERS, ids=lambda write: write.__name__)
def test_the_same_speech_gives_the_same_utterances(speech: Path, tmp_path: Path, write: Callable[[Path], Path]) -> None:
    settings = config(coverage="all", valid_percent=30, test_percent=30)
    shard(speech, tmp_path / "folder", settings)
    expected = read_index(str(tmp_path / "folder")).select(COLUMNS).sort_by("recording_id")
    assert expected.num_rows == 4
    shard(write(speech), tmp_path / "out", settings)
    found = read_index(str(tmp_path / "out")).sort_by("recording_id")
    assert found.select(COLUMNS).equals(expected)
    has_no_text = write in (tar_gz, gz_named_tar, xz)
    assert found["text"].to_pylist() == [None if has_no_text else text for text in TEXTS.values()]


def test_what_a_source_says_is_kept(speech: Path, tmp_path: Path) -> None:
    wanted = {
        nemo: ({"duration": 2.0, "pred": 1}, None, None),
        lhotse_cuts: ({"id": "cut-anna/1", "mos": 4, "recording_id": "anna/1"}, "English", "f"),
        kaldi: ({"id": "r-anna/1", "recording_id": "r-anna/1"}, None, "f"),
        tab_table: (None, "cy", None),
        comma_table: ({"note": "x"}, None, None),
        parquet: ({"accent": "welsh"}, None, None),
    }
    for write, (extra, language, gender) in wanted.items():
        shard(write(speech), tmp_path / write.__name__, config(coverage="all"))
        row = read_index(str(tmp_path / write.__name__)).sort_by("recording_id").to_pylist()[0]
        assert (json.loads(row["extra"] or "null"), row["language"], row["gender"]) == (extra, language, gender)
        for name in ("wav.scp", "utt2spk", "text", "spk2gender", "utt2dur"):
            (speech / name).unlink(missing_ok=True)


def listed(source: Path, **values: Any) -> Listing:
    settings = config(**values)
    return list_source(tell_source(str(source), settings), settings)


@pytest.mark.parametrize("num_supervisions", [1, 2])
def test_what_one_supervision_says_beside_is_kept_and_of_several_it_is_nobodys(
    speech: Path, num_supervisions: int
) -> None:
    """Fields that Lhotse does not know stand beside its own, as ``alignment`` does; two would contradict each other."""
    ones = [supervision_of("anna/1") | {"id": f"s{n}", "alignment": {"word": [n]}} for n in range(num_supervisions)]
    cut = {"id": "c", "start": 0.0, "duration": 2.0, "channel": 0, "type": "MonoCut", "supervisions": ones,
           "recording": recording_of("anna/1")}  # fmt: skip
    (own,) = listed(put(speech / "cuts.jsonl", cut)).recordings
    told = {"id": "c", "recording_id": "anna/1", "mos": 4}
    assert json.loads(own.extra or "{}") == told | ({"alignment": {"word": [0]}} if num_supervisions == 1 else {})


def parts(recordings: list[Recording]) -> list[tuple[str, float | None, float | None, str]]:
    return [(own.source, own.start_s, own.end_s, own.speaker) for own in recordings]


def put(path: Path, *objects: dict[str, Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(lines(*objects))
    return path


def test_nemo_offset_and_duration_are_a_part(tmp_path: Path) -> None:
    write_audio(tmp_path / "spk7" / "a.flac", tone(10))
    path = put(
        tmp_path / "m.json",
        {"audio_filepath": "spk7/a.flac", "offset": 1.5, "duration": 2},
        {"audio_filepath": "spk7/a.flac", "offset": "4", "duration": "3.25", "speaker": 19},
    )
    assert parts(listed(path).recordings) == [("spk7/a.flac", 1.5, 3.5, "spk7"), ("spk7/a.flac", 4, 7.25, "19")]
    summary = shard(path, tmp_path / "out", config(coverage="all"))
    assert summary["stored_s"] == 5.25


def test_a_duration_is_held_against_the_file(tmp_path: Path) -> None:
    for name in ("exact", "rounded", "more", "less"):
        write_audio(tmp_path / "s" / f"{name}.flac", tone(4))
    seconds = {"exact": 4, "rounded": 4.05, "more": 2.5, "less": 6}
    path = put(tmp_path / "m.json", *({"audio_filepath": f"s/{n}.flac", "duration": s} for n, s in seconds.items()))
    shard(path, tmp_path / "out", config(coverage="all", max_utterance_s=9))
    rows = {row["recording_id"]: row["num_samples"] / RATE for row in read_index(str(tmp_path / "out")).to_pylist()}
    assert rows == {"s/exact": 4, "s/rounded": 4, "s/more": 2.5}
    assert outcomes(tmp_path / "out", "s/less") == {
        ("quarantined", "audio ends early (its source promises 6 s, 4.000 s are there)")
    }


@pytest.mark.parametrize(
    ("path", "speaker"),
    [
        ("s3://b/spk7/a.flac", "spk7"), ("file:///data/spk7/a.flac", "spk7"), ("/data/corpus/spk7/a.flac", "spk7"),
        ("../spk7/a.flac", "spk7"), ("spk7/a.flac", "spk7"), ("deep/er/spk7/a.flac", "spk7"), ("a.flac", "unknown"),
        ("../a.flac", "unknown"), ("/a.flac", "unknown"), ("s3://b/a.flac", "unknown"), ("file:///a.flac", "unknown"),
        ("wavs/a.flac", "unknown"), ("./a.flac", "unknown"),
    ],
)  # fmt: skip
def test_the_speaker_is_the_folder_above_the_file(path: str, speaker: str) -> None:
    assert speaker_above(path) == speaker


def test_unknown_speakers_are_counted_and_one_speaker_is_told(tmp_path: Path) -> None:
    for name in ("wavs/a.flac", "wavs/b.flac", "anna/c.flac"):
        write_audio(tmp_path / name, tone(1))
    found = listed(
        put(tmp_path / "m.jsonl", *({"path": name} for name in ("wavs/a.flac", "wavs/b.flac", "anna/c.flac")))
    )
    assert found.notes == ["2 of 3 recordings name no speaker and lie in no speaker's folder: unknown"]
    found = listed(
        put(tmp_path / "m.jsonl", {"path": "wavs/a.flac", "speaker": 7}, {"path": "wavs/b.flac", "speaker": "7"})
    )
    assert [own.speaker for own in found.recordings] == ["7", "7"]
    assert found.notes == ["one speaker, 7, is everything: all goes to one split (see ingest.split_by)"]


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r", "\n\n  \n"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_line_ends_blank_lines_and_byte_order_marks(tmp_path: Path, end: str, mark: str) -> None:
    rows = [json.dumps({"path": f"{name}.flac"}) for name in "ab"]
    (tmp_path / "m.jsonl").write_bytes((mark + end.join(rows) + end).encode())
    assert [own.source for own in listed(tmp_path / "m.jsonl").recordings] == ["a.flac", "b.flac"]


@pytest.mark.parametrize(
    ("row", "is_one"),
    [
        (["LJ001-0001", "in being comparatively modern."], True),
        (["LJ001-0001", "in 1 sense", "in one sense"], True),
        (["LJ001-0001"], False),
        (["LJ001-0001", "in 1 sense", "in one sense", "x"], False),
        (["a name", "in 1 sense"], False),
        (["speaker", "text"], False),
    ],
)
def test_a_row_of_ljspeech_is_a_name_and_one_or_two_texts(row: list[str], is_one: bool) -> None:
    assert is_ljspeech(row) == is_one


def test_ljspeech_has_no_header_no_folder_and_no_suffix(tmp_path: Path) -> None:
    for name in ("LJ001-0001", "LJ001-0002"):
        write_audio(tmp_path / "wavs" / f"{name}.wav", tone(2))
    (tmp_path / "metadata.csv").write_text(
        'LJ001-0001|Printing, in the "only" sense 1|Printing, in the only sense one\n'
        "LJ001-0002|in being comparatively modern.|in being comparatively modern.\n"
    )
    shard(tmp_path / "metadata.csv", tmp_path / "out", config(coverage="all"))
    rows = read_index(str(tmp_path / "out")).sort_by("recording_id").to_pylist()
    assert [row["source"] for row in rows] == ["wavs/LJ001-0001.wav", "wavs/LJ001-0002.wav"]
    assert rows[0]["text"] == 'Printing, in the "only" sense 1'
    assert json.loads(rows[0]["extra"]) == {"normalized_text": "Printing, in the only sense one"}


def test_a_row_of_another_number_of_columns_is_named(tmp_path: Path) -> None:
    (tmp_path / "m.tsv").write_text("path\ttext\na.flac\thello\nb.flac\n")
    with pytest.raises(InputError, match=r"m.tsv line 3 has 1 columns; expected 2"):
        listed(tmp_path / "m.tsv")


def kaldi_folder(root: Path, **tables: str) -> Path:
    root.mkdir(exist_ok=True)
    for name, text in tables.items():
        (root / name.replace("_", ".")).write_text(text)
    return root


def test_kaldi_segments_are_parts_of_recordings(tmp_path: Path) -> None:
    root = kaldi_folder(
        tmp_path / "k", wav_scp="rec1 a/long.flac\nrec2 /abs/b.wav\nrec3 c.wav\n",
        segments="utt1 rec1 0.5 2.25\nutt2 rec1 3 -1\nutt3 rec2 0 1\n", utt2spk="utt1 spk1\nutt2 spk2\nutt3 spk2\n",
        text="utt1 some words\nutt2\n",
    )  # fmt: skip
    found = listed(root)
    assert parts(found.recordings) == [
        ("a/long.flac", 0.5, 2.25, "spk1"), ("a/long.flac", 3, None, "spk2"), ("/abs/b.wav", 0, 1, "spk2"),
    ]  # fmt: skip
    assert [own.text for own in found.recordings] == ["some words", None, None]
    assert found.notes == ["1 recording of wav.scp in no segment: left out"]


def test_utt2dur_of_kaldi_is_the_length_of_whole_recordings(tmp_path: Path) -> None:
    tables = {"wav_scp": "u1 a/1.flac\nu2 b.wav\n", "utt2dur": "u1 2.5\n"}
    assert [own.duration_s for own in listed(kaldi_folder(tmp_path / "k", **tables)).recordings] == [2.5, None]
    tables |= {"segments": "u1 u1 0 1\nu2 u2 1 2\n"}
    assert [own.duration_s for own in listed(kaldi_folder(tmp_path / "k", **tables)).recordings] == [None, None]


@pytest.mark.parametrize(
    ("tables", "message"),
    [
        ({"wav_scp": "u1 sph2pipe -f wav a.sph |\n"}, r"wav.scp line 1 is a command.*not run"),
        ({"wav_scp": "u1 |cat a.wav\n"}, r"wav.scp line 1 is a command"),
        ({"wav_scp": "u0 a.wav\nu1 raw.ark:1234\n"}, r"wav.scp line 2 is a place in an archive"),
        ({"wav_scp": "u1\n"}, r"wav.scp line 1 names no audio"),
        ({"wav_scp": "r a.wav\n", "segments": "u1 r 0\n"}, r"segments line 1 is no segment"),
        ({"wav_scp": "r a.wav\n", "segments": "u1 s 0 1\n"}, r"segments line 1: no such recording in wav.scp: 's'"),
        ({"wav_scp": "r a.wav\n", "segments": "u1 r 2 1\n"}, r"segments line 1: end 1 is not after start 2"),
        ({"wav_scp": "r a.wav\n", "segments": "u1 r x 1\n"}, r"segments line 1: no seconds: 'x'"),
        ({"wav_scp": "r a.wav\ns a.wav\n"}, r"lines 1 and 2 of .*wav.scp are the same recording"),
    ],
)
def test_a_kaldi_directory_that_cannot_be_read_says_where(tmp_path: Path, tables: dict[str, str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        listed(kaldi_folder(tmp_path / "k", **tables))


def cut(name: str, *supervisions: dict[str, Any], **values: Any) -> dict[str, Any]:
    return {"id": name, "type": "MonoCut", "start": 0.0, "duration": 10.0, "channel": 0,
            "supervisions": list(supervisions), "recording": {**recording_of("anna/1"), "duration": 10.0},
            **values}  # fmt: skip


def spoken(start: float, seconds: float, speaker: str, text: str) -> dict[str, Any]:
    return {"id": text, "recording_id": "r", "start": start, "duration": seconds, "speaker": speaker, "text": text}


def test_a_cut_of_one_speaker_is_one_recording_and_of_several_one_for_each(tmp_path: Path) -> None:
    one = cut("c1", spoken(0, 3, "anna", "a b"), spoken(4, 3, "anna", "c"), start=2.0, duration=8.0)
    two = cut("c2", spoken(0, 3, "anna", "x"), spoken(2.5, 3, "bob", "y"), start=1.0, duration=6.0)
    found = listed(put(tmp_path / "cuts.jsonl", one, two)).recordings
    assert [(own.start_s, own.end_s, own.speaker, own.text) for own in found] == [
        (1, 4, "anna", "x"), (2, 10, "anna", "a b c"), (3.5, 6.5, "bob", "y"),
    ]  # fmt: skip


def test_one_channel_of_several_is_that_channel_alone(tmp_path: Path) -> None:
    import numpy as np

    from syllabary.shards.audio import decode
    from syllabary.shards.dataset import read_utterance

    sides = [tone(2, seed=seed) for seed in (1, 2)]
    write_audio(tmp_path / "call.wav", np.stack(sides, 1))
    source = {**recording_of("anna/1"), "sources": [{"type": "file", "channels": [0, 1], "source": "call.wav"}]}
    cuts = [cut(f"c{n}", channel=n, duration=2.0, recording={**source, "duration": 2.0}) for n in (0, 1)]
    shard(put(tmp_path / "cuts.jsonl", *cuts), tmp_path / "out", config(coverage="all"))
    rows = read_index(str(tmp_path / "out")).sort_by("recording_id").to_pylist()
    assert [row["recording_id"] for row in rows] == ["call.wav#channel-1", "call.wav#channel-2"]
    for row, side in zip(rows, sides, strict=True):
        stored = decode(read_utterance(str(tmp_path / "out"), row))[0]
        assert np.abs(stored - side).max() < 1e-4


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"recording": None, "type": "MixedCut"}, "a MixedCut without a recording"),
        ({"recording": {**recording_of("anna/1"), "sources": [{"type": "command", "source": "rm x"}]}}, "'command'"),
        ({"recording": {**recording_of("anna/1"), "sources": []}}, "of several files, or of none"),
        ({"duration": "long"}, "duration: no seconds"),
    ],
)
def test_a_cut_without_a_file_of_its_own_is_refused_by_line(tmp_path: Path, values: dict, message: str) -> None:
    with pytest.raises(InputError, match=rf"line 1.*{message}"):
        listed(put(tmp_path / "cuts.jsonl", {**cut("c"), **values}))


def test_speech_in_no_supervision_is_told(tmp_path: Path) -> None:
    put(tmp_path / "recordings.jsonl", {**recording_of("anna/1"), "duration": 60.0})
    put(tmp_path / "supervisions.jsonl", {**supervision_of("anna/1"), "start": 1.0, "duration": 20.0})
    for name in ("recordings.jsonl", "supervisions.jsonl"):
        found = listed(tmp_path / name)
        assert parts(found.recordings) == [("anna/1.flac", 1, 21, "anna")]
        assert found.notes == ["40.0 s of the recordings are in no supervision and left out"]


@pytest.mark.parametrize("layout", ["lhotse", "kaldi", "parquet"])
def test_layout_overrules(speech: Path, layout: str) -> None:
    lhotse_cuts(speech)
    kaldi(speech)
    assert tell_source(str(speech), config()).layout == "kaldi"
    assert tell_source(str(speech), config(layout=layout)).layout == layout
    assert tell_source(str(speech), config(layout="folder")).layout == "folder"


@pytest.mark.parametrize("data", [b"\0\1\2" * 300, b"once upon a time", b"\xff\xfe\x00x", b"", b"name,age\nx,1\n"])
def test_a_file_that_is_nothing_of_this_is_refused(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "x").write_bytes(data)
    with pytest.raises(InputError, match=r"no list of audio|empty manifest"):
        listed(tmp_path / "x")


def test_gzip_that_ends_early_is_refused(tmp_path: Path) -> None:
    data = gzip.compress(lines(*({"path": f"{n:09d}.flac"} for n in range(9999))))
    (tmp_path / "m.jsonl.gz").write_bytes(data[:-2000])
    with pytest.raises(FormatError, match="gzip is damaged or ends early"):
        listed(tmp_path / "m.jsonl.gz")


def test_parquet_rows_without_bytes_and_of_one_name(speech: Path, tmp_path: Path) -> None:
    good = (speech / "anna/1.flac").read_bytes()
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    sounds = [{"bytes": good, "path": "x.flac"}, {"bytes": good, "path": "x.flac"}, {"bytes": None, "path": "y.flac"}]
    table = pa.table({"audio": pa.array([*sounds, {"bytes": b"junk", "path": None}], kind)})
    pq.write_table(table, tmp_path / "d.parquet")
    shard(tmp_path / "d.parquet", tmp_path / "out", config(coverage="all"))
    out = tmp_path / "out"
    assert outcomes(out, "x") == outcomes(out, "d.parquet/000001-x") == {("shard", "")}
    assert outcomes(out, "y") == {("quarantined", "no audio in this row: its bytes lie elsewhere")}
    ((status, _),) = outcomes(out, "d.parquet/000003")
    assert status == "quarantined"


def test_a_row_of_several_parquet_files_is_found_again_by_its_place(tmp_path: Path) -> None:
    files = {"a": [b"one", b"two, longer"], "b": [b"three"], "c": [b"4", b"five!"]}
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    for name, sounds in files.items():
        rows = pa.array([{"bytes": sound, "path": None} for sound in sounds], kind)
        pq.write_table(pa.table({"audio": rows}), tmp_path / f"{name}.parquet")
    (tmp_path / "spool").mkdir()
    stream = ParquetStream(str(tmp_path), tmp_path / "spool")
    passed = list(stream.recordings())
    again = [stream.again(one.place, one.recording.size_bytes) for one in passed]
    assert again == [sound for sounds in files.values() for sound in sounds]
    assert [one.audio.read_bytes() for one in passed if one.audio] == again


def test_a_folder_is_parquet_where_it_holds_no_audio_beside(speech: Path, tmp_path: Path) -> None:
    (tmp_path / "only").mkdir()
    for folder in (tmp_path / "only", speech):
        pq.write_table(pa.table({"text": ["x"]}), folder / "d.parquet")
    assert tell_source(str(tmp_path / "only"), config()).layout == "parquet"
    assert tell_source(str(speech), config()).layout == "auto"


def test_parquet_without_audio_and_damaged_parquet_are_refused(tmp_path: Path) -> None:
    pq.write_table(pa.table({"text": ["x"]}), tmp_path / "d.parquet")
    with pytest.raises(InputError, match=r"no column of d.parquet holds audio: 'text'"):
        shard(tmp_path / "d.parquet", tmp_path / "out")
    (tmp_path / "d.parquet").write_bytes((tmp_path / "d.parquet").read_bytes()[:-20])
    with pytest.raises(FormatError, match="damaged Parquet"):
        shard(tmp_path / "d.parquet", tmp_path / "out")


def joined(tmp_path: Path, *names: str) -> Path:
    data = b""
    for seed, name in enumerate(names):
        sound = io.BytesIO()
        import soundfile

        soundfile.write(sound, tone(2, seed=seed), RATE, format="FLAC")
        data += make_tar(tmp_path / "one.tar", {name: sound.getvalue()}).read_bytes()
    (tmp_path / "all.tar").write_bytes(data)
    return tmp_path / "all.tar"


def test_joined_tars_are_read_on(tmp_path: Path) -> None:
    summary = shard(joined(tmp_path, "a/1.flac", "b/2.flac", "c/3.flac"), tmp_path / "out", config(coverage="all"))
    assert (summary["num_recordings"], summary["stored_s"]) == (3, 6)


@pytest.mark.parametrize("suffix", ["tgz", "tar.bz2", "tar.xz"])
def test_joined_packed_tars_are_read_on(tmp_path: Path, suffix: str) -> None:
    pack = {"tgz": gzip.compress, "tar.bz2": bz2.compress, "tar.xz": lzma.compress}[suffix]
    tars = [joined(tmp_path, *names).read_bytes() for names in (["a/1.flac"], ["b/2.flac", "c/3.flac"])]
    (tmp_path / f"all.{suffix}").write_bytes(b"".join(map(pack, tars)))
    summary = shard(tmp_path / f"all.{suffix}", tmp_path / "out", config(coverage="all"))
    assert (summary["num_recordings"], summary["stored_s"]) == (3, 6)


def test_bytes_behind_a_tar_that_are_no_tar_are_refused(tmp_path: Path) -> None:
    tar = joined(tmp_path, "a/1.flac")
    tar.write_bytes(tar.read_bytes() + b"junk" * 500)
    with pytest.raises(FormatError, match="bytes behind the end of the tar that are no tar"):
        shard(tar, tmp_path / "out", config(coverage="all"))


@pytest.mark.parametrize("name", ["/abs/a.flac", "../a.flac"])
def test_a_tar_of_unsafe_names_alone_says_so(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match=r"each of the 1 recordings in the tar has an absolute name or one with '..'"):
        shard(joined(tmp_path, name), tmp_path / "out", config(coverage="all"))


def test_a_packed_tar_that_ends_early_is_refused(speech: Path, tmp_path: Path) -> None:
    path = tar_gz(speech)
    path.write_bytes(path.read_bytes()[:-5000])
    with pytest.raises(FormatError, match="ends early"):
        shard(path, tmp_path / "out", config(coverage="all"))


def test_duplicates_in_a_packed_tar_are_found(speech: Path, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "d.tgz", "w:gz") as tar:
        for name in ("one", "two"):
            tar.add(speech / "anna/1.flac", f"{name}.flac")
    shard(tmp_path / "d.tgz", tmp_path / "out", config(coverage="all", drop_duplicates=True, shard_size_mb=0.01))
    assert outcomes(tmp_path / "out", "two") == {("duplicate", "one")}


LITTER = ("._1.flac", ".DS_Store", "__MACOSX/anna/._1.flac", ".Trashes/501/old.flac", "@eaDir/1.flac/x.flac",
          ".git/a.flac", "System Volume Information/x.wav")  # fmt: skip


@pytest.mark.parametrize("kind", ["folder", "tar"])
def test_what_systems_leave_is_passed_over_and_counted(speech: Path, tmp_path: Path, kind: str) -> None:
    files = {f"{name}.flac": (speech / f"{name}.flac").read_bytes() for name in TEXTS}
    files |= {name: b"\0\5\x16\7" + bytes(80) for name in LITTER} | {"anna/notes.txt": b"x"}
    files["anna/._1.flac"] = b"\0\5\x16\7" + bytes(80)
    for name, data in files.items():
        path = tmp_path / "messy" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    source = tmp_path / "messy" if kind == "folder" else make_tar(tmp_path / "m.tar", files)
    summary = shard(source, tmp_path / "out", config(coverage="all"))
    assert (summary["num_recordings"], {row["status"] for row in summary["ledger"]}) == (4, {"shard"})
    notes = summary["source_notes"] if kind == "tar" else listed(source).notes
    assert notes[0] == f"{len(LITTER) + 1} hidden files and files of the system are passed over"
    assert "no audio" in notes[1] and "anna/notes.txt" in notes[1]


def test_what_was_restored_into_the_source_is_no_new_speech(speech: Path) -> None:
    before = listed(speech, coverage="all").recordings
    outputs.claim(str(speech / "heard"), "restored", inputs={}, config={})
    write_audio(speech / "heard/audio/anna/1.flac", tone(2))
    (speech / "anna/output.json").write_text('{"kind": "of somebody else\'s"}')
    found = listed(speech, coverage="all")
    assert found.recordings == before and len(before) == 4
    assert "outputs of syllabary below SOURCE are passed over: 1, such as heard/" in found.notes


@pytest.mark.parametrize("kind", ["folder", "tar", "list"])
@pytest.mark.parametrize("audio_format", ["flac", "wav"])
def test_what_was_decoded_from_tokens_is_no_new_speech_unless_a_list_names_it(
    tmp_path: Path, kind: str, audio_format: Literal["flac", "wav"]
) -> None:
    sound, comment = tone(2).astype(np.float32), audio.decoded_comment("a" * 64, "b" * 64)
    files = {"in/spoken.flac": audio.encode(sound, RATE, "flac", "of a person")}
    files["in/back.flac"] = audio.encode(0.5 * sound, RATE, audio_format, comment)  # whatever it is called
    for name, data in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(data)
    source = {"folder": tmp_path / "in", "tar": tmp_path / "m.tar", "list": tmp_path / "list.jsonl"}[kind]
    if kind == "tar":
        make_tar(source, {name.removeprefix("in/"): data for name, data in files.items()})
    if kind == "list":
        source.write_text("".join(f'{{"path": "{name}"}}\n' for name in files))
    shard(source, tmp_path / "out", config(coverage="all"))
    prefix = "in/" if kind == "list" else ""
    expected = ("shard", "") if kind == "list" else ("filtered", "decoded from tokens")
    assert outcomes(tmp_path / "out", f"{prefix}back") == {expected}
    assert outcomes(tmp_path / "out", f"{prefix}spoken") == {("shard", "")}
    (row,) = [row for row in ledger_of(tmp_path / "out") if row["recording_id"] == f"{prefix}back"]
    assert row["num_samples"] == len(sound), "filtered, and accounted for"


def test_an_mp3_beside_its_apple_double_is_taken(tmp_path: Path) -> None:
    write_audio(tmp_path / "in" / "a.mp3", tone(2))
    (tmp_path / "in" / "._a.mp3").write_bytes(b"\0\5\x16\7\0\2\0\0Mac OS X        " + bytes(100))
    shard(tmp_path / "in", tmp_path / "out", config(coverage="all"))
    assert outcomes(tmp_path / "out", "a.mp3") == {("shard", "")}


@pytest.mark.parametrize("kind", ["folder", "tar"])
def test_audio_without_a_suffix_or_with_a_wrong_one_is_found_by_content(tmp_path: Path, kind: str) -> None:
    data = write_audio(tmp_path / "x.flac", tone(2)).read_bytes()
    names = ("utt1", "utt2.m4a", "utt3.part", "utt4.mp3", "utt5.wav")
    for name in names:
        (tmp_path / "in").mkdir(exist_ok=True)
        (tmp_path / "in" / name).write_bytes(data)
    source = tmp_path / "in" if kind == "folder" else make_tar(tmp_path / "m.tar", dict.fromkeys(names, data))
    summary = shard(source, tmp_path / "out", config(coverage="all"))
    assert (summary["num_recordings"], summary["stored_s"]) == (5, 10)
