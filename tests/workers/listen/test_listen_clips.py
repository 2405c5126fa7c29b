"""A clip's sound, piece by piece and as a whole; its frames; its bytes; originals; what is dropped."""

from __future__ import annotations

import io
import itertools
import shutil
import wave
from pathlib import Path

import numpy as np
import pytest
import soundfile

from syllabary.shards import audio, dataset
from syllabary.shards.archive.packing import Packing
from syllabary.shards.archive.parts import ArchiveFormat
from syllabary.shards.errors import FormatError, InputError, NotFoundError
from syllabary.workers.listen import takes
from syllabary.workers.listen.catalogue import Row
from syllabary.workers.listen.clips import HEADER_BYTES, Clip
from syllabary.workers.listen.page import Shown
from syllabary.workers.listen.takes import from_folder, tokenizer_of
from syllabary.workers.listen.trying import MOST_S, decoded
from syllabary.workers.tokenizer.tokenizer import Tokenizer

RATE = 1_000
FORM = ArchiveFormat("e" * 64, "c" * 64, Packing(128, 4, 7), RATE, 100)  # frames of 0.1 s


def row(start: int, num_samples: int) -> Row:
    frames = -(-num_samples // 100)
    tokens = np.arange(frames * 19, dtype=np.uint16).reshape(frames, 19) % 16
    return {
        "utterance_id": f"at {start}", "start_sample": start, "num_samples": num_samples, "sample_rate": RATE,
        "num_frames": frames, "tokens": tokens.reshape(-1).tolist(), "salience": list(range(frames)), "speaker": "1",
    }  # fmt: skip


ROWS = [row(300, 250), row(700, 410)]


def counting(of: Row) -> np.ndarray:
    """Samples that tell which they are: their number in the recording."""
    return np.arange(of["start_sample"], of["start_sample"] + of["num_samples"], dtype=np.int16)


def clip(start: int, stop: int) -> Clip:
    return Clip("a recording", ROWS, start, stop, RATE, FORM, {"restored": counting})


def expected(start: int, stop: int) -> np.ndarray:
    at = np.arange(start, stop)
    return np.where(((at >= 300) & (at < 550)) | ((at >= 700) & (at < 1110)), at, 0).astype(np.int16)


@pytest.mark.parametrize(("start", "stop"), [(0, 1110), (300, 550), (310, 320), (540, 710), (560, 600), (1100, 1110)])
def test_a_stretch_holds_each_utterance_at_its_own_place_and_silence_between(start: int, stop: int) -> None:
    data = b"".join(clip(start, stop).wav("restored", 0, clip(start, stop).size_bytes))
    with wave.open(io.BytesIO(data)) as file:
        assert (file.getframerate(), file.getnchannels(), file.getsampwidth()) == (RATE, 1, 2)
        found = np.frombuffer(file.readframes(10_000), "<i2")
    assert np.array_equal(found, expected(start, stop))


def test_any_range_of_bytes_is_that_of_the_whole_file() -> None:
    one = clip(290, 1110)
    whole = b"".join(one.wav("restored", 0, one.size_bytes))
    assert len(whole) == one.size_bytes == HEADER_BYTES + 2 * 820
    edges = (0, 1, 43, 44, 45, 46, 63, 64, 65, 544, 563, 565, 1000, 1001, one.size_bytes - 1, one.size_bytes)
    for start, stop in itertools.combinations(edges, 2):
        assert b"".join(one.wav("restored", start, stop)) == whole[start:stop], (start, stop)


def test_the_frame_of_a_moment_is_counted_from_the_start_of_its_utterance() -> None:
    one = clip(200, 1110)
    assert one.frame(0.05) is None and one.frame(0.4) is None
    first, later = one.frame(0.1), one.frame(0.75)
    assert first is not None and later is not None
    assert (first["utterance_id"], first["number"], first["start_s"]) == ("at 300", 0, pytest.approx(0.1))
    assert (later["utterance_id"], later["number"], later["salience"]) == ("at 700", 2, 2)
    assert later["tokens"] == [i % 16 for i in range(38, 57)]
    # a token of 7 digits of 4 levels, the first most significant: 6 is 0 0 0 0 0 1 2
    assert later["digits"][:7] == [0, 0, 0, 0, 0, 1, 2]
    assert (later["start_s"], later["end_s"]) == (pytest.approx(0.7), pytest.approx(0.8))


def test_bytes_are_those_of_the_frames_within() -> None:
    # 3 and 5 frames of 128 digits of 4 levels: 256 bits, 32 bytes each, or 19 tokens of 2 bytes
    assert clip(0, 1110).sizes() == {"payload": 8 * 32, "stored": 8 * 38, "sound": 2220}
    assert clip(500, 560).sizes() == {"payload": 32, "stored": 38, "sound": 120}
    assert clip(560, 700).sizes() == {"payload": 0, "stored": 0, "sound": 280}


def test_what_is_too_long_or_not_there_is_refused() -> None:
    one = clip(0, 1110)
    with pytest.raises(NotFoundError, match="nothing to hear"):
        list(one.wav("original", 0, 100))
    with pytest.raises(InputError, match="seconds of a picture"):
        one.picture("restored", 1.0, 1.0)
    with pytest.raises(InputError, match="too long for a WAV"):
        assert clip(0, 1 << 31).size_bytes
    with pytest.raises(InputError, match="seconds to save"):
        clip(0, RATE * 10_000).flac("restored")


def test_an_utterance_sounds_as_the_tokenizer_decodes_it(shown: Shown, base: Path) -> None:
    rows = shown.catalogue.newest().rows.to_pylist()
    tokenizer = Tokenizer.load(str(base / "tokenizer"))
    for one in (rows[0], rows[7]):
        (whole,) = shown.catalogue.tokens([one])
        packing = shown.catalogue.reader.format.packing
        sound = tokenizer.decode(np.asarray(whole["tokens"]), one["num_samples"], one["sample_rate"], packing)
        assert np.array_equal(shown.takes["restored"](one), audio.to_int16(sound))
        entry = dataset.find_utterance(str(base / "shards"), one["utterance_id"])
        spoken, _ = audio.decode(dataset.read_utterance(str(base / "shards"), entry))
        assert np.array_equal(shown.takes["original"](one), audio.to_int16(spoken))


def test_sounds_that_were_made_are_kept_up_to_a_size(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str] = []

    def make(of: Row) -> np.ndarray:
        made.append(of["utterance_id"])
        return np.zeros(10, np.int16)

    monkeypatch.setattr(takes, "_KEPT_BYTES", 50)
    kept = takes.Kept(make)
    for name in ("a", "b", "a", "c", "a", "b"):
        kept({"utterance_id": name, "crc32c": 1})
    assert made == ["a", "b", "c", "b"]  # two sounds fit; b was the one unused for longest when c came
    kept({"utterance_id": "b", "crc32c": 2})
    assert made[-1] == "b"


def recording_of(folder: Path, name: str, num_samples: int, rate: int = RATE) -> np.ndarray:
    sound = (1000 * np.sin(np.arange(num_samples) / 9)).astype(np.int16)
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(folder / name, sound, rate, subtype="PCM_16")
    return sound


def test_an_original_is_cut_out_of_its_recording_by_source_or_by_name(tmp_path: Path) -> None:
    sound = recording_of(tmp_path, "a/b.flac", 2_000)
    recording_of(tmp_path, "other.wav", 600)
    original = from_folder(str(tmp_path))
    named = ROWS[1] | {"recording_id": "a/b", "source": None, "crc32c": 1}
    assert np.array_equal(original(named), sound[700:1110])
    assert original.holds(named) and not original.holds(named | {"source": "nowhere.flac"})  # type: ignore[attr-defined]
    for change, refusal in (
        ({"source": "other.wav"}, "another one"),
        ({"source": "nowhere.flac"}, "nothing at that URI|no such|not found|nowhere"),
        ({"source": "a/b.flac", "sample_rate": 500}, "another one"),
    ):
        with pytest.raises(NotFoundError, match=refusal):
            original(named | change | {"crc32c": 2})
    (tmp_path / "noise.flac").write_bytes(b"no audio at all")
    with pytest.raises(FormatError, match="not readable audio"):
        original(named | {"source": "noise.flac", "crc32c": 3})
    with pytest.raises(NotFoundError, match="no folder of recordings"):
        from_folder(str(tmp_path / "nowhere"))


@pytest.mark.parametrize("source", ["../secret.flac", "/etc/passwd", "a/../../secret.flac", "link/secret.flac"])
def test_no_name_of_an_archive_leads_out_of_the_folder(tmp_path: Path, source: str) -> None:
    recording_of(tmp_path, "secret.flac", 2_000)
    inside = tmp_path / "inside"
    inside.mkdir()
    (inside / "link").symlink_to(tmp_path)
    with pytest.raises(InputError, match="unsafe path"):
        from_folder(str(inside))(ROWS[0] | {"recording_id": "x", "source": source, "crc32c": 1})


def test_the_tokenizer_is_found_by_the_archives_digest(base: Path, shown: Shown, tmp_path: Path) -> None:
    archive, form = str(base / "archive"), shown.catalogue.reader.format
    for given in (str(base / "tokenizer"), None):  # the one of the run, too
        assert tokenizer_of(archive, form, given) == (str(base / "tokenizer"), "")
    archive = shutil.copytree(archive, tmp_path / "alone").as_posix()
    uri, missing = tokenizer_of(archive, form, None)
    assert uri == "" and form.encoder_digest[:16] in missing and "--tokenizer" in missing and "\n" not in missing
    with pytest.raises(InputError, match="another one"):
        tokenizer_of(archive, form, "builtin:speech16k")
    builtin = Tokenizer.load("builtin:speech16k", decoder=False).encoder_digest
    of_builtin = ArchiveFormat(builtin, "c" * 64, form.packing, 16_000, 6_400)
    assert tokenizer_of(archive, of_builtin, None) == ("builtin:speech16k", "")


def wav_bytes(sound: np.ndarray, rate: int, **options: str) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, sound, rate, format=options.pop("format", "WAV"), **options)
    return buffer.getvalue()


