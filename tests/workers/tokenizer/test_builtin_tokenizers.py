"""``builtin:NAME`` wherever a tokenizer is taken, on the inputs that newcomers bring: a stand-in ships here."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile

from syllabary.shards.errors import DamageError, InputError
from syllabary.workers.control.jobs import DecodeJob, EncodeJob, StatusJob
from syllabary.workers.operate.status import status
from syllabary.workers.recipes.beginning import claimed, fitting_kind
from syllabary.workers.recipes.named import resolve
from syllabary.workers.tokenizer.decode_files import decode_files
from syllabary.workers.tokenizer.directory import load_tokenizer
from syllabary.workers.tokenizer.encode_files import encode_files
from syllabary.workers.tokenizer.token_file import read_token_file
from syllabary.workers.tokenizer.tokenizer import Tokenizer
from syllabary.workers.training.initial_weights import initial_digest, read_initial
from tests.helpers.small_models import CONFIGS, RATE
from tests.helpers.standin import URI, ship


@pytest.fixture
def standin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return ship(tmp_path / "box", monkeypatch, CONFIGS["spectral"])


def there_and_back(folder: Path, samples: np.ndarray, rate: int) -> tuple[np.ndarray, np.ndarray]:
    """Tokens and restored samples of a WAV file, by the commands' own functions."""
    soundfile.write(folder / "a.wav", samples, rate)
    encoded = encode_files(EncodeJob(files=(str(folder / "a.wav"),), tokenizer=URI, out=str(folder / "tokens")))
    assert encoded["encoder_digest"] == Tokenizer.load(URI).encoder_digest
    tokens = encoded["files"][0]["tokens"]
    decoded = decode_files(DecodeJob(files=(tokens,), tokenizer=URI, out=str(folder / "back")))
    restored, restored_rate = soundfile.read(decoded["files"][0], dtype="float32")
    assert (len(restored), restored_rate) == (len(samples), rate)
    assert np.isfinite(restored).all()
    return Tokenizer.load(URI).encode(samples, rate).tokens, restored


def noise(num_samples: int) -> np.ndarray:
    return np.random.default_rng(0).uniform(-0.3, 0.3, num_samples).astype(np.float32)


@pytest.mark.parametrize("rate", [RATE // 2, RATE, 8_000, 44_100])
def test_speech_of_any_rate_comes_back_at_its_own(tmp_path: Path, standin: Path, rate: int) -> None:
    tokens, _ = there_and_back(tmp_path, noise(3 * rate + 17), rate)
    assert len(tokens) == Tokenizer.load(URI).num_frames(3 * rate + 17, rate)


def test_telephone_speech_for_a_model_of_16_khz(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ship(tmp_path / "box", monkeypatch, resolve("tiny"))
    tokens, _ = there_and_back(tmp_path, noise(20_001), 8_000)
    assert tokens.shape == (7, 19)  # 2.5 s and a sample at 2.5 frames a second, 19 tokens each


@pytest.mark.long
def test_15_minutes_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Encoded window by window and decoded chunk by chunk; its beginning sounds as if a minute were decoded alone."""
    ship(tmp_path / "box", monkeypatch, resolve("tiny"))
    soundfile.write(tmp_path / "long.flac", noise(15 * 60 * 16_000), 16_000)
    (entry,) = encode_files(EncodeJob(files=(str(tmp_path / "long.flac"),), tokenizer=URI))["files"]
    assert (entry["num_samples"], entry["num_frames"]) == (15 * 60 * 16_000, 2_250)
    (file,) = decode_files(DecodeJob(files=(entry["tokens"],), tokenizer=URI))["files"]
    restored, _ = soundfile.read(file, dtype="float32")
    assert len(restored) == 15 * 60 * 16_000
    tokens = read_token_file(entry["tokens"]).tokens
    minute = Tokenizer.load(URI).decode(tokens[:150], 60 * 16_000, 16_000)[: 50 * 16_000]
    assert np.abs(restored[: len(minute)] - np.clip(minute, -1, 1)).max() < 1e-3  # 16 bits of the file


@pytest.mark.parametrize("kind", ["silence", "clicks", "tone", "one sample"])
def test_what_is_no_speech_is_encoded_all_the_same(tmp_path: Path, standin: Path, kind: str) -> None:
    samples = np.zeros(1 if kind == "one sample" else 5_000, np.float32)
    if kind == "clicks":
        samples[::500] = 0.99
    if kind == "tone":
        samples = (0.5 * np.sin(np.arange(5_000) * 0.3)).astype(np.float32)
    there_and_back(tmp_path, samples, RATE)


def test_an_unknown_builtin_is_refused_before_anything_is_read(tmp_path: Path, standin: Path) -> None:
    absent = str(tmp_path / "absent.wav")
    for act in (
        lambda: Tokenizer.load("builtin:other"),
        lambda: load_tokenizer("builtin:other", decoder=False),
        lambda: encode_files(EncodeJob(files=(absent,), tokenizer="builtin:other")),
        lambda: decode_files(DecodeJob(files=(absent,), tokenizer="builtin:other")),
        lambda: initial_digest("builtin:other", resolve("tiny")),
        lambda: claimed("builtin:other", resolve("tiny")),
        lambda: status(StatusJob(uri="builtin:other")),
    ):
        with pytest.raises(InputError, match="unknown builtin: 'builtin:other'; expected builtin:standin; or give a"):
            act()


@pytest.mark.parametrize("name", ["encoder.safetensors", "decoder.safetensors", "config.json"])
def test_damaged_weights_are_refused_by_their_digest(standin: Path, name: str) -> None:
    path = standin / name
    data = bytearray(path.read_bytes())
    if name == "config.json":
        data = data.replace(b'"precision": "fp32"', b'"precision": "bf16"')
    else:
        data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(DamageError, match=r"builtin:standin/.*safetensors or its configuration has changed: digest"):
        Tokenizer.load(URI)


def test_what_it_is_can_be_asked(standin: Path) -> None:
    found = status(StatusJob(uri=URI))["outputs"][0]
    digests = load_tokenizer(URI).digests
    assert (found["holds"], found["state"], found["uri"]) == ("tokenizer", "complete", URI)
    assert digests.encoder[:12] in found["progress"] and digests.decoder[:12] in found["progress"]
    assert "| weights stored as | float16 |" in (standin / "README.md").read_text()


def test_a_training_begins_with_it_and_only_by_its_own_recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = resolve("tiny")
    folder = ship(tmp_path / "box", monkeypatch, recipe)
    assert fitting_kind(URI, recipe) == "tokenizer"
    stated = json.loads((folder / "config.json").read_text())
    assert claimed(URI, recipe)["decoder_digest"] == stated["decoder_digest"]
    assert initial_digest(URI, recipe) == initial_digest(str(folder), recipe) != "none"
    files, begun = load_tokenizer(URI), read_initial(URI)
    assert all((begun.encoder[name] == value).all() for name, value in files.encoder_state.items())
    with pytest.raises(InputError, match=r"model\.encoder\..* at builtin:standin was trained with .*\(--init none\)"):
        claimed(URI, resolve("fast16k_small"))
