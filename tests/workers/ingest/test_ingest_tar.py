"""A tar as a source: one pass, any order, nothing unpacked."""

from __future__ import annotations

import hashlib
import json
import random
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from syllabary.shards.dataset import committed_shards, read_index
from syllabary.shards.errors import DamageError, FormatError, InputError
from syllabary.shards.ingest.sources.tar import TarStream
from tests.helpers.ingest_testing import (
    config,
    flac_bytes,
    librilight_json,
    make_tar,
    outcomes,
    shard,
    shard_stream,
    tone,
    tree,
)


def members(num: int = 8) -> dict[str, bytes]:
    files = {}
    for number in range(num):
        name = f"small/{100 + number}/book_flac/ch{number}"
        files[f"{name}.flac"] = flac_bytes(tone(3 + number % 3, seed=number))
        files[f"{name}.json"] = json.dumps(librilight_json([[0.2, 2.8]], speaker=str(100 + number))).encode()
    return files


def orders() -> dict[str, Callable[[list], list]]:
    return {
        "audio first": lambda items: items,
        "json first": lambda items: sorted(items, key=lambda item: not item[0].endswith(".json")),
        "all json last": lambda items: sorted(items, key=lambda item: item[0].endswith(".json")),
        "shuffled": lambda items: random.Random(1).sample(items, len(items)),
    }


@pytest.mark.parametrize("order", orders())
def test_any_order_gives_the_same_utterances_as_the_folder(tmp_path: Path, order: str) -> None:
    files = members()
    tar = make_tar(tmp_path / "a.tar", orders()[order](list(files.items())))
    for name, data in files.items():
        path = tmp_path / "in" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    shard_stream(tar, tmp_path / "tar-out")
    shard(tmp_path / "in", tmp_path / "out")
    columns = ["utterance_id", "speaker", "split", "num_samples", "sha256"]
    found = [read_index(str(tmp_path / out)).select(columns).sort_by("utterance_id") for out in ("tar-out", "out")]
    assert found[0].equals(found[1])
    assert found[0].num_rows == 8


def test_md5_is_computed_on_the_way_and_checked(tmp_path: Path) -> None:
    tar = make_tar(tmp_path / "a.tar", members(2))
    md5 = hashlib.md5(tar.read_bytes()).hexdigest()
    spool = tmp_path / "spool"
    spool.mkdir()
    stream = TarStream(str(tar), config(tar_md5=md5), spool)
    assert len(list(stream.recordings())) == 2
    assert (stream.md5, stream.size_bytes) == (md5, tar.stat().st_size)
    with pytest.raises(DamageError, match=md5):
        list(TarStream(str(tar), config(tar_md5="0" * 32), spool).recordings())


def test_the_tar_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from syllabary.shards import store

    tar = make_tar(tmp_path / "a.tar", members(4))
    opened = []
    real = store.open_read
    monkeypatch.setattr(store, "open_read", lambda uri, **options: opened.append(uri) or real(uri, **options))
    head = store.read_range

    def range_of(uri: str, offset: int, length: int) -> bytes:
        return head(uri, offset, length) if not offset else pytest.fail("reads a part again")

    monkeypatch.setattr(store, "read_range", range_of)
    shard_stream(tar, tmp_path / "out")
    assert opened == [str(tar)]


def test_killed_and_run_again_gives_the_same_bytes(tmp_path: Path) -> None:
    tar = make_tar(tmp_path / "a.tar", members())
    settings = config(shard_size_mb=0.1)
    shard_stream(tar, tmp_path / "whole", settings)
    assert len(committed_shards(str(tmp_path / "whole"))) >= 4
    shard_stream(tar, tmp_path / "killed", settings, keep=2)
    assert len(committed_shards(str(tmp_path / "killed"))) == 2
    shard_stream(tar, tmp_path / "killed", settings)
    assert tree(tmp_path / "whole") == tree(tmp_path / "killed")


