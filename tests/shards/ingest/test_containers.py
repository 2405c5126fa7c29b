"""What was right already and stays so: containers, codings, tars and names that people have."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import numpy as np
import pytest
import soundfile

from syllabary.shards.dataset import read_index
from tests.helpers.ingest_testing import RATE, config, flac_bytes, outcomes, shard, tone, write_audio

CODINGS = [
    ("WAV", "PCM_U8"), ("WAV", "PCM_24"), ("WAV", "PCM_32"), ("WAV", "FLOAT"), ("WAV", "DOUBLE"), ("WAV", "ALAW"),
    ("WAV", "ULAW"), ("WAV", "GSM610"), ("WAVEX", "PCM_16"), ("RF64", "PCM_16"), ("W64", "PCM_24"), ("AIFF", "PCM_16"),
    ("AIFF", "ULAW"), ("AU", "ULAW"), ("CAF", "ALAC_16"), ("NIST", "PCM_16"), ("NIST", "ULAW"), ("VOC", "PCM_16"),
    ("FLAC", "PCM_24"), ("OGG", "VORBIS"), ("OGG", "OPUS"), ("MP3", "MPEG_LAYER_III"),
]  # fmt: skip


@pytest.mark.parametrize(("fmt", "subtype"), CODINGS)
def test_every_coding_under_a_wrong_name(tmp_path: Path, fmt: str, subtype: str) -> None:
    rate = 8000 if subtype == "GSM610" else RATE
    write_audio(tmp_path / "in" / "a.wav", tone(2, rate), rate, format=fmt, subtype=subtype)
    summary = shard(tmp_path / "in", tmp_path / "out", config(coverage="all"))
    assert outcomes(tmp_path / "out", "a.wav") == {("shard", "")}
    assert summary["stored_s"] == pytest.approx(2, abs=0.02)
    assert summary["promised_s"] == summary["input_s"]


def odd_id3() -> bytes:
    """A WAV with a chunk ``id3 `` of odd size, padded, before its data."""
    buffer = io.BytesIO()
    soundfile.write(buffer, tone(2), RATE, format="WAV")
    data = buffer.getvalue()
    at = data.find(b"data")
    return data[:at] + b"id3 " + (5).to_bytes(4, "little") + b"ID3xx\0" + data[at:]


@pytest.mark.parametrize("data", [
    odd_id3(),
    b"ID3\x04\0\0\0\0\0\x0a" + bytes(10) + flac_bytes(tone(2)),
    flac_bytes(tone(2)) + b"TAG".ljust(128, b"\0"),
], ids=["odd id3 chunk", "ID3 before FLAC", "ID3v1 behind FLAC"])  # fmt: skip
def test_tags_are_passed(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.wav").write_bytes(data)
    assert shard(tmp_path / "in", tmp_path / "out", config(coverage="all"))["stored_s"] == 2


@pytest.mark.parametrize("form", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
def test_long_and_foreign_names_in_tars(tmp_path: Path, form: int) -> None:
    names = ["a" * 90 + "/" + "b" * 120 + ".flac", "語/ü.flac", "plain/a.flac"]
    with tarfile.open(tmp_path / "a.tar", "w", format=form) as tar:
        for seed, name in enumerate(names):
            data = flac_bytes(tone(1, seed=seed))
            header = tarfile.TarInfo(name)
            header.size = len(data)
            tar.addfile(header, io.BytesIO(data))
    shard(tmp_path / "a.tar", tmp_path / "out", config(coverage="all"))
    assert {row["source"] for row in read_index(str(tmp_path / "out")).to_pylist()} == set(names)


def test_a_sparse_member_is_read_with_its_holes(tmp_path: Path) -> None:
    """As GNU tar -S writes it (PAX, 1.0): a map of what is there, then that alone."""
    buffer = io.BytesIO()
    wave = tone(3)
    wave[RATE : 2 * RATE] = 0
    soundfile.write(buffer, wave, RATE, format="WAV", subtype="PCM_16")
    data = buffer.getvalue()
    first, last = 33_280, 63_488  # whole blocks of 512 within the second of silence
    assert not any(data[first:last])
    stored = f"2\n0\n{first}\n{last}\n{len(data) - last}\n".encode().ljust(512, b"\0") + data[:first] + data[last:]
    header = tarfile.TarInfo("GNUSparseFile.0/a.wav")
    header.size = len(stored)
    header.pax_headers = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.name": "anna/a.wav",
                          "GNU.sparse.realsize": str(len(data))}  # fmt: skip
    with tarfile.open(tmp_path / "a.tar", "w", format=tarfile.PAX_FORMAT) as tar:
        tar.addfile(header, io.BytesIO(stored))
    (tmp_path / "in" / "anna").mkdir(parents=True)
    (tmp_path / "in" / "anna" / "a.wav").write_bytes(data)
    found = []
    for source, out in (("a.tar", "of-tar"), ("in", "of-folder")):
        shard(tmp_path / source, tmp_path / out, config(coverage="all"))
        found.append([(row["source"], row["sha256"]) for row in read_index(str(tmp_path / out)).to_pylist()])
    assert found[0] == found[1]
    assert [source for source, _ in found[0]] == ["anna/a.wav"]


ODD = ["tab\there", "hash#1", "what?", "quo\"te's", "{brace}", "back\\slash", "\u200frtl", "\U0001f3a4", "x" * 245]


@pytest.mark.parametrize("name", ODD)
def test_odd_names_are_stored_under_ids_that_lead_back(tmp_path: Path, name: str) -> None:
    from syllabary.shards.ingest.recordings import unescape

    if len(name.encode()) > 250:
        pytest.skip("longer than a file system takes")
    write_audio(tmp_path / "in" / "anna" / f"{name}.flac", tone(1))
    shard(tmp_path / "in", tmp_path / "out", config(coverage="all"))
    (row,) = read_index(str(tmp_path / "out")).to_pylist()
    assert unescape(row["source"]) == f"anna/{name}.flac"
    assert row["recording_id"].isprintable()


def test_a_path_of_four_hundred_bytes(tmp_path: Path) -> None:
    folder = tmp_path / "in" / ("d" * 130) / ("e" * 130) / ("f" * 130)
    write_audio(folder / "a.flac", tone(1))
    assert shard(tmp_path / "in", tmp_path / "out", config(coverage="all"))["stored_s"] == 1


def test_silence_is_told(tmp_path: Path) -> None:
    write_audio(tmp_path / "in" / "a.wav", np.zeros(2 * RATE, np.float32))
    write_audio(tmp_path / "in" / "b.wav", tone(2))
    shard(tmp_path / "in", tmp_path / "out")
    assert outcomes(tmp_path / "out", "a.wav") == {("filtered", "constant")}
