"""The page's answers over HTTP: what it gives, and whom and what it refuses, in one line each."""

from __future__ import annotations

import dataclasses
import io
import re
import shutil
import socket
import wave
from pathlib import Path

import numpy as np
import pytest
import soundfile
from PIL import Image
from starlette.testclient import TestClient

from syllabary.shards.archive.parts import part_name
from syllabary.shards.errors import InputError, NotFoundError
from syllabary.workers.control.jobs import ListenJob
from syllabary.workers.listen import trying
from syllabary.workers.listen.catalogue import Catalogue
from syllabary.workers.listen.page import Shown
from syllabary.workers.listen.serve import listening, prepare
from tests.workers.listen.conftest import HERE, client_of

HOSTILE = "<script>document.title='owned'</script>"


def first_row(client: TestClient) -> dict[str, object]:
    return client.get("/api/utterances", params={"limit": 1}).json()["rows"][0]


def said(text: str) -> str:
    assert text.count("\n") <= 1 and text.strip()
    return text.strip()


@pytest.mark.parametrize("address", ["192.168.1.7", "8.8.8.8", "::ffff:10.0.0.1", "testclient", ""])
def test_who_is_not_this_machine_gets_one_line(shown: Shown, address: str) -> None:
    answer = client_of(shown, address).get("/")
    assert answer.status_code == 403 and "is not this machine" in said(answer.text)


@pytest.mark.parametrize("address", ["127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1"])
def test_this_machine_is_answered_by_each_of_its_addresses(shown: Shown, address: str) -> None:
    assert client_of(shown, address).get("/api/archive").status_code == 200


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8642", "127.0.0.1.evil.example", "10.0.0.1", "[", ""])
def test_a_name_that_was_made_to_point_here_is_refused(client: TestClient, host: str) -> None:
    answer = client.get("/api/archive", headers={"host": host})
    assert answer.status_code == 403 and "called by the name" in said(answer.text)


@pytest.mark.parametrize("host", ["localhost:8642", "127.0.0.1:9000", "[::1]:8642", "LOCALHOST"])
def test_this_machines_own_names_are_answered_also_through_a_forwarded_port(client: TestClient, host: str) -> None:
    assert client.get("/api/archive", headers={"host": host}).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "https://evil.example"},
        {"origin": "null"},
        {"origin": "http://127.0.0.1:1"},
        {"origin": "https://127.0.0.1:8642"},
        {"sec-fetch-site": "cross-site", "sec-fetch-mode": "no-cors"},
        {"sec-fetch-site": "same-site", "sec-fetch-mode": "cors"},
    ],
)
def test_another_page_is_refused_reading_and_sending(client: TestClient, headers: dict[str, str]) -> None:
    for method, path in (("GET", "/api/archive"), ("GET", "/sound"), ("POST", "/api/try")):
        answer = client.request(method, path, headers=headers)
        assert answer.status_code == 403 and "another page" in said(answer.text)


def test_a_link_from_elsewhere_may_open_the_page_and_nothing_is_sent_without_an_origin(client: TestClient) -> None:
    link = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate"}
    assert client.get("/", headers=link).status_code == 200
    answer = client.post("/api/try", content=b"x")
    assert answer.status_code == 403 and "no Origin" in said(answer.text)


def test_every_answer_carries_the_policy(client: TestClient) -> None:
    answers = [client.get(path) for path in ("/", "/assets/listen.js", "/nowhere", "/api/clip")]
    answers.append(client.get("/", headers={"host": "evil.example"}))
    for answer in answers:
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy and "unsafe" not in policy and "http" not in policy
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["cross-origin-resource-policy"] == "same-origin"


@pytest.mark.parametrize(
    "path",
    [
        "/assets/../page.py", "/assets/..%2f..%2fpage.py", "/assets/%2e%2e/guard.py", "/assets//etc/passwd",
        "/assets/listen.html", "/assets/nowhere.js", "/etc/passwd", "/parts/train-000000.parquet",
    ],
)  # fmt: skip
def test_nothing_but_the_named_files_is_served(client: TestClient, path: str) -> None:
    assert client.get(path).status_code == 404


