"""The demo speech by the real apt-get and dpkg-deb, from a package archive that a server on loopback keeps."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile

from syllabary.shards import store
from syllabary.shards.errors import InputError, StorageError
from syllabary.workers.control.jobs import FetchDemoJob
from syllabary.workers.ingest import demo_speech
from syllabary.workers.ingest.demo_speech import RATE, VOICES, fetch_demo_speech
from tests.helpers.http_server import QuietServer

pytestmark = pytest.mark.skipif(
    any(shutil.which(tool) is None for tool in ("apt-get", "dpkg-deb")), reason="no Debian-family machine"
)
SECONDS = 0.5


class Mirror(QuietServer):
    """Serves a folder; sends only half of the files in ``cut``, and counts what it is asked for."""

    def __init__(self, folder: Path) -> None:
        self.cut: set[str] = set()
        self.asked: list[str] = []
        self.folder = folder
        super().__init__(("127.0.0.1", 0), _Files)


class _Files(SimpleHTTPRequestHandler):
    server: Mirror

    def do_GET(self) -> None:
        path = self.server.folder / self.path.lstrip("/").removeprefix("./")
        self.server.asked.append(path.name)
        if not path.is_file():
            self.send_error(404)
            return
        data = path.read_bytes()
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data[: len(data) // 2] if path.name in self.server.cut else data)
        self.close_connection = True

    def log_message(self, *_: object) -> None:
        """Nothing."""


def g722(path: Path, pitch_hz: float) -> None:
    """Half a second of a tone, as the packages have their prompts."""
    path.parent.mkdir(parents=True, exist_ok=True)
    wave = (8000 * np.sin(2 * np.pi * pitch_hz * np.arange(int(SECONDS * RATE)) / RATE)).astype(np.int16)
    with av.open(str(path), "w", format="g722") as container:
        stream = container.add_stream("g722", rate=RATE, layout="mono")
        for block in wave.reshape(-1, 800):
            frame = av.AudioFrame.from_ndarray(block[None], format="s16", layout="mono")
            frame.sample_rate = RATE
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def make_package(language: str, voice: str, folder: Path, out: Path) -> None:
    """A package of two prompts, a silence that is left out, and in Russian a prompt of no bytes, as the real one."""
    sounds = folder / "usr/share/asterisk/sounds" / voice
    g722(sounds / "hello.g722", 300)
    g722(sounds / "digits" / "1.g722", 500)
    g722(sounds / "silence" / "1.g722", 100)
    if language == "ru":
        (sounds / "nothing.g722").touch()
    (folder / "DEBIAN").mkdir()
    (folder / "DEBIAN/control").write_text(
        f"Package: asterisk-core-sounds-{language}-g722\nVersion: 1.0\nArchitecture: all\n"
        "Maintainer: Nobody <nobody@example.org>\nDescription: prompts\n"
    )
    command = ["dpkg-deb", "--root-owner-group", "-Znone", "-b", str(folder), str(out)]
    subprocess.run(command, check=True, capture_output=True)


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An archive of the five packages with its index, in which every package has its SHA-256."""
    root, entries = tmp_path_factory.mktemp("packages"), []
    for language, (voice, _, _) in VOICES.items():
        deb = root / f"asterisk-core-sounds-{language}-g722_1.0_all.deb"
        make_package(language, voice, tmp_path_factory.mktemp(language), deb)
        control = subprocess.run(["dpkg-deb", "-f", str(deb)], check=True, capture_output=True, text=True).stdout
        data = deb.read_bytes()
        entries.append(
            f"{control}Filename: ./{deb.name}\nSize: {len(data)}\nSHA256: {hashlib.sha256(data).hexdigest()}\n"
        )
    (root / "Packages").write_text("\n".join(entries))
    return root


