"""Object stores that misbehave: a small server that gets wrong, on purpose, what real ones get wrong."""

from __future__ import annotations

import subprocess
import sys
import threading
import urllib.parse
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape as xml

import pytest
import s3fs

from syllabary.shards import object_store, store
from syllabary.shards.errors import StorageError
from tests.helpers.http_server import Answering, QuietServer
from tests.helpers.ingest_testing import config, flac_bytes, outcomes, shard, tone


@dataclass
class Server:
    """What the server holds, and how it goes wrong."""

    objects: dict[str, bytes] = field(default_factory=dict)
    page: int = 1000
    keyless_pages: bool = False  # IsTruncated without a token
    ends_early: int = 0  # keys after which IsTruncated is false
    same_page: bool = False  # the token is ignored
    unsent: int = 0  # keys of a page that are counted and not sent
    good_key: str = ""  # only this access key is accepted; others have expired
    after: int = 0  # requests that are answered before keys expire
    lost_answers: int = 0  # PUTs that are stored and answered with 500
    refuses_second: bool = False  # a PUT of what is there is answered with 412
    status: int = 412
    requests: list[tuple[str, str, dict[str, str]]] = field(default_factory=list)

    def listing(self, query: dict[str, str]) -> bytes:
        keys = sorted(key for key in self.objects if key.startswith(query.get("prefix", "")))
        first = 0 if self.same_page else int(query.get("continuation-token", "0"))
        size = self.ends_early or self.page
        own = keys[first : first + size]
        truncated = not self.ends_early and (first + size < len(keys) or self.same_page)
        token = f"<NextContinuationToken>{first + size}</NextContinuationToken>" if truncated else ""
        if self.keyless_pages:
            token = ""
        rows = "".join(
            f"<Contents><Key>{xml(urllib.parse.quote(key))}</Key><LastModified>2020-01-01T00:00:00.000Z</LastModified>"
            f"<ETag>e</ETag><Size>{len(self.objects[key])}</Size></Contents>"
            for key in own
        )
        return (
            f'<?xml version="1.0"?><ListBucketResult><Name>b</Name><KeyCount>{len(own) + self.unsent}</KeyCount>'
            "<MaxKeys>1000</MaxKeys>"
            f"<EncodingType>url</EncodingType><IsTruncated>{str(truncated).lower()}</IsTruncated>{token}{rows}"
            "</ListBucketResult>"
        ).encode()


class Handler(Answering):
    server_state: Server
    headers_of_all = (("ETag", '"e"'), ("Last-Modified", "Wed, 01 Jan 2020 00:00:00 GMT"))
    protocol_version = "HTTP/1.1"

    def _start(self) -> tuple[str, dict[str, str]] | None:
        parsed = urllib.parse.urlsplit(self.path)
        state = self.server_state
        state.requests.append((self.command, parsed.path, dict(self.headers)))
        key = self.headers.get("Authorization", "").partition("Credential=")[2].partition("/")[0]
        if state.good_key and key != state.good_key and len(state.requests) > state.after:
            self.answer(403, b"<Error><Code>ExpiredToken</Code><Message>expired</Message></Error>")
            return None
        name = urllib.parse.unquote(parsed.path).removeprefix("/b").removeprefix("/")
        return name, {k: v[0] for k, v in urllib.parse.parse_qs(parsed.query).items()}

    def do_GET(self) -> None:  # noqa: N802
        if (found := self._start()) is None:
            return
        name, query = found
        if "list-type" in query:
            return self.answer(200, self.server_state.listing(query))
        data = self.server_state.objects.get(name)
        if data is None:
            return self.answer(404, b"<Error><Code>NoSuchKey</Code></Error>")
        span = self.headers.get("Range", "").removeprefix("bytes=")
        if span:
            first, _, last = span.partition("-")
            return self.answer(206, data[int(first) : int(last or len(data)) + 1])
        self.answer(200, data)

    do_HEAD = do_GET  # noqa: N815

    def do_PUT(self) -> None:  # noqa: N802
        body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
        if (found := self._start()) is None:
            return
        state, (name, _) = self.server_state, found
        if "chunked" in self.headers.get("Content-Encoding", ""):
            body = body.split(b"\r\n", 1)[1].split(b"\r\n0;", 1)[0].split(b"\r\n0\r\n", 1)[0]
        if state.refuses_second and name in state.objects:
            code = {412: b"PreconditionFailed", 409: b"ConditionalRequestConflict"}[state.status]
            return self.answer(state.status, b"<Error><Code>" + code + b"</Code></Error>")
        state.objects[name] = body
        if state.lost_answers:
            state.lost_answers -= 1
            return self.answer(500, b"<Error><Code>InternalError</Code></Error>")
        self.answer(200, b"")