@pytest.mark.parametrize("value", ["../../../etc/passwd", "/etc/passwd", "file:///etc/passwd", "\x00", "' or 1=1 --"])
def test_no_word_of_a_request_becomes_a_path(client: TestClient, value: str) -> None:
    for path in ("/api/clip", "/api/frame", "/sound", "/picture", "/saved"):
        for name in ("id", "recording", "try"):
            answer = client.get(path, params={name: value, "at": "0"})
            assert answer.status_code == 404 and said(answer.json()["error"]), (path, name)
    row = first_row(client)
    answer = client.get("/sound", params={"id": str(row["id"]), "take": value})
    assert answer.status_code == 404 and "nothing to hear" in answer.json()["error"]


def test_wrong_numbers_and_conditions_are_refused_in_one_line(client: TestClient) -> None:
    row = first_row(client)
    for path, params in (
        ("/api/utterances", {"offset": "-1"}), ("/api/utterances", {"limit": "many"}),
        ("/api/utterances", {"where": "speaker ="}), ("/api/utterances", {"words": "x" * 3_000}),
        ("/api/groups", {"by": "shard"}), ("/api/clip", {}),
        ("/api/clip", {"recording": row["recording"], "start": "nan"}),
        ("/api/clip", {"recording": row["recording"], "start": "inf"}),
        ("/api/clip", {"recording": row["recording"], "start": "5", "end": "2"}),
        ("/api/frame", {"id": row["id"]}), ("/picture", {"id": row["id"], "from": "0.5", "to": "0.5"}),
    ):  # fmt: skip
        answer = client.get(path, params=params)
        assert answer.status_code == 400 and said(answer.json()["error"]), (path, params)
    assert len(client.get("/api/utterances", params={"limit": "9999"}).json()["rows"]) == 12


def test_the_archive_tells_its_figures(client: TestClient, base: Path) -> None:
    told = client.get("/api/archive").json()
    assert (told["num_utterances"], told["num_recordings"], told["num_speakers"]) == (12, 6, 3)
    assert told["payload_bits_per_s"] == 640 and told["takes"] == ["original", "restored"]
    assert told["size_bytes"] == sum(path.stat().st_size for path in (base / "archive" / "parts").iterdir())
    rows = client.get("/api/utterances").json()["rows"]
    assert told["duration_s"] == pytest.approx(sum(row["duration_s"] for row in rows))
    second = client.get("/api/utterances", params={"offset": 5, "limit": 3}).json()
    assert second["rows"] == rows[5:8] and second["total"] == 12
    own = client.get("/api/groups", params={"by": "recordings", "speaker": rows[0]["speaker"]}).json()
    assert own["total"] == 2 and own["rows"][0]["count"] == 2


def test_a_sound_is_a_wav_of_its_exact_length_and_any_range_of_it_is_given(client: TestClient) -> None:
    row = first_row(client)
    for take in ("restored", "original"):
        whole = client.get("/sound", params={"id": row["id"], "take": take})
        assert whole.status_code == 200 and whole.headers["content-type"] == "audio/wav"
        with wave.open(io.BytesIO(whole.content)) as file:
            assert file.getnframes() / file.getframerate() == row["duration_s"]
        for asked, part in (
            ("bytes=0-", slice(0, None)), ("bytes=100-199", slice(100, 200)), ("bytes=-7", slice(-7, None)),
            ("bytes=45-99999999", slice(45, None)),
        ):  # fmt: skip
            answer = client.get("/sound", params={"id": row["id"], "take": take}, headers={"range": asked})
            assert answer.status_code == 206 and answer.content == whole.content[part]
            assert re.fullmatch(rf"bytes \d+-\d+/{len(whole.content)}", answer.headers["content-range"])
    beyond = client.get("/sound", params={"id": row["id"]}, headers={"range": "bytes=99999999-"})
    assert beyond.status_code == 416
    assert client.head("/sound", params={"id": row["id"]}).headers["content-length"] == str(len(whole.content))


