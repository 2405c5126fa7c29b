"""Tokens say what is said, not how loud nor how long the silence after it is."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from syllabary.workers.tokenizer.tokenizer import Tokenizer
from tests.helpers.small_models import HOP, RATE, small_tokenizer
from tests.helpers.speech_like import speech_like

FIRM = 2e-4  # of the tanh range: nearer to an edge, rounding may put a digit on its other side
KINDS = ["waveform", "spectral"]


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tokenizer]:
    return {kind: small_tokenizer(kind, tmp_path_factory.mktemp(kind)) for kind in KINDS}


def clip(number: int = 0, frames: int = 9) -> np.ndarray:
    return speech_like(number, frames * HOP / RATE, RATE)


def firm(latents: np.ndarray) -> np.ndarray:
    """Where no rounding can flip a digit: [dim, frames]."""
    return np.abs(np.tanh(latents)[..., None] - np.array([-0.5, 0.0, 0.5])).min(-1) > FIRM


def digits(tokenizer: Tokenizer, tokens: np.ndarray) -> np.ndarray:
    return np.asarray(tokenizer.packing.unpack(tokens)).T


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("factor", [0.1, 0.5, 1.7, 2.0])
def test_a_level_changes_no_token(tokenizers: dict[str, Tokenizer], kind: str, factor: float) -> None:
    tokenizer = tokenizers[kind]
    for number in range(3):
        wave = clip(number)
        assert np.abs(factor * wave).max() <= 1
        before, after = (tokenizer.encode(w, RATE) for w in (wave, (factor * wave).astype(np.float32)))
        sure = firm(tokenizer.latents(wave, RATE))
        assert sure.mean() > 0.99
        assert (digits(tokenizer, before.tokens) == digits(tokenizer, after.tokens))[sure].all()


@pytest.mark.parametrize("kind", KINDS)
def test_a_power_of_two_changes_no_bit(tokenizers: dict[str, Tokenizer], kind: str) -> None:
    """Halving is exact in floating point, and so is the gain that undoes it."""
    tokenizer, wave = tokenizers[kind], clip()
    assert np.array_equal(tokenizer.encode(wave, RATE).tokens, tokenizer.encode(wave / 4, RATE).tokens)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("zeros", [1, 17, HOP // 2])
def test_silence_up_to_the_end_of_the_last_frame_changes_no_bit(
    tokenizers: dict[str, Tokenizer], kind: str, zeros: int
) -> None:
    tokenizer, wave = tokenizers[kind], clip()[: 8 * HOP + HOP // 2]
    longer = np.concatenate([wave, np.zeros(zeros, np.float32)])
    before, after = (tokenizer.encode(w, RATE) for w in (wave, longer))
    assert np.array_equal(before.tokens, after.tokens) and len(before.tokens) == 9


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("frames", [1, 2])
def test_a_level_is_the_utterances_own_whatever_silence_follows(
    tokenizers: dict[str, Tokenizer], kind: str, frames: int
) -> None:
    """The gain is the same to the bit; how far the frames before the end hear the silence is the encoder's reach."""
    tokenizer, heard = tokenizers[kind], list[np.ndarray]()
    tokenizer._encoder.front_end.register_forward_pre_hook(lambda _, given: heard.append(given[0].numpy().copy()))
    wave = clip()
    tokenizer.encode(wave, RATE)
    tokenizer.encode(np.concatenate([wave, np.zeros(frames * HOP, np.float32)]), RATE)
    assert np.array_equal(heard[0][0], heard[1][0, : len(wave)])


def test_silence_and_whispers_below_what_is_heard_are_encoded_as_they_are(tmp_path: Path) -> None:
    tokenizer = small_tokenizer("spectral", tmp_path)
    silence = np.zeros(4 * HOP, np.float32)
    assert tokenizer.encode(silence, RATE).tokens.shape == tokenizer.encode(silence + 1e-6, RATE).tokens.shape


def test_decoded_speech_is_not_scaled_back(tmp_path: Path) -> None:
    """What a clip's level was is not told by its tokens: a whisper and a shout decode to the same sound."""
    tokenizer, wave = small_tokenizer("spectral", tmp_path), clip()
    quiet, loud = (tokenizer.encode(w, RATE) for w in (wave / 8, wave))
    assert np.array_equal(
        tokenizer.decode(quiet.tokens, len(wave), RATE), tokenizer.decode(loud.tokens, len(wave), RATE)
    )


@pytest.mark.parametrize("kind", KINDS)
def test_a_piece_of_a_recording_has_the_tokens_that_it_has_within(tokenizers: dict[str, Tokenizer], kind: str) -> None:
    """The first window of a recording that grows louder: alone it would be brought up by more than the whole is."""
    tokenizer = tokenizers[kind]
    window = tokenizer.framing.window_samples
    recording = np.concatenate([0.2 * speech_like(1, window / RATE, RATE), speech_like(2, window / RATE, RATE)])
    whole = tokenizer.encode(recording, RATE)
    piece = tokenizer.encode_piece(recording, slice(window), RATE)
    assert np.array_equal(piece.tokens, whole.tokens[: len(piece.tokens)]) and piece.num_samples == window
    if kind == "waveform":
        assert not np.array_equal(tokenizer.encode(recording[:window], RATE).tokens, piece.tokens)