@pytest.mark.parametrize("where", ["in a member", "in a header", "between members", "before the end mark"])
def test_a_tar_cut_off_is_refused_and_can_be_continued(tmp_path: Path, where: str) -> None:
    tar = make_tar(tmp_path / "a.tar", members())
    with tarfile.open(tar) as opened:
        infos = opened.getmembers()
    last = infos[-1]
    cut = {
        "in a member": infos[-2].offset_data + 1000,
        "in a header": last.offset + 100,
        "between members": last.offset,
        "before the end mark": last.offset_data + -(-last.size // 512) * 512,
    }[where]
    settings = config(shard_size_mb=0.1)
    part = tmp_path / "part.tar"
    part.write_bytes(tar.read_bytes()[:cut])
    with pytest.raises(FormatError, match="ends early"):
        shard_stream(part, tmp_path / "out", settings)
    assert committed_shards(str(tmp_path / "out"))
    shard_stream(tar, tmp_path / "out", settings)
    shard_stream(tar, tmp_path / "whole", settings)
    assert tree(tmp_path / "out") == tree(tmp_path / "whole")


def test_damaged_header_in_the_middle_is_not_the_end(tmp_path: Path) -> None:
    tar = make_tar(tmp_path / "a.tar", members(4))
    with tarfile.open(tar) as opened:
        offset = opened.getmembers()[4].offset
    data = bytearray(tar.read_bytes())
    data[offset + 150] ^= 0xFF
    tar.write_bytes(data)
    with pytest.raises(FormatError, match="damaged or ends early"):
        shard_stream(tar, tmp_path / "out")


@pytest.mark.parametrize("data", [b"", b"x" * 300, b"this is no tar " * 100])
def test_not_a_tar_is_refused(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "a.tar"
    path.write_bytes(data)
    with pytest.raises((FormatError, InputError)):
        shard_stream(path, tmp_path / "out")


def test_a_tar_without_audio_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no audio"):
        shard_stream(make_tar(tmp_path / "a.tar", {"readme.txt": b"hello"}), tmp_path / "out")


def test_unsafe_members_are_accounted_and_never_written(tmp_path: Path) -> None:
    tar = tmp_path / "a.tar"
    flac = flac_bytes(tone(2))
    make_tar(tar, [("../evil.flac", flac), ("/abs.flac", flac), *members(1).items()])
    with tarfile.open(tar, "a") as opened:
        for name, kind in (
            ("soft.flac", tarfile.SYMTYPE),
            ("hard.flac", tarfile.LNKTYPE),
            ("pipe.flac", tarfile.FIFOTYPE),
        ):
            link = tarfile.TarInfo(name)
            link.type, link.linkname = kind, "/etc/passwd"
            opened.addfile(link)
    summary = shard_stream(tar, tmp_path / "out")
    assert summary["num_recordings"] == 6
    assert outcomes(tmp_path / "out", "../evil") == {("quarantined", "unsafe name in the tar")}
    assert outcomes(tmp_path / "out", "/abs") == {("quarantined", "unsafe name in the tar")}
    for name in ("soft", "hard", "pipe"):
        assert outcomes(tmp_path / "out", name) == {("quarantined", "not a regular file in the tar")}
    assert not (tmp_path / "evil.flac").exists()


def test_missing_halves_twins_and_bad_json_are_quarantined(tmp_path: Path) -> None:
    good = members(1)
    name = next(iter(good))
    flac = flac_bytes(tone(2, seed=5))
    tar = make_tar(
        tmp_path / "a.tar",
        [*good.items(), (name, flac), ("s/b/alone.flac", flac), ("s/b/orphan.json", b"{}"),
         ("s/b/bad.flac", flac), ("s/b/bad.json", b"{nonsense")],
    )  # fmt: skip
    shard_stream(tar, tmp_path / "out")
    out = tmp_path / "out"
    assert outcomes(out, name.removesuffix(".flac")) == {("shard", ""), ("silence", "")}
    assert outcomes(out, name.removesuffix(".flac") + "#2") == {("quarantined", "second member of this name")}
    assert outcomes(out, "s/b/alone") == {("quarantined", "missing JSON")}
    assert outcomes(out, "s/b/orphan.json") == {("quarantined", "JSON without its FLAC")}
    assert outcomes(out, "s/b/bad") == {("quarantined", "invalid JSON")}


def test_damaged_flac_in_a_tar_is_quarantined(tmp_path: Path) -> None:
    files = members(3)
    name = next(iter(files))
    files[name] = files[name][: len(files[name]) // 2]
    shard_stream(make_tar(tmp_path / "a.tar", files), tmp_path / "out")
    assert {status for status, _ in outcomes(tmp_path / "out", name.removesuffix(".flac"))} == {"quarantined"}


def test_duplicates_are_found_after_the_first_left_the_spool(tmp_path: Path) -> None:
    files = members(6)
    first, second = "small/100/book_flac/ch0", "small/900/copy/z"
    files[f"{second}.flac"], files[f"{second}.json"] = files[f"{first}.flac"], files[f"{first}.json"]
    settings = config(shard_size_mb=0.05, drop_duplicates=True)
    shard_stream(make_tar(tmp_path / "a.tar", files), tmp_path / "out", settings)
    assert outcomes(tmp_path / "out", second) == {("duplicate", first)}
    assert outcomes(tmp_path / "out", first) == {("shard", ""), ("silence", "")}


def test_a_tar_of_any_audio(tmp_path: Path) -> None:
    import io

    import soundfile

    wav = io.BytesIO()
    soundfile.write(wav, tone(3), 16_000, format="WAV")
    tar = make_tar(tmp_path / "a.tar", {"anna/a.wav": wav.getvalue(), "bob/b.flac": flac_bytes(tone(3, seed=1))})
    shard_stream(tar, tmp_path / "out", config(layout="folder"))
    assert {row["speaker"] for row in read_index(str(tmp_path / "out")).to_pylist()} == {"anna", "bob"}
