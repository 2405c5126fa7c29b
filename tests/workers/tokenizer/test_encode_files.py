"""``encode`` and ``decode`` as jobs: exact lengths and rates, deterministic files, refusals that write nothing."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile

from syllabary.shards.errors import ConflictError, DamageError, FormatError, InputError, NotFoundError, VersionError
from syllabary.workers.control.jobs import RESULT_PREFIX, DecodeJob, EncodeJob
from syllabary.workers.tokenizer.decode_files import decode_files
from syllabary.workers.tokenizer.encode_files import encode_files
from syllabary.workers.tokenizer.token_file import TokenFile, read_token_file, write_token_file
from syllabary.workers.tokenizer.tokenizer import Tokenizer
from tests.helpers.small_models import RATE, small_tokenizer


@pytest.fixture
def tokenizer_uri(tmp_path: Path) -> str:
    small_tokenizer("waveform", tmp_path / "tokenizer")
    return str(tmp_path / "tokenizer")


def write_wav(path: Path, num_samples: int, rate: int, subtype: str | None = None) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(num_samples)
    soundfile.write(path, rng.uniform(-0.3, 0.3, num_samples).astype(np.float32), rate, subtype)
    return str(path)


@pytest.mark.parametrize("audio_format", ["wav", "flac"])
def test_there_and_back_with_exact_lengths_and_rates(tmp_path: Path, tokenizer_uri: str, audio_format: str) -> None:
    files = tuple(
        write_wav(tmp_path / f"{n}.wav", n, rate)
        for n, rate in ((1, RATE), (777, 8_000), (5_001, 16_000), (3_000, RATE))
    )
    encoded = encode_files(EncodeJob(files=files, tokenizer=tokenizer_uri, out=str(tmp_path / "tokens")))
    tokens = tuple(entry["tokens"] for entry in encoded["files"])
    decoded = decode_files(
        DecodeJob(files=tokens, tokenizer=tokenizer_uri, out=str(tmp_path / "back"), audio_format=audio_format)
    )
    for before, after in zip(files, decoded["files"], strict=True):
        assert Path(after).suffix == f".{audio_format}"
        assert soundfile.info(after).frames == soundfile.info(before).frames
        assert soundfile.info(after).samplerate == soundfile.info(before).samplerate


def test_both_formats_hold_the_same_samples(tmp_path: Path, tokenizer_uri: str) -> None:
    file = write_wav(tmp_path / "clip.wav", 900, RATE)
    (entry,) = encode_files(EncodeJob(files=(file,), tokenizer=tokenizer_uri, out=str(tmp_path / "tokens")))["files"]
    flac, wav = (
        decode_files(
            DecodeJob(files=(entry["tokens"],), tokenizer=tokenizer_uri, out=str(tmp_path / "back"), audio_format=form)
        )
        for form in ("flac", "wav")
    )
    first, second = (soundfile.read(one["files"][0], dtype="int16")[0] for one in (flac, wav))
    assert first.any() and (first == second).all()


def test_outputs_lie_beside_their_inputs_and_have_equal_bytes(tmp_path: Path, tokenizer_uri: str) -> None:
    files = tuple(write_wav(tmp_path / folder / "clip.wav", 900, RATE) for folder in ("a", "b"))
    encode_files(EncodeJob(files=files, tokenizer=tokenizer_uri))
    first, second = (tmp_path / folder / "clip.tokens.safetensors" for folder in ("a", "b"))
    assert first.read_bytes() == second.read_bytes()
    found = read_token_file(str(first))
    assert (found.num_samples, found.sample_rate) == (900, RATE)
    assert found.tokens.shape == (8, 3)


def test_no_file_is_replaced_by_another_and_the_same_one_again_is_no_error(tmp_path: Path, tokenizer_uri: str) -> None:
    spoken = Path(write_wav(tmp_path / "clip.wav", 900, RATE))
    original, tokens = spoken.read_bytes(), str(tmp_path / "clip.tokens.safetensors")
    decode = DecodeJob(files=(tokens,), tokenizer=tokenizer_uri)
    for _ in range(2):
        encode_files(EncodeJob(files=(str(spoken),), tokenizer=tokenizer_uri))
        with pytest.raises(ConflictError, match=r"another file is there already: .*clip\.wav'; give another --out"):
            decode_files(decode)
        decode_files(decode.model_copy(update={"out": str(tmp_path / "back")}))
    assert spoken.read_bytes() == original
    before = Path(tokens).read_bytes()
    other = write_wav(tmp_path / "clip.flac", 800, RATE)
    with pytest.raises(ConflictError, match=r"already: .*clip\.tokens"):
        encode_files(EncodeJob(files=(other,), tokenizer=tokenizer_uri))
    assert Path(tokens).read_bytes() == before


def test_what_lies_in_the_way_is_seen_before_anything_is_encoded_or_decoded(tmp_path: Path, tokenizer_uri: str) -> None:
    files = tuple(write_wav(tmp_path / f"{name}.wav", 900, RATE) for name in "ab")
    out, way = tmp_path / "out", tmp_path / "out/b.tokens.safetensors"
    out.mkdir()
    job = EncodeJob(files=files, tokenizer=tokenizer_uri, out=str(out))
    tokens = tuple(entry["tokens"] for entry in encode_files(job.model_copy(update={"out": None}))["files"])
    own = read_token_file(tokens[0])
    for other in (
        replace(own, encoder_digest="0" * 64),
        replace(own, num_samples=899),
        replace(own, sample_rate=8_000),
    ):
        write_token_file(str(way), other)
        with pytest.raises(ConflictError, match=r"another file is there already: .*out/b\.tokens"):
            encode_files(job)
    way.write_bytes(b"something else")
    with pytest.raises(ConflictError, match=r"another file is there already: .*out/b\.tokens"):
        encode_files(job)
    assert [path.name for path in out.iterdir()] == [way.name]
    write_wav(out / "b.wav", 900, RATE)
    with pytest.raises(ConflictError, match=r"another file is there already: .*out/b\.wav"):
        decode_files(DecodeJob(files=tokens, tokenizer=tokenizer_uri, out=str(out)))
    assert not (out / "a.wav").exists()


@pytest.mark.parametrize("audio_format", ["wav", "flac"])
def test_what_is_decoded_says_so_and_of_what(tmp_path: Path, tokenizer_uri: str, audio_format: str) -> None:
    file = write_wav(tmp_path / "clip.wav", 900, RATE)
    (entry,) = encode_files(EncodeJob(files=(file,), tokenizer=tokenizer_uri))["files"]
    job = DecodeJob(files=(entry["tokens"],), tokenizer=tokenizer_uri, out=str(tmp_path / "back"),
                    audio_format=audio_format)  # fmt: skip
    found = decode_files(job)
    with soundfile.SoundFile(found["files"][0]) as sound:
        encoder, decoder = read_token_file(entry["tokens"]).encoder_digest, found["decoder_digest"]
        said = f"decoded by syllabary from tokens, encoder {encoder[:16]}, decoder {decoder[:16]}"
        assert sound.comment == said and sound.frames == 900
    assert decode_files(job) == found


def test_two_inputs_of_one_name_are_refused_before_anything_is_written(tmp_path: Path, tokenizer_uri: str) -> None:
    files = tuple(write_wav(tmp_path / folder / "clip.wav", 900, RATE) for folder in ("a", "b"))
    with pytest.raises(ConflictError, match="two inputs would become one output"):
        encode_files(EncodeJob(files=files, tokenizer=tokenizer_uri, out=str(tmp_path / "out")))
    with pytest.raises(InputError, match="no files given"):
        encode_files(EncodeJob(files=(), tokenizer=tokenizer_uri))
    assert not (tmp_path / "out").exists()


def test_files_that_are_not_there_are_told_before_the_tokenizer_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Tokenizer, "load", lambda *_, **__: pytest.fail("loaded"))
    absent = (str(tmp_path / "absent.wav"),)
    with pytest.raises(NotFoundError, match=r"absent\.wav"):
        encode_files(EncodeJob(files=absent, tokenizer="nowhere"))
    with pytest.raises(NotFoundError, match=r"absent\.wav"):
        decode_files(DecodeJob(files=absent, tokenizer="nowhere"))


def test_one_unreadable_input_writes_nothing(tmp_path: Path, tokenizer_uri: str) -> None:
    good, bad = write_wav(tmp_path / "good.wav", 900, RATE), tmp_path / "bad.wav"
    bad.write_bytes(b"RIFF but no audio")
    with pytest.raises(FormatError, match=r"bad\.wav: not readable audio"):
        encode_files(EncodeJob(files=(good, str(bad)), tokenizer=tokenizer_uri))
    with pytest.raises(NotFoundError, match=r"absent\.wav"):
        encode_files(EncodeJob(files=(good, str(tmp_path / "absent.wav")), tokenizer=tokenizer_uri))
    with pytest.raises(InputError, match=r"a folder instead of an audio file: .*; give the files in it"):
        encode_files(EncodeJob(files=(good, str(tmp_path)), tokenizer=tokenizer_uri))
    assert not list(tmp_path.glob("*.safetensors"))


def test_samples_that_no_tokenizer_takes_write_nothing_and_name_their_file(tmp_path: Path, tokenizer_uri: str) -> None:
    good = write_wav(tmp_path / "good.wav", 900, RATE)
    for name, samples in (("nan", [0.1, np.nan]), ("empty", []), ("loud", [0.1, 900.0])):
        bad = str(tmp_path / f"{name}.wav")
        soundfile.write(bad, np.array(samples, np.float32), RATE, subtype="FLOAT")
        with pytest.raises(InputError, match=rf"{name}\.wav: .*waveform"):
            encode_files(EncodeJob(files=(good, bad), tokenizer=tokenizer_uri, out=str(tmp_path / "out")))
    assert not (tmp_path / "out").exists()


def encoded(path: Path, tokenizer_uri: str) -> dict:
    (told,) = encode_files(EncodeJob(files=(str(path),), tokenizer=tokenizer_uri))["files"]
    assert read_token_file(told["tokens"]).num_samples == told["num_samples"]
    return told


def with_total(data: bytes, total: int) -> bytes:
    """A FLAC whose header counts ``total`` samples: the low 36 bits of bytes 18 to 26."""
    return data[:18] + (int.from_bytes(data[18:26]) >> 36 << 36 | total).to_bytes(8) + data[26:]


@pytest.mark.parametrize("total", [0, 3_000, 9_000])
def test_a_flac_that_counts_wrongly_is_encoded_whole_and_told(tmp_path: Path, tokenizer_uri: str, total: int) -> None:
    flac = Path(write_wav(tmp_path / "clip.flac", 5_001, RATE))
    flac.write_bytes(with_total(flac.read_bytes(), total))
    told = encoded(flac, tokenizer_uri)
    assert told["num_samples"] == 5_001
    said = [f"header promises {total:,} samples, 5,001 are there, and their MD5 is right"] if total else None
    assert told.get("notes") == said


@pytest.mark.parametrize(("suffix", "subtype"), [("flac", None), ("ogg", "VORBIS"), ("ogg", "OPUS"), ("mp3", None)])
def test_every_link_of_a_chain_is_encoded_and_told(
    tmp_path: Path, tokenizer_uri: str, suffix: str, subtype: str | None
) -> None:
    one = Path(write_wav(tmp_path / f"one.{suffix}", 4_800, 16_000, subtype))
    both = tmp_path / f"both.{suffix}"
    both.write_bytes(one.read_bytes() * 2)
    single = encoded(one, tokenizer_uri)
    assert "notes" not in single
    assert (told := encoded(both, tokenizer_uri))["num_samples"] == 2 * single["num_samples"]
    assert told["notes"] == ["2 streams in one file"]


def test_what_a_file_promises_and_does_not_hold_is_refused_with_both_numbers(
    tmp_path: Path, tokenizer_uri: str
) -> None:
    whole = Path(write_wav(tmp_path / "clip.flac", 5_001, RATE)).read_bytes()
    wav = Path(write_wav(tmp_path / "clip.wav", 5_001, RATE)).read_bytes()
    bare = whole[:26] + bytes(16) + whole[42:]
    harmed = {
        "less.flac": (with_total(bare, 9_000), r"less.flac: audio ends early .* 9,000 samples, 5,001 are there"),
        "more.flac": (with_total(bare, 3_000), r"more.flac: wrong length .*promises 3,000 samples, 5,001 are there"),
        "md5.flac": (whole[:26] + b"x" * 16 + whole[42:], r"md5.flac: damaged audio \(wrong MD5"),
        "cut.wav": (wav[:-400], r"cut.wav: audio ends early .*promises 5,001 blocks, 4,801 are there"),
        "behind.wav": (wav + b"rest" * 9, r"behind.wav: bytes behind the end"),
    }
    for name, (data, message) in harmed.items():
        (tmp_path / name).write_bytes(data)
        with pytest.raises(FormatError, match=message):
            encode_files(EncodeJob(files=(str(tmp_path / name),), tokenizer=tokenizer_uri))
    assert not list(tmp_path.glob("*.tokens.safetensors"))


def test_a_token_file_that_cannot_be_decoded_writes_nothing_and_is_named(tmp_path: Path, tokenizer_uri: str) -> None:
    encode_files(EncodeJob(files=(write_wav(tmp_path / "good.wav", 900, RATE),), tokenizer=tokenizer_uri))
    good, bad = str(tmp_path / "good.tokens.safetensors"), str(tmp_path / "bad.tokens.safetensors")
    content = read_token_file(good)
    for harmed, message in (
        (replace(content, num_samples=2_000), "frames of 2000 samples"),
        (replace(content, tokens=np.full_like(content.tokens, 16)), "token 16 at frame 0, position 2"),
        (replace(content, sample_rate=3), "sample_rate: 3"),
    ):
        write_token_file(bad, harmed)
        with pytest.raises(InputError, match=rf"bad\.tokens\.safetensors: .*{message}"):
            decode_files(DecodeJob(files=(good, bad), tokenizer=tokenizer_uri, out=str(tmp_path / "out")))
    assert not (tmp_path / "out").exists()


def test_tokens_of_another_encoder_are_refused(tmp_path: Path, tokenizer_uri: str) -> None:
    clip = write_wav(tmp_path / "clip.wav", 900, RATE)
    encode_files(EncodeJob(files=(clip,), tokenizer=tokenizer_uri))
    small_tokenizer("waveform", tmp_path / "other", seed=1)
    with pytest.raises(ConflictError, match=r"tokens of another encoder .* use the tokenizer that wrote them"):
        decode_files(
            DecodeJob(
                files=(str(tmp_path / "clip.tokens.safetensors"),), tokenizer=str(tmp_path / "other"), out=str(tmp_path)
            )
        )


def test_foreign_and_unknown_token_files(tmp_path: Path) -> None:
    path = tmp_path / "x.tokens.safetensors"
    path.write_bytes(b"not safetensors at all")
    with pytest.raises(FormatError, match="not a token file"):
        read_token_file(str(path))
    content = TokenFile(np.zeros((2, 3), np.uint16), np.zeros(2, np.uint8), 200, RATE, 0.1, "d" * 64)
    write_token_file(str(path), content)
    good = path.read_bytes()
    path.write_bytes(good.replace(b"syllabary-tokens", b"somebody-elsesss"))
    with pytest.raises(FormatError, match="safetensors of another kind"):
        read_token_file(str(path))
    for garbled in (b"ot: at all, I say", b"[1,2]" + b" " * 12):
        header = good[8 : 8 + int.from_bytes(good[:8], "little")]
        at = header.index(b'"{') + 1
        wrong = (
            header[:at]
            + garbled
            + b" " * (header.index(b'}"') + 1 - at - len(garbled))
            + header[header.index(b'}"') + 1 :]
        )
        path.write_bytes(good[:8] + wrong + good[8 + len(header) :])
        with pytest.raises(FormatError, match="safetensors of another kind"):
            read_token_file(str(path))
    path.write_bytes(good.replace(rb"format_version\": \"1\"", rb"format_version\": \"7\""))
    with pytest.raises(VersionError, match="'7'; expected 1"):
        read_token_file(str(path))
    path.write_bytes(good.replace(b"num_samples", b"num_sampels"))
    with pytest.raises(DamageError, match="num_samples"):
        read_token_file(str(path))


def test_runs_as_a_worker_process(tmp_path: Path, tokenizer_uri: str) -> None:
    job = EncodeJob(files=(write_wav(tmp_path / "clip.wav", 900, RATE),), tokenizer=tokenizer_uri)
    run = subprocess.run(
        [sys.executable, "-m", "syllabary.workers", "encode", job.model_dump_json()], capture_output=True, text=True
    )
    assert run.returncode == 0
    assert json.loads(run.stdout.removeprefix(RESULT_PREFIX))["files"][0]["num_frames"] == 8
    bad = job.model_copy(update={"tokenizer": str(tmp_path / "nowhere")})
    run = subprocess.run(
        [sys.executable, "-m", "syllabary.workers", "encode", bad.model_dump_json()], capture_output=True, text=True
    )
    assert run.returncode == 2
    assert run.stderr.strip().count("\n") == 0
    assert "nothing there" in run.stderr
