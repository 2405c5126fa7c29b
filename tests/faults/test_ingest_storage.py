"""Storage that fails: killed at any publish, full, read-only, or an S3 that answers 403, 404, 500 or nothing."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import s3fs

from syllabary.shards import store
from syllabary.shards.dataset import ShardWriter, read_index, read_utterance
from syllabary.shards.errors import NotFoundError, StorageError, UnavailableError
from tests.helpers.http_server import Answering, QuietServer
from tests.helpers.ingest_testing import (
    config,
    librilight_json,
    outcomes,
    shard,
    tone,
    tree,
    without_privileges,
    write_librilight_file,
)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    for number in range(4):
        write_librilight_file(tmp_path / "in", f"s{number}/b/a", tone(4, seed=number), librilight_json([[0, 3]]))
    return tmp_path / "in"


class Killed(BaseException):
    """What a SIGKILL is to code under test: nothing catches it."""


def kill_at(patch: pytest.MonkeyPatch, number: int, when: str) -> list[str]:
    """Make the ``number``th publish raise before or after its file appears; returns the list of publishes so far."""
    real, seen = store.publishing, list[str]()

    @contextmanager
    def publishing(uri: str) -> Iterator[Path]:
        seen.append(uri)
        last = len(seen) == number
        if last and when == "before":
            with pytest.raises(Killed), real(uri) as path:
                path.write_bytes(b"half written")
                raise Killed
            raise Killed
        with real(uri) as path:
            yield path
        if last:
            raise Killed

    patch.setattr(store, "publishing", publishing)
    return seen


@pytest.mark.parametrize("when", ["before", "after"])
def test_killed_at_any_publish_and_run_again_gives_the_same_bytes(source: Path, tmp_path: Path, when: str) -> None:
    settings = config(shard_size_mb=0.1)
    with pytest.MonkeyPatch.context() as patch:
        num_publishes = len((kill_at(patch, -1, when), shard(source, tmp_path / "whole", settings))[0])
    whole = tree(tmp_path / "whole")
    assert num_publishes >= 9
    for number in range(1, num_publishes + 1):
        out = tmp_path / f"killed-{number}"
        with pytest.MonkeyPatch.context() as patch, pytest.raises(Killed):
            kill_at(patch, number, when)
            shard(source, out, settings)
        shard(source, out, settings)
        assert tree(out) == whole


def test_leftovers_of_a_killed_writer_are_swept(source: Path, tmp_path: Path) -> None:
    leftover = tmp_path / "out" / "shards" / f"{store.TEMPORARY_PREFIX}99999999-abc"
    leftover.parent.mkdir(parents=True)
    leftover.write_bytes(b"half a shard")
    shard(source, tmp_path / "out")
    assert not leftover.exists()


def test_full_disk_is_one_line_and_leaves_no_half_shard(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("syllabary.shards.ingest.cutting.ShardWriter", lambda _: ShardWriter(Path("/dev/full")))
    with pytest.raises(StorageError, match="no space left"):
        shard(source, tmp_path / "out")
    assert not list((tmp_path / "out").rglob("*.tar"))
    assert not (tmp_path / "out" / "index").exists()
    monkeypatch.undo()
    shard(source, tmp_path / "out")


def test_read_only_output_is_one_line(source: Path, open_tmp: Path) -> None:
    shutil.copytree(source, open_tmp / "in")
    (open_tmp / "closed").mkdir(mode=0o555)
    with without_privileges(), pytest.raises(StorageError, match="access denied"):
        shard(open_tmp / "in", open_tmp / "closed" / "out")
    assert not list((open_tmp / "closed").iterdir())


def test_output_below_a_file_is_one_line(source: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(StorageError):
        shard(source, tmp_path / "file" / "out")


def upload(s3: Any, folder: Path) -> str:
    uri: str = s3.bucket()
    for path in folder.rglob("*"):
        if path.is_file():
            store.publish_bytes(store.join(uri, "in", str(path.relative_to(folder))), path.read_bytes())
    return uri


def test_from_s3_to_s3_gives_the_same_shards(s3: Any, source: Path, tmp_path: Path) -> None:
    bucket = upload(s3, source)
    summary = shard(f"{bucket}/in", f"{bucket}/out")
    assert shard(source, tmp_path / "out")["index_sha256"] == summary["index_sha256"]
    for row in read_index(f"{bucket}/out").to_pylist():
        assert read_utterance(f"{bucket}/out", row) == read_utterance(str(tmp_path / "out"), row)
    assert shard(f"{bucket}/in", f"{bucket}/out") == summary


def test_an_object_that_changed_on_s3_is_refused(s3: Any, source: Path) -> None:
    from syllabary.shards.errors import ConflictError

    bucket = upload(s3, source)
    shard(f"{bucket}/in", f"{bucket}/out")
    data = (source / "s1/b/a.flac").read_bytes()
    store.publish_bytes(f"{bucket}/in/s0/b/a.flac", data)
    with pytest.raises(ConflictError, match="s0/b/a has changed"):
        shard(f"{bucket}/in", f"{bucket}/out")


def test_a_tar_on_s3_is_streamed(s3: Any, source: Path, tmp_path: Path) -> None:
    from syllabary.shards.ingest.sources.tar import TarStream
    from tests.helpers.ingest_testing import make_tar

    files = {str(path.relative_to(source)): path.read_bytes() for path in sorted(source.rglob("*")) if path.is_file()}
    tar = make_tar(tmp_path / "a.tar", files)
    bucket = s3.bucket()
    store.publish_bytes(f"{bucket}/a.tar", tar.read_bytes())
    spool = tmp_path / "spool"
    spool.mkdir()
    names = [item.recording.recording_id for item in TarStream(f"{bucket}/a.tar", config(), spool).recordings()]
    assert sorted(names) == [f"s{number}/b/a" for number in range(4)]


LISTING = (
    '<?xml version="1.0"?><ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><Name>b</Name>'
    "<Prefix>in</Prefix><KeyCount>1</KeyCount><MaxKeys>1000</MaxKeys><IsTruncated>false</IsTruncated>"
    "<Contents><Key>in/a/bad.flac</Key><LastModified>2020-01-01T00:00:00.000Z</LastModified><ETag>e</ETag>"
    "<Size>999</Size><StorageClass>STANDARD</StorageClass></Contents></ListBucketResult>"
)


class BadServer(Answering):
    """An S3 whose listing may work and whose objects answer with ``status``; 0 hangs."""

    status, lists = 500, False

    def do_GET(self) -> None:  # noqa: N802
        if self.lists and "list-type" in self.path:
            return self.answer(200, LISTING.encode())
        if self.status == 0:
            time.sleep(1)
        self.answer(self.status or 500, b"")

    do_HEAD = do_PUT = do_GET  # noqa: N815


@contextmanager
def bad_s3(status: int, *, lists: bool) -> Iterator[None]:
    handler = type("Handler", (BadServer,), {"status": status, "lists": lists})
    server = QuietServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with pytest.MonkeyPatch.context() as patch:
        for key, value in {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{server.server_port}", "AWS_ACCESS_KEY_ID": "k",
            "AWS_SECRET_ACCESS_KEY": "s", "AWS_DEFAULT_REGION": "us-east-1",
        }.items():  # fmt: skip
            patch.setenv(key, value)
        quick = {"connect_timeout": 1, "read_timeout": 0.3, "retries": {"max_attempts": 1}}
        patch.setattr(store, "_S3_CONFIG", quick)
        patch.setattr(s3fs.S3FileSystem, "retries", 1)
        s3fs.S3FileSystem.clear_instance_cache()
        try:
            yield
        finally:
            s3fs.S3FileSystem.clear_instance_cache()
            server.shutdown()
            server.server_close()


@pytest.mark.parametrize("status", [403, 404, 500, 0])
def test_an_s3_that_cannot_be_listed_is_refused(tmp_path: Path, status: int) -> None:
    with bad_s3(status, lists=False), pytest.raises((StorageError, NotFoundError)) as error:
        shard("s3://b/in", tmp_path / "out")
    assert "\n" not in str(error.value)
    assert "s3://b/in" in str(error.value)
    assert isinstance(error.value, UnavailableError) == (status in (500, 0)), "only what may pass is tried again"
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("status", "reason"), [(403, "Permission denied"), (404, "not found")])
def test_an_object_that_is_closed_or_gone_is_quarantined(tmp_path: Path, status: int, reason: str) -> None:
    from syllabary.shards.errors import InputError

    with bad_s3(status, lists=True), pytest.raises(InputError, match="no utterance is left"):
        shard("s3://b/in", tmp_path / "out")
    assert outcomes(tmp_path / "out", "a/bad") == {("quarantined", f"cannot be read ({reason})")}


@pytest.mark.parametrize("status", [500, 0])
def test_a_store_that_fails_stops_the_run_and_quarantines_nothing(tmp_path: Path, status: int) -> None:
    with bad_s3(status, lists=True), pytest.raises(StorageError, match=r"cannot fetch.*s3://b/in/a/bad\.flac"):
        shard("s3://b/in", tmp_path / "out")
    assert not (tmp_path / "out" / "index").exists()
    assert not (tmp_path / "out" / "ledger").exists()