@contextmanager
def serving(state: Server) -> Iterator[Server]:
    server = QuietServer(("127.0.0.1", 0), type("OwnHandler", (Handler,), {"server_state": state}))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    s3fs.S3FileSystem.clear_instance_cache()
    with pytest.MonkeyPatch.context() as patch:
        for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN"):
            patch.delenv(name, raising=False)
        patch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.server_port}")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        patch.setenv("AWS_ACCESS_KEY_ID", "old")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "s")
        patch.setenv("AWS_REQUEST_CHECKSUM_CALCULATION", "when_required")
        patch.setattr(store, "_S3_CONFIG", {"connect_timeout": 2, "read_timeout": 5, "retries": {"max_attempts": 2}})
        patch.setattr(object_store, "_RENEWALS_S", (0.0, 0.0))
        try:
            yield state
        finally:
            s3fs.S3FileSystem.clear_instance_cache()
            server.shutdown()
            server.server_close()


KEYS = ["two words", "a+b", "100%", "50%25", "no#1", "what?", "semi;colon", "é", "quo'te\"", "a&b=c", "double//slash"]


def test_keys_of_every_kind_are_found_under_the_name_that_the_listing_gave(tmp_path: Path) -> None:
    objects = {f"in/anna/{name}.flac": flac_bytes(tone(1, seed=seed)) for seed, name in enumerate(KEYS)}
    with serving(Server(objects)):
        assert [entry.name for entry in store.list_files("s3://b/in")] == sorted(key[3:] for key in objects)
        summary = shard("s3://b/in", tmp_path / "out", config(coverage="all"))
    assert (summary["num_recordings"], summary["stored_s"]) == (len(KEYS), len(KEYS))
    assert {row["status"] for row in summary["ledger"]} == {"shard"}


def test_a_listing_of_many_pages_is_read_to_its_end() -> None:
    with serving(Server({f"in/{n:05d}.flac": b"x" for n in range(2500)}, page=1000)) as state:
        assert len(store.list_files("s3://b/in")) == 2500
        assert len(state.requests) == 3
        assert not [path for command, path, _ in state.requests if "flac" in path], "no body is fetched"


LISTING = """
import sys
import s3fs
from syllabary.shards.ingest.config import IngestConfig
from syllabary.shards.ingest.sources.listing import list_source, tell_source

def peak_mb():
    return int(open("/proc/self/status").read().split("VmHWM:")[1].split()[0]) // 1024

before, config = peak_mb(), IngestConfig()
recordings = list_source(tell_source("s3://b/in", config), config).recordings
print(len(recordings), len({own.speaker for own in recordings}), peak_mb() - before)
"""


@pytest.mark.long
def test_a_bucket_of_a_hundred_thousand_keys_is_listed_without_a_body() -> None:
    """A terabyte, as the listing says; the memory of a fresh process grows by what its recordings take."""
    body = bytes(10_000_000)
    keys = [f"in/s{number // 100:04}/{number:06}.flac" for number in range(100_000)]
    with serving(Server(dict.fromkeys(keys, body))) as state:
        run = subprocess.run([sys.executable, "-c", LISTING], check=True, capture_output=True, text=True)
        assert {(command, path) for command, path, _ in state.requests} == {("GET", "/b")}
        assert len(state.requests) <= 102
    num_recordings, num_speakers, grown_mb = map(int, run.stdout.split())
    assert (num_recordings, num_speakers) == (100_000, 1000)
    assert grown_mb < 350


FAULTS = {
    "cut off without a mark": {"keyless_pages": True, "page": 1000},
    "1,001 keys on its last page": {"ends_early": 1001},
    "the same page again": {"same_page": True, "page": 1000},
    "1,003 keys promised and 1,000 sent": {"unsent": 3, "page": 1000},
}


@pytest.mark.parametrize("fault", FAULTS)
def test_an_incomplete_listing_is_refused(fault: str) -> None:
    state = Server({f"in/{n:05d}.flac": b"x" for n in range(1500)}, **FAULTS[fault])
    with serving(state), pytest.raises(StorageError, match=rf"incomplete listing.*{fault}"):
        store.list_files("s3://b/in")


