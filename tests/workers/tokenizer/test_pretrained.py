"""Tokenizers by name, folder or URI, and back into a folder as model hubs lay them out."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
import yaml

from syllabary import Tokenizer
from syllabary.shards.errors import ConflictError, DamageError, InputError, NotFoundError
from tests.helpers.small_models import CONFIGS, RATE, small_tokenizer
from tests.helpers.speech_like import speech_like
from tests.helpers.standin import NAME, URI, ship


def test_a_builtin_a_folder_and_a_uri_are_all_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = ship(tmp_path / "box", monkeypatch, CONFIGS["spectral"])
    digests = {Tokenizer.from_pretrained(name).encoder_digest for name in (NAME, URI, folder, str(folder))}
    assert digests == {Tokenizer.load(URI).encoder_digest}
    assert Tokenizer.from_pretrained(NAME, decoder=False).context_frames == 0
    with pytest.raises(NotFoundError):
        Tokenizer.from_pretrained("no-such-tokenizer")


def test_what_is_saved_is_the_same_tokenizer_with_a_card_that_a_hub_reads(tmp_path: Path) -> None:
    tokenizer = small_tokenizer("spectral", tmp_path / "one")
    tokenizer.save_pretrained(tmp_path / "two")
    tokenizer.save_pretrained(tmp_path / "two")  # again: the same bytes
    names = {path.name for path in (tmp_path / "two").iterdir()}
    assert names == {"config.json", "encoder.safetensors", "decoder.safetensors", "README.md"}
    assert json.loads((tmp_path / "two" / "config.json").read_text())["kind"] == "tokenizer"
    assert safetensors.numpy.load_file(tmp_path / "two" / "encoder.safetensors")
    _, front, card = (tmp_path / "two" / "README.md").read_text().split("---\n", 2)
    assert yaml.safe_load(front)["library_name"] == "syllabary"
    assert card.strip() == (tmp_path / "one" / "README.md").read_text().strip()
    again = Tokenizer.from_pretrained(tmp_path / "two")
    assert again.digests == tokenizer.digests
    wav = speech_like(0, 2.0, RATE)
    encoded, expected = again.encode(wav, RATE), tokenizer.encode(wav, RATE)
    assert np.array_equal(encoded.tokens, expected.tokens)
    sounds = [one.decode(encoded.tokens, len(wav), RATE) for one in (again, tokenizer)]
    assert np.array_equal(*sounds)
    again.save_pretrained(tmp_path / "three")  # a card that has its fields keeps them once
    assert (tmp_path / "three" / "README.md").read_bytes() == (tmp_path / "two" / "README.md").read_bytes()


def test_another_tokenizer_is_not_overwritten_and_a_changed_one_is_not_saved(tmp_path: Path) -> None:
    one, other = small_tokenizer("spectral", tmp_path / "one"), small_tokenizer("waveform", tmp_path / "other")
    with pytest.raises(ConflictError, match="another tokenizer"):
        one.save_pretrained(tmp_path / "other")
    (tmp_path / "project").mkdir()
    (tmp_path / "project" / "README.md").write_text("mine")
    with pytest.raises(ConflictError, match=r"another file is there already: .*README.md'; give another --out"):
        one.save_pretrained(tmp_path / "project")
    assert [path.read_text() for path in (tmp_path / "project").iterdir()] == ["mine"]
    weights = tmp_path / "one" / "decoder.safetensors"
    weights.write_bytes((tmp_path / "other" / "decoder.safetensors").read_bytes())
    with pytest.raises(DamageError):
        one.save_pretrained(tmp_path / "three")
    assert not (tmp_path / "three").exists()
    with pytest.raises(InputError, match="loaded whole"):
        Tokenizer.load(str(tmp_path / "other"), decoder=False).save_pretrained(tmp_path / "three")
    assert other.encoder_digest != one.encoder_digest