@pytest.fixture
def mirror(packages: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Mirror]:
    """The archive on loopback, a copy for this test; apt-get knows of nothing else, and has no lists yet."""
    server = Mirror(shutil.copytree(packages, tmp_path / "mirror"))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    apt = tmp_path / "apt"
    for name in ("etc", "state/lists/partial", "cache/archives/partial"):
        (apt / name).mkdir(parents=True)
    (apt / "etc/sources.list").write_text(f"deb [trusted=yes] http://127.0.0.1:{server.server_port}/ ./\n")
    (apt / "status").touch()
    (apt / "apt.conf").write_text(
        f'Dir::Etc "{apt}/etc"; Dir::Etc::main "none"; Dir::Etc::parts "none"; Dir::Etc::sourceparts "none";\n'
        f'Dir::State "{apt}/state"; Dir::State::status "{apt}/status"; Dir::Cache "{apt}/cache";\n'
        'Acquire::http::Proxy "DIRECT"; Acquire::Retries "0"; APT::Sandbox::User ""; Acquire::Languages "none";\n'
    )
    monkeypatch.setenv("APT_CONFIG", str(apt / "apt.conf"))
    monkeypatch.setenv("TMPDIR", str(tmp_path / "temporary"))
    monkeypatch.setattr("tempfile.tempdir", None)  # it is remembered from before
    (tmp_path / "temporary").mkdir()
    for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


SPOKEN = {f"{speaker}/{language}/{name}.flac" for _, speaker, language in VOICES.values()
          for name in ("hello", "digits/1")}  # fmt: skip


def left_over(tmp_path: Path) -> list[Path]:
    return list((tmp_path / "temporary").iterdir())


def fetch_nothing(tmp_path: Path, match: str) -> None:
    """A fetch that fails in one line; it must leave neither an output nor anything temporary."""
    with pytest.raises(StorageError, match=match) as caught:
        fetch_demo_speech(FetchDemoJob(out=str(tmp_path / "out")))
    assert not (tmp_path / "out").exists() and left_over(tmp_path) == []
    line = str(caught.value)
    assert "\n" not in line and line.endswith("use your own speech: make run SOURCE=<folder or URI>")


def test_prompts_become_flac_by_speaker_and_language(mirror: Mirror, tmp_path: Path) -> None:
    summary = fetch_demo_speech(FetchDemoJob(out=str(tmp_path / "out")))
    assert summary == {"recordings": 10, "seconds": 10 * SECONDS, "speakers": 4}
    found = files_of(tmp_path / "out")
    assert {name for name in found if name.endswith(".flac")} == SPOKEN
    assert b"CC BY-SA 3.0" in found["LICENCE.md"]
    assert json.loads(found["done.json"])["recordings"] == 10
    samples, rate = soundfile.read(tmp_path / "out/carlo/italian/digits/1.flac")
    assert rate == RATE and len(samples) == SECONDS * RATE
    spectrum = np.abs(np.fft.rfft(samples[800:7200]))  # bins of 2.5 Hz
    assert np.argmax(spectrum) == 200, "the tone of 500 Hz that was packed"
    assert left_over(tmp_path) == []


def test_what_is_there_is_fetched_no_second_time_and_stays(mirror: Mirror, tmp_path: Path) -> None:
    job = FetchDemoJob(out=str(tmp_path / "out"))
    (tmp_path / "out").mkdir()
    (tmp_path / "out/notes.txt").write_text("mine")
    first = fetch_demo_speech(job)
    asked, before = list(mirror.asked), files_of(tmp_path / "out")
    assert fetch_demo_speech(job) == first
    assert mirror.asked == asked and files_of(tmp_path / "out") == before
    assert before["notes.txt"] == b"mine"