def test_an_incomplete_listing_is_never_a_recording_that_is_gone(tmp_path: Path) -> None:
    objects = {f"in/s{n}/a.flac": flac_bytes(tone(1, seed=n)) for n in range(3)}
    with serving(Server(objects)) as state:
        shard("s3://b/in", tmp_path / "out", config(coverage="all"))
        state.page, state.keyless_pages = 2, True
        with pytest.raises(StorageError, match="incomplete listing"):
            shard("s3://b/in", tmp_path / "out", config(coverage="all"))


def keys_in_a_file(patch: pytest.MonkeyPatch, folder: Path) -> Callable[[str], None]:
    """Keys come from a credentials file, as a sidecar writes them; returns what writes it."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        patch.delenv(name)
    path = folder / "credentials"
    patch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(path))

    def write(key: str) -> None:
        path.write_text(f"[default]\naws_access_key_id = {key}\naws_secret_access_key = s\n")

    write("old")
    return write


ACTIONS: dict[str, Callable[[], Any]] = {
    "list": lambda: len(store.list_files("s3://b/in")),
    "read": lambda: len(store.read_bytes("s3://b/in/a.flac")),
    "range": lambda: len(store.read_range("s3://b/in/a.flac", 0, 100)),
    "entry": lambda: store.file_entry("s3://b/in/a.flac").size_bytes,
    "exists": lambda: store.exists("s3://b/in/a.flac"),
    "write": lambda: store.publish_bytes("s3://b/out/x", b"y"),
}


@pytest.mark.parametrize("action", ACTIONS)
def test_keys_that_expire_are_read_again_from_where_they_came(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, action: str
) -> None:
    with serving(Server({"in/a.flac": bytes(5000)})) as state:
        write = keys_in_a_file(monkeypatch, tmp_path)
        expected = ACTIONS[action]()
        state.good_key, state.after = "new", len(state.requests)
        write("new")
        assert ACTIONS[action]() == expected


def test_a_stream_goes_on_where_its_keys_expired(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = bytes(range(256)) * 4000
    with serving(Server({"in/a.tar": data})) as state:
        write = keys_in_a_file(monkeypatch, tmp_path)
        with store.open_read("s3://b/in/a.tar", block_size=100_000) as handle:
            found = handle.read(250_000)
            state.good_key, state.after = "new", len(state.requests)
            write("new")
            while chunk := handle.read(250_000):
                found += chunk
        assert found == data


def test_keys_in_the_environment_that_expire_say_that_nothing_renews_them() -> None:
    told = r"have expired; set new ones in AWS_ACCESS_KEY_ID.*or unset these"
    with serving(Server({"in/a.flac": b"x"}, good_key="new")), pytest.raises(StorageError, match=told):
        store.read_bytes("s3://b/in/a.flac")


def test_keys_that_are_refused_for_good_are_not_called_expired() -> None:
    class Closed(Handler):
        def _start(self) -> None:
            self.answer(403, b"<Error><Code>AccessDenied</Code></Error>")

    with serving(Server()) as state:
        del state
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Handler, "_start", Closed._start)
            with pytest.raises(StorageError, match="access denied"):
                store.read_bytes("s3://b/in/a.flac")


def test_writes_need_no_conditions_of_the_server() -> None:
    """Names are deterministic and two writers write the same bytes: If-None-Match, which servers answer with 501, 409
    or nothing, is never sent."""
    with serving(Server()) as state:
        store.publish_bytes("s3://b/out/x", b"one")
        store.publish_bytes("s3://b/out/x", b"two")
        assert state.objects["out/x"] == b"two"
        sent = {name.lower() for _, _, headers in state.requests for name in headers}
    assert not {"if-none-match", "if-match"} & sent


@pytest.mark.parametrize("status", [412, 409])
def test_a_refused_retry_of_ones_own_put_is_a_success(status: int) -> None:
    with serving(Server(lost_answers=1, refuses_second=True, status=status)) as state:
        store.publish_bytes("s3://b/out/x", b"bytes")
        assert state.objects["out/x"] == b"bytes"
        assert [command for command, _, _ in state.requests].count("PUT") >= 2
        with pytest.raises(StorageError):
            store.publish_bytes("s3://b/out/x", b"others")


def test_what_systems_leave_in_a_bucket_is_passed_over(tmp_path: Path) -> None:
    good = flac_bytes(tone(1))
    objects = {"in/anna/a.flac": good, "in/anna/._a.flac": b"x", "in/.Trashes/b.flac": good, "in/__MACOSX/c.flac": b"y"}
    with serving(Server(objects)):
        summary = shard("s3://b/in", tmp_path / "out", config(coverage="all"))
    assert summary["num_recordings"] == 1
    assert outcomes(tmp_path / "out", "anna/a") == {("shard", "")}
