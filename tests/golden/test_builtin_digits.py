"""The digits of what ships are a promise: archives keep their meaning whatever is changed in the code.

``python -m infra.speech16k.make_golden builtin:NAME`` records them, once for a tokenizer. They are exact: fp32 on the
CPU, and each frame's margin stands beside its digits, so that a failure tells a border from a change.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import soundfile
import torch

from infra.speech16k.make_golden import FOLDER, SOUNDS, differences, digits_and_margins, golden_of
from syllabary.shards.store import builtin_names
from syllabary.workers.tokenizer.directory import load_tokenizer, save_tokenizer
from syllabary.workers.tokenizer.tokenizer import Tokenizer
from tests.helpers.small_models import CONFIGS, RATE
from tests.helpers.standin import URI, ship


@pytest.mark.parametrize("name", builtin_names())
def test_a_builtin_keeps_its_digits(name: str) -> None:
    recorded = FOLDER / f"{name}.json"
    assert recorded.exists(), f"no golden digits of {name}: python -m infra.speech16k.make_golden builtin:{name}"
    golden = json.loads(recorded.read_text())
    assert len(golden["utterances"]) >= 3
    assert not differences(golden, Tokenizer.load(f"builtin:{name}", decoder=False), SOUNDS)


def test_no_golden_digits_are_left_over() -> None:
    assert {path.stem for path in FOLDER.glob("*.json")} <= {*builtin_names()}


@pytest.fixture
def sounds(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for name in ("a", "b"):
        soundfile.write(tmp_path / f"{name}-original.flac", rng.uniform(-0.3, 0.3, 3_000), RATE)
    return tmp_path


def test_every_changed_digit_is_told_with_its_margin(sounds: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = ship(sounds / "box", monkeypatch, CONFIGS["spectral"])
    files = sorted(sounds.glob("*.flac"))
    golden = golden_of(Tokenizer.load(URI), "standin", files)
    assert not differences(json.loads(json.dumps(golden)), Tokenizer.load(URI), sounds)
    assert [len(one["digits"]) for one in golden["utterances"]] == [25, 25]
    assert {len(frame) for frame in golden["utterances"][0]["digits"]} == {16}

    # another training under the same name: shifted by a little, the digits nearest a border change, and no other
    stored = load_tokenizer(str(folder))
    stored.encoder_state["projection.bias"] += 0.003 * torch.linspace(-1, 1, 16)
    safetensors.torch.save_file(stored.encoder_state, folder / "encoder.safetensors")
    (folder / "config.json").unlink()
    save_tokenizer(str(folder), stored.config, stored.encoder_state, stored.decoder_state, recipe=stored.recipe)
    told = differences(golden, Tokenizer.load(URI), sounds)
    assert told[0].startswith("encoder digest ") and "-original.flac, frame " in told[1]
    margins = [float(line.rpartition(" ")[2]) for line in told[1:]]
    others = [m for one in golden["utterances"] for m in one["margins"]]
    assert 0 < len(margins) < len(others) and max(margins) < max(others)

    soundfile.write(files[0], np.zeros(2_000), RATE)
    told = differences(golden, Tokenizer.load(URI), sounds)
    assert any("a-original.flac is not the recorded sound" in line for line in told)
    assert any("a-original.flac: 17 frames, recorded 25" in line for line in told)


def test_a_margin_is_the_distance_from_the_nearest_border(sounds: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By hand, from latents in double precision: borders of 4 levels lie at tanh values of -0.5, 0 and 0.5."""
    ship(sounds / "box", monkeypatch, CONFIGS["spectral"])
    wav, rate = soundfile.read(sounds / "a-original.flac", dtype="float32")
    tokenizer = Tokenizer.load(URI)
    digits, margins = digits_and_margins(tokenizer, wav, rate)
    bounded = np.tanh(tokenizer.latents(wav, rate).astype(np.float64))
    borders = np.array([-0.5, 0.0, 0.5])
    distance = np.abs(bounded[..., None] - borders).min(axis=(0, 2))
    assert margins == pytest.approx(distance, abs=1e-6)
    levels = (bounded[..., None] > borders).sum(axis=2).T
    assert ["".join(map(str, frame)) for frame in levels] == digits