def test_a_recording_and_any_range_of_it_are_heard_as_its_utterances_are(client: TestClient) -> None:
    rows = client.get("/api/utterances").json()["rows"]
    own = [row for row in rows if row["recording"] == rows[0]["recording"]]
    assert len(own) == 2

    def sound(**params: object) -> np.ndarray:
        data = client.get("/sound", params=params).content  # type: ignore[arg-type]
        return np.frombuffer(data[44:], "<i2")

    whole = sound(recording=rows[0]["recording"])
    ends = [round((row["start_s"] + row["duration_s"]) * 16_000) for row in own]
    assert len(whole) == ends[-1]
    for row, end in zip(own, ends, strict=True):
        start = round(row["start_s"] * 16_000)
        assert np.array_equal(whole[start:end], sound(id=row["id"])) and np.any(whole[start:end])
    assert not np.any(whole[ends[0] : round(own[1]["start_s"] * 16_000)])
    assert np.array_equal(sound(recording=rows[0]["recording"], start=0.25, end=0.75), whole[4_000:12_000])


def test_a_clip_tells_salience_bytes_and_the_tokens_of_a_moment(client: TestClient, shown: Shown) -> None:
    row = first_row(client)
    told = client.get("/api/clip", params={"id": row["id"]}).json()
    (stored,) = shown.catalogue.tokens([shown.catalogue.newest().utterance(str(row["id"]))])
    assert told["utterances"][0]["salience"] == stored["salience"] and told["frame_s"] == 0.4
    assert told["sizes"]["payload"] == 32 * stored["num_frames"] == row["bytes"]
    frame = client.get("/api/frame", params={"id": row["id"], "at": 0.3}).json()["frame"]
    assert frame["number"] == 0 and frame["tokens"] == stored["tokens"][:19] and len(frame["digits"]) == 128
    assert client.get("/api/frame", params={"id": row["id"], "at": 99}).json() == {"frame": None}


def test_pictures_and_files_to_keep_are_what_they_say(client: TestClient) -> None:
    row = first_row(client)
    picture = client.get("/picture", params={"id": row["id"], "take": "original"})
    assert Image.open(io.BytesIO(picture.content)).size == (480, 88)
    saved = client.get("/saved", params={"id": row["id"], "take": "original"})
    heard = client.get("/sound", params={"id": row["id"], "take": "original"})
    samples, rate = soundfile.read(io.BytesIO(saved.content), dtype="int16")
    assert rate == 16_000 and samples.tobytes() == heard.content[44:]
    assert re.fullmatch(
        r"attachment; filename\*=UTF-8''[\w.@%-]+\.original\.flac", saved.headers["content-disposition"]
    )


def wav(num_samples: int, rate: int = 16_000) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, 0.3 * np.sin(np.arange(num_samples) / 20), rate, format="WAV")
    return buffer.getvalue()


def test_what_somebody_says_is_heard_again_from_its_tokens(client: TestClient) -> None:
    own = {"origin": HERE}
    sent = client.post("/api/try", params={"name": HOSTILE}, content=wav(24_000, 48_000), headers=own)
    key = sent.json()["try"]
    told = client.get("/api/clip", params={"try": key}).json()
    assert told["title"] == HOSTILE and told["duration_s"] == 0.5 and told["sample_rate"] == 48_000
    assert told["sizes"] == {"payload": 64, "stored": 76, "sound": 48_000}  # two frames of 0.4 s
    for take in ("original", "restored"):
        heard = client.get("/sound", params={"try": key, "take": take})
        assert len(heard.content) == 44 + 48_000
    assert "text/html" not in client.get("/saved", params={"try": key}).headers["content-type"]
    for _ in range(4):
        client.post("/api/try", content=wav(8_000), headers=own)
    assert "forgotten" in client.get("/api/clip", params={"try": key}).json()["error"]


