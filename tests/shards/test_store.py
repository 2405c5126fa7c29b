"""The storage seam: whole files or none, on a local folder and on a real S3 server."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from syllabary.shards import outputs, store
from syllabary.shards.errors import (
    ConflictError,
    DamageError,
    FormatError,
    InputError,
    NotFoundError,
    StorageError,
    VersionError,
)


@pytest.fixture(params=["local", "s3"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "local":
        return str(tmp_path / "out")
    return request.getfixturevalue("s3").bucket() + "/out"


def test_published_bytes_are_read_back_whole_and_by_range(root: str) -> None:
    uri = store.join(root, "a/b.bin")
    store.publish_bytes(uri, bytes(range(100)))
    assert store.read_bytes(uri) == bytes(range(100))
    assert store.read_range(uri, 10, 5) == bytes(range(10, 15))
    assert store.size_bytes(uri) == 100
    with store.open_read(uri) as handle:
        handle.seek(90)
        assert handle.read() == bytes(range(90, 100))


def test_a_listing_is_sorted_and_hides_what_is_being_written(root: str) -> None:
    for name in ("z.txt", "a/x.txt", "a/y.bin"):
        store.publish_bytes(store.join(root, name), b"1")
    if not store.is_remote(root):
        (Path(root) / f"{store.TEMPORARY_PREFIX}1-x").write_bytes(b"half")
    assert [e.name for e in store.list_files(root)] == ["a/x.txt", "a/y.bin", "z.txt"]
    assert [e.name for e in store.list_files(root, suffix=".bin")] == ["a/y.bin"]
    assert store.list_files(store.join(root, "nothing")) == []


def test_a_failed_writer_leaves_nothing_and_keeps_the_old_file(root: str) -> None:
    uri = store.join(root, "file")
    store.publish_bytes(uri, b"old")
    with pytest.raises(RuntimeError, match="killed"), store.publishing(uri) as temporary:
        temporary.write_bytes(b"half")
        raise RuntimeError("killed")
    assert store.read_bytes(uri) == b"old"
    assert [e.name for e in store.list_files(root)] == ["file"]


def test_what_is_local_is_read_where_it_is_and_the_rest_is_fetched_by_its_own_or_another_name(
    root: str, tmp_path: Path
) -> None:
    uri, folder = store.join(root, "a/b.bin"), tmp_path / "here"
    folder.mkdir()
    store.publish_bytes(uri, b"bytes")
    found = [store.fetch_to(uri, folder), store.fetch_to(uri, folder, "audio")]
    wanted = [folder / "b.bin", folder / "audio"] if store.is_remote(root) else [Path(root, "a/b.bin")] * 2
    assert found == wanted and [path.read_bytes() for path in found] == [b"bytes"] * 2


def test_an_entry_is_of_a_file_and_not_of_the_folder_it_lies_in(root: str) -> None:
    store.publish_bytes(store.join(root, "a/b.bin"), b"bytes")
    entry = store.file_entry(store.join(root, "a/b.bin"))
    assert (entry.name, entry.uri, entry.size_bytes) == ("b.bin", store.join(root, "a/b.bin"), 5)
    for name in ("a", "c"):
        with pytest.raises(NotFoundError):
            store.file_entry(store.join(root, name))


def test_delete_removes_a_tree_and_nothing_is_no_error(root: str) -> None:
    store.publish_bytes(store.join(root, "t/a"), b"1")
    store.delete(store.join(root, "t"))
    store.delete(store.join(root, "t"))
    assert not store.exists(store.join(root, "t/a"))


def test_a_missing_file_is_a_not_found_error_naming_it(root: str) -> None:
    with pytest.raises(NotFoundError, match=r"nothing there: .*absent"):
        store.read_bytes(store.join(root, "absent"))


def test_orphans_of_dead_writers_are_swept_and_of_living_ones_kept(tmp_path: Path) -> None:
    dead = tmp_path / f"{store.TEMPORARY_PREFIX}4194305-aa"  # above the largest pid of Linux
    mine = tmp_path / f"{store.TEMPORARY_PREFIX}{os.getpid()}-bb"
    for path in (dead, mine):
        path.write_bytes(b"half")
    assert store.sweep_temporary(str(tmp_path)) == 1
    assert mine.exists() and not dead.exists()


@pytest.mark.parametrize("part", ["../x", "/etc/passwd", "a/../../b", "a\0b"])
def test_names_that_leave_the_folder_are_refused(part: str) -> None:
    with pytest.raises(InputError, match="unsafe path"):
        store.join("/tmp/x", part)


@pytest.mark.parametrize("uri", ["", "ftp://x/y", "s3://"])
def test_unusable_uris_are_refused(uri: str) -> None:
    with pytest.raises(InputError):
        store.normalize(uri)


def test_a_reader_goes_to_a_place_from_the_start_the_position_or_the_end(root: str) -> None:
    """As often as asked: a shard is read by the places of its samples."""
    store.publish_bytes(store.join(root, "x"), bytes(range(200)))
    with store.open_read(store.join(root, "x"), block_size=64) as file:
        for place, expected in (((50,), 50), ((20,), 20), ((-10, os.SEEK_CUR), 11), ((-180, os.SEEK_END), 20)):
            file.seek(*place)
            assert file.read(1) == bytes([expected])
        assert file.tell() == 21


def test_wrong_keys_name_the_variables_to_check(s3, monkeypatch: pytest.MonkeyPatch) -> None:
    bucket = s3.bucket()
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    store.filesystem(bucket)[0].clear_instance_cache()
    with pytest.raises(StorageError, match="AWS_SECRET_ACCESS_KEY"):
        store.publish_bytes(bucket + "/x", b"1")


def test_a_claim_is_taken_once_recognized_again_and_refused_to_others(root: str) -> None:
    outputs.claim(root, "shards", inputs={"source": "a"}, config={"x": 1, "y": [1, 2]})
    outputs.claim(root, "shards", inputs={"source": "a"}, config={"x": 1, "y": [1, 2]})
    with pytest.raises(ConflictError, match=r"config\.x was 1 and is now 2"):
        outputs.claim(root, "shards", inputs={"source": "a"}, config={"x": 2, "y": [1, 2]})
    with pytest.raises(ConflictError, match=r"inputs\.source"):
        outputs.claim(root, "shards", inputs={"source": "b"}, config={"x": 1, "y": [1, 2]})
    with pytest.raises(FormatError, match="wrong kind"):
        outputs.read_claim(root, "archive")


def test_an_unknown_format_version_is_refused_naming_both(root: str) -> None:
    store.publish_bytes(store.join(root, outputs.CLAIM), b'{"format_version": 99, "kind": "shards"}')
    with pytest.raises(VersionError, match=r"99; expected 1"):
        outputs.read_claim(root)


def test_done_is_absent_until_marked(root: str) -> None:
    assert outputs.read_done(root) is None
    outputs.mark_done(root, {"seconds": 1.5})
    assert outputs.read_done(root) == {"seconds": 1.5}


def test_a_damaged_claim_is_named(root: str) -> None:
    store.publish_bytes(store.join(root, outputs.CLAIM), b"{")
    with pytest.raises(FormatError, match="not JSON"):
        outputs.read_claim(root)
    store.publish_bytes(store.join(root, outputs.CLAIM), b'{"format_version": 1, "kind": "archive"}')
    with pytest.raises(DamageError, match="a claim without its inputs and configuration"):
        outputs.read_claim(root, "archive")


def test_what_is_no_output_is_told_by_its_own_name(root: str) -> None:
    with pytest.raises(NotFoundError, match=r"nothing there: .*/absent'; expected a folder with output.json"):
        outputs.read_claim(store.join(root, "absent"))
    store.publish_bytes(store.join(root, "a.wav"), b"x")
    for uri in (root, store.join(root, "a.wav")):
        with pytest.raises(NotFoundError, match=r"no output of syllabary: .*; expected a folder with output.json"):
            outputs.read_claim(uri)


def test_a_file_where_a_folder_should_be_is_told(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("x")
    for name in ("a/b", "a/b/c"):
        with pytest.raises(StorageError, match=r"cannot write, a file is where a folder should be: .*; give another"):
            store.publish_bytes(str(tmp_path / name), b"x")


def test_a_name_that_begins_as_a_home_folder_is_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert store.normalize("~no-such-user.wav") == str(tmp_path / "~no-such-user.wav")
    assert store.normalize("~/x") == str(Path.home() / "x")


@pytest.mark.parametrize("how", ["publish_bytes", "publishing"])
def test_a_file_is_on_the_disk_before_it_has_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """After a power loss a name must not stand for bytes that never arrived: all of them are synced, then renamed."""
    target, synced = tmp_path / "file", []
    sync = os.fsync

    def noting(handle: int) -> None:
        synced.append((os.fstat(handle).st_ino, os.fstat(handle).st_size, target.exists()))
        sync(handle)

    monkeypatch.setattr(os, "fsync", noting)
    if how == "publish_bytes":
        store.publish_bytes(str(target), b"whole")
    else:
        with store.publishing(str(target)) as temporary:
            temporary.write_bytes(b"whole")
    assert synced == [(target.stat().st_ino, 5, False)]