def test_a_package_of_another_checksum_is_refused(mirror: Mirror, tmp_path: Path) -> None:
    deb = mirror.folder / "asterisk-core-sounds-it-g722_1.0_all.deb"
    data = bytearray(deb.read_bytes())
    data[len(data) // 2] ^= 1
    deb.write_bytes(bytes(data))
    fetch_nothing(tmp_path, r"\(E: Failed to fetch .*asterisk-core-sounds-it-g722_1\.0_all\.deb +Hash Sum mismatch\)")


def test_a_download_that_breaks_off_half_way_leaves_nothing_and_the_next_one_is_whole(
    mirror: Mirror, tmp_path: Path
) -> None:
    mirror.cut.add("asterisk-core-sounds-ru-g722_1.0_all.deb")
    fetch_nothing(tmp_path, "apt-get could not download the demo speech")
    assert mirror.asked.count("asterisk-core-sounds-ru-g722_1.0_all.deb") == 1
    mirror.cut.clear()
    assert fetch_demo_speech(FetchDemoJob(out=str(tmp_path / "out")))["recordings"] == 10


def test_without_a_network_it_is_one_line(mirror: Mirror, tmp_path: Path) -> None:
    mirror.shutdown()
    mirror.server_close()
    fetch_nothing(tmp_path, r"apt-get could not download the demo speech \(E: ")


def test_the_command_fails_in_one_line(mirror: Mirror, tmp_path: Path) -> None:
    mirror.cut.add("Packages")
    command = [sys.executable, "-m", "syllabary.workers", "fetch-demo", json.dumps({"out": str(tmp_path / "out")})]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1 and "apt-get could not download the demo speech" in errors[0]
    assert not (tmp_path / "out").exists()


def test_a_package_that_cannot_be_unpacked_is_one_line(mirror: Mirror, tmp_path: Path) -> None:
    """The checksum fits and the package is none: a mirror that is wrong about itself, or a full temporary disk."""
    deb = mirror.folder / "asterisk-core-sounds-fr-g722_1.0_all.deb"
    deb.write_bytes(b"!<arch>\n" + bytes(100))
    index = (mirror.folder / "Packages").read_text().split("\n\n")
    sums = f"Size: 108\nSHA256: {hashlib.sha256(deb.read_bytes()).hexdigest()}"
    index = [e if deb.name not in e else e.partition("Size:")[0] + sums for e in index]
    (mirror.folder / "Packages").write_text("\n\n".join(index) + "\n")
    fetch_nothing(tmp_path, "dpkg-deb could not unpack asterisk-core-sounds-fr-g722_1.0_all.deb")


@pytest.mark.parametrize("written", [0, 1, 7])
def test_a_full_disk_leaves_whole_files_and_the_next_run_finishes_them(
    mirror: Mirror, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, written: int
) -> None:
    job, publish, count = FetchDemoJob(out=str(tmp_path / "out")), store.publish_bytes, iter(range(99))

    def full(uri: str, data: bytes) -> None:
        if next(count) == written:
            raise StorageError("no space left", value=uri)
        publish(uri, data)

    monkeypatch.setattr(store, "publish_bytes", full)
    with pytest.raises(StorageError, match="no space left"):
        fetch_demo_speech(job)
    half = files_of(tmp_path / "out")
    assert len(half) == written and "done.json" not in half
    monkeypatch.setattr(store, "publish_bytes", publish)
    assert fetch_demo_speech(job)["recordings"] == 10
    whole = files_of(tmp_path / "out")
    assert half.items() <= whole.items() and set(whole) == {*SPOKEN, "LICENCE.md", "done.json"}


def test_elsewhere_than_in_a_local_folder_or_without_apt_it_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(InputError, match="needs a local folder: 's3://bucket/demo'"):
        fetch_demo_speech(FetchDemoJob(out="s3://bucket/demo"))
    monkeypatch.setattr(demo_speech.shutil, "which", lambda tool: None)
    with pytest.raises(InputError, match=r"this machine has no: 'apt-get'.*make run SOURCE="):
        fetch_demo_speech(FetchDemoJob(out=str(tmp_path / "out")))
    assert not (tmp_path / "out").exists()