def test_what_is_no_sound_or_too_much_is_refused_and_leaves_nothing(
    client: TestClient, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    own = {"origin": HERE}
    answer = client.post("/api/try", content=b"no sound", headers=own)
    assert answer.status_code == 415 and "cannot be heard" in said(answer.json()["error"])
    monkeypatch.setattr("syllabary.workers.listen.page.MOST_BYTES", 10_000)
    answer = client.post("/api/try", content=wav(8_000), headers=own)
    assert answer.status_code == 400 and "too large" in said(answer.json()["error"])
    assert list(tmp_path.iterdir()) == []
    assert trying.MOST_BYTES == 32 << 20


def test_names_and_titles_are_shown_and_not_run(shown: Shown) -> None:
    page = client_of(dataclasses.replace(shown, title=HOSTILE)).get("/").text
    assert HOSTILE not in page and "&lt;script&gt;document.title" in page
    assert page.count("<script") == 1 and " style=" not in page and " on" not in re.sub(r">[^<]*<", "><", page)


def test_without_its_tokenizer_an_archive_is_looked_at_and_the_page_says_what_to_give(
    base: Path, tmp_path: Path
) -> None:
    alone = shutil.copytree(base / "archive", tmp_path / "alone")
    looked_at = prepare(ListenJob(archive=str(alone)))
    client = client_of(looked_at)
    assert "give --tokenizer" in client.get("/").text
    told = client.get("/api/archive").json()
    assert told["takes"] == [] and told["num_utterances"] == 12
    row = first_row(client)
    assert client.get("/api/clip", params={"id": row["id"]}).json()["utterances"][0]["salience"]
    refused = client.get("/sound", params={"id": row["id"]})
    assert refused.status_code == 404 and "nothing to hear" in refused.json()["error"]
    tried = client.post("/api/try", content=wav(8_000), headers={"origin": HERE})
    assert tried.status_code == 404 and "give --tokenizer" in tried.json()["error"]


def test_what_cannot_be_served_is_told_before_anything_is(base: Path, tmp_path: Path) -> None:
    archive = str(base / "archive")
    with pytest.raises(NotFoundError):
        prepare(ListenJob(archive=str(tmp_path / "nowhere")))
    with pytest.raises(InputError, match="another one"):
        prepare(ListenJob(archive=archive, tokenizer="builtin:speech16k"))
    with pytest.raises(InputError, match="two places"):
        prepare(ListenJob(archive=archive, shards="s", audio_root="a"))
    with pytest.raises(NotFoundError, match="index of shards"):
        prepare(ListenJob(archive=archive, tokenizer=str(base / "tokenizer"), shards=str(tmp_path)))


def test_the_socket_is_of_loopback_alone_and_a_port_that_is_taken_is_told() -> None:
    with listening(0) as first:
        address, port = first.getsockname()
        assert address == "127.0.0.1" and first.family == socket.AF_INET
        with pytest.raises(InputError, match="the port cannot be had"):
            listening(port)


def test_damage_is_told_in_one_line_and_the_page_goes_on(shown: Shown, base: Path, tmp_path: Path) -> None:
    archive = tmp_path / "archive"
    (archive / "parts").mkdir(parents=True)
    for name in ("output.json", *(part_name(f"train-00000{i}") for i in (0, 1))):
        (archive / name).write_bytes((base / "archive" / name).read_bytes())
    damaged = dataclasses.replace(shown, catalogue=Catalogue(str(archive)))
    client = client_of(damaged)
    row = first_row(client)
    path = archive / part_name("train-000000")
    data = bytearray(path.read_bytes())
    data[len(data) // 10 : len(data) // 2] = bytes(len(data) // 2 - len(data) // 10)
    path.write_bytes(data)
    answer = client.get("/api/clip", params={"id": row["id"]})
    assert answer.status_code == 500 and "footer does not parse" in said(answer.json()["error"])
    rows = client.get("/api/utterances").json()["rows"]
    assert client.get("/api/clip", params={"id": rows[-1]["id"]}).status_code == 200