@pytest.mark.parametrize("form", [{"format": "WAV"}, {"format": "FLAC"}, {"format": "MP3"}, {"format": "OGG"}])
def test_what_is_dropped_is_decoded_to_one_channel(form: dict[str, str]) -> None:
    tone = 0.3 * np.sin(2 * np.pi * 440 * np.arange(24_000) / 48_000)
    samples, rate = decoded(wav_bytes(np.stack([tone, tone], 1), 48_000, **form))
    assert rate == 48_000 and samples.ndim == 1 and abs(len(samples) - 24_000) < 2_400
    spectrum = np.abs(np.fft.rfft(samples))
    assert np.argmax(spectrum) * rate / len(samples) == pytest.approx(440, abs=3)


@pytest.mark.parametrize("total", [0, 5_000, 40_000])
def test_a_flac_whose_header_counts_wrongly_is_heard_whole(total: int) -> None:
    flac = wav_bytes(0.3 * np.sin(np.arange(24_000) / 17), 16_000, format="FLAC")
    counted = flac[:18] + (int.from_bytes(flac[18:26]) >> 36 << 36 | total).to_bytes(8) + flac[26:]
    assert len(decoded(counted)[0]) == 24_000


def test_what_is_no_sound_too_long_or_of_too_many_channels_is_refused_in_one_line() -> None:
    short = np.zeros((800, 9))
    cases = [
        (b"", FormatError, "empty"), (b"<html>", FormatError, "cannot be heard"),
        (wav_bytes(np.zeros(8_000), 8_000)[:-9], FormatError, "cannot be heard"),
        (wav_bytes(np.zeros(int(8_000 * (MOST_S + 1))), 8_000, format="FLAC"), InputError, "too long"),
        (wav_bytes(short, 8_000), InputError, "channels"), (bytes(33 << 20), InputError, "too large"),
    ]  # fmt: skip
    for data, kind, message in cases:
        with pytest.raises(kind, match=message) as told:
            decoded(data)
        assert "\n" not in str(told.value) and "/tmp" not in str(told.value)
