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

from infra.speech16k import make_golden
from infra.speech16k.make_golden import (
    FOLDER,
    HELD_BY_NOBODY,
    SOUNDS,
    differences,
    digits_and_margins,
    golden_of,
    margins_of,
)
from syllabary.model.codec import Fsq
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
    told = "".join(digits for one in golden["utterances"] for digits in one["digits"])
    assert len(golden["utterances"]) >= 3 and told.count(HELD_BY_NOBODY) <= len(told) / 1000
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
    for name in ("config.json", "README.md"):  # without the first the second might be somebody's own, and is kept
        (folder / name).unlink()
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
    """As the quantizer says, whose margins are in fp32; by hand, borders of 4 levels lie at tanh of -0.5, 0 and 0.5."""
    ship(sounds / "box", monkeypatch, CONFIGS["spectral"])
    wav, rate = soundfile.read(sounds / "a-original.flac", dtype="float32")
    tokenizer = Tokenizer.load(URI)
    digits, margins = digits_and_margins(tokenizer, wav, rate)
    latents = tokenizer.latents(wav, rate)
    quantized = Fsq(tokenizer.config.fsq, 16)(torch.from_numpy(latents)[None])
    assert margins == pytest.approx(quantized.margin[0].tolist(), abs=1e-6)
    assert digits == ["".join(map(str, frame)) for frame in quantized.level_indices[0].T.tolist()]
    by_hand = np.arctanh(np.array([[0.0, 0.3, -0.45, 0.9, -0.7501]], np.float32))
    assert margins_of(by_hand, 4).ravel() == pytest.approx([0.0, 0.2, 0.05, 0.4, 0.2501], abs=1e-6)


def test_a_digit_on_the_border_is_held_to_nothing(sounds: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ship(sounds / "box", monkeypatch, CONFIGS["spectral"])
    tokenizer, files = Tokenizer.load(URI), sorted(sounds.glob("*.flac"))
    margins = np.sort(margins_of(tokenizer.latents(*soundfile.read(files[0], dtype="float32")), 4).ravel())
    monkeypatch.setattr(make_golden, "NARROW", (margins[2] + margins[3]) / 2)
    golden = golden_of(tokenizer, "standin", files[:1])
    (one,) = golden["utterances"]
    assert "".join(one["digits"]).count(HELD_BY_NOBODY) == 3
    assert golden["smallest_margin"] == pytest.approx(margins[3], abs=1e-7)
    monkeypatch.setattr(make_golden, "NARROW", 0.0)
    assert not differences(golden, tokenizer, sounds)  # whatever they are now
    frame, held = next((number, digits) for number, digits in enumerate(one["digits"]) if "?" in digits)
    dim = next(place for place, digit in enumerate(held) if digit != "?")
    one["digits"][frame] = held[:dim] + str((int(held[dim]) + 1) % 4) + held[dim + 1 :]
    (line,) = differences(golden, tokenizer, sounds)
    assert line.startswith(f"a-original.flac, frame {frame}: 1 of 16 digits differ, the first at dim {dim}; margin")
