"""Decoding as tokens come: the same samples as decoding the whole, and no more held than is needed."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from syllabary import Tokenizer
from syllabary.shards.errors import InputError
from syllabary.workers.tokenizer.networks import decoded_chunks
from tests.helpers.small_models import CONFIGS, HOP, RATE, small_tokenizer
from tests.helpers.speech_like import speech_like

SOUNDS = Path(__file__).parents[3] / "docs" / "sounds"
SECONDS = 7.3  # several windows of 1.2 s, the last of them short


@pytest.fixture(scope="module", params=sorted(CONFIGS))
def tokenizer(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    folder = tmp_path_factory.mktemp("small")
    return small_tokenizer(request.param, folder)


def frame_by_frame(tokens: np.ndarray) -> Iterator[np.ndarray]:
    for at in range(len(tokens)):
        yield tokens[at : at + 1]


def test_a_stream_is_the_whole_bit_for_bit(tokenizer: Tokenizer) -> None:
    wav = speech_like(0, SECONDS, RATE)
    encoded = tokenizer.encode(wav, RATE)
    whole = tokenizer.decode(encoded.tokens, len(wav), RATE)
    for tokens in (encoded.tokens, frame_by_frame(encoded.tokens), iter([encoded.tokens[:5], encoded.tokens[5:]])):
        chunks = list(tokenizer.decode_stream(tokens, len(wav), RATE))
        assert np.array_equal(np.concatenate(chunks), whole)
        assert max(map(len, chunks)) <= tokenizer.framing.window_samples and len(chunks) > 4


@pytest.mark.parametrize("chunk_frames", [1, 3, 11])
def test_chunks_of_any_size_are_the_whole_to_rounding(tokenizer: Tokenizer, chunk_frames: int) -> None:
    if not tokenizer._generator.is_local:  # type: ignore[union-attr]
        pytest.skip("a gate sees its chunk: chunks of another size sound otherwise")
    wav = speech_like(1, SECONDS, RATE)
    encoded = tokenizer.encode(wav, RATE)
    whole = tokenizer.decode(encoded.tokens, len(wav), RATE)
    chunks = list(tokenizer.decode_stream(encoded.tokens, len(wav), RATE, chunk_frames=chunk_frames))
    np.testing.assert_allclose(np.concatenate(chunks), whole, atol=2e-4)  # a pulse's peak is where rounding shows
    assert {len(chunk) for chunk in chunks[:-1]} <= {chunk_frames * HOP}


@pytest.mark.parametrize("rate", [8_000, 1_600])
def test_a_stream_at_another_rate_is_the_whole_resampled(tokenizer: Tokenizer, rate: int) -> None:
    length = int(SECONDS * rate) + 1
    encoded = tokenizer.encode(speech_like(2, SECONDS, rate)[: length - 1], rate)
    whole = tokenizer.decode(encoded.tokens, encoded.num_samples, rate)
    streamed = np.concatenate(list(tokenizer.decode_stream(encoded.tokens, encoded.num_samples, rate)))
    assert len(streamed) == len(whole)
    np.testing.assert_allclose(streamed, whole, atol=1e-4)


def test_sound_comes_once_the_context_is_there_and_no_more_is_asked_for(tokenizer: Tokenizer) -> None:
    asked = 0
    encoded = tokenizer.encode(speech_like(3, SECONDS, RATE), RATE)

    def counted() -> Iterator[np.ndarray]:
        nonlocal asked
        for frame in frame_by_frame(encoded.tokens):
            asked += 1
            yield frame

    stream = tokenizer.decode_stream(counted(), chunk_frames=2)
    assert asked == 0
    for number in range(1, 4):
        next(stream)
        assert asked == min(2 * number + tokenizer.context_frames, len(encoded.tokens))


class _Holding:
    """A generator of two samples a frame, with three frames of context on either side."""

    hop_length, context_frames, is_local = 2, 3, True

    def __call__(self, values: torch.Tensor, num_samples: torch.Tensor) -> torch.Tensor:
        return values[:, 0].repeat_interleave(2, dim=1)


def _num_held() -> int:
    """Frames that live, of all tensors that have the dims of the test below."""
    gc.collect()
    return sum(one.shape[2] for one in gc.get_objects() if type(one) is torch.Tensor and one.shape[:2] == (1, 31))


def test_no_more_is_held_at_the_end_of_a_long_stream_than_at_its_beginning() -> None:
    """A chunk of five frames with its context: what was computed of last, and what it was taken from."""
    pieces = (torch.full((1, 31, 1), float(number)) for number in range(200))
    sound, held = [], []
    for chunk in decoded_chunks(pieces, _Holding(), 5):  # type: ignore[arg-type]
        sound += chunk.tolist()
        held.append(_num_held())
    assert sound == [float(number) for number in range(200) for _ in range(2)]
    assert len(held) == 40 and max(held) <= 2 * (3 + 5 + 3) and held[2:-1] == [held[2]] * 37


def test_without_a_length_whole_frames_come(tokenizer: Tokenizer) -> None:
    encoded = tokenizer.encode(speech_like(4, 1.0, RATE), RATE)
    assert sum(map(len, tokenizer.decode_stream(encoded.tokens))) == len(encoded.tokens) * HOP


def test_wrong_input_is_refused_where_it_is_seen(tokenizer: Tokenizer) -> None:
    encoded = tokenizer.encode(speech_like(5, 1.0, RATE), RATE)
    assert list(tokenizer.decode_stream([])) == []
    with pytest.raises(InputError, match=r"frames of 5 samples .*: 0; expected 1"):
        list(tokenizer.decode_stream([], 5))
    with pytest.raises(InputError, match="chunk_frames: 0"):
        tokenizer.decode_stream(encoded.tokens, chunk_frames=0)
    with pytest.raises(InputError, match="chunk_frames: 21; expected at most the model's window, 20"):
        tokenizer.decode_stream(encoded.tokens, chunk_frames=21)
    with pytest.raises(InputError, match="sample_rate"):
        tokenizer.decode_stream(encoded.tokens, sample_rate=3)
    with pytest.raises(InputError, match=f"frames of {len(encoded.tokens) * HOP + 1} samples"):
        list(tokenizer.decode_stream(encoded.tokens, len(encoded.tokens) * HOP + 1, RATE))
    with pytest.raises(InputError, match="do not fit"):
        list(tokenizer.decode_stream(np.full_like(encoded.tokens, 65_535)))


def test_real_speech_streams_as_it_decodes() -> None:
    """The shipped decoder's pulses and noise go on across chunks: joins of any size are where the whole has none."""
    tokenizer = Tokenizer.from_pretrained("speech16k")
    wav, rate = soundfile.read(SOUNDS / "1-6367-original.flac", dtype="float32")
    encoded = tokenizer.encode(wav, rate)
    whole = tokenizer.decode(encoded.tokens, len(wav), rate)
    assert np.array_equal(np.concatenate(list(tokenizer.decode_stream(encoded.tokens, len(wav), rate))), whole)
    streamed = np.concatenate(list(tokenizer.decode_stream(encoded.tokens, len(wav), rate, chunk_frames=6)))
    np.testing.assert_allclose(streamed, whole, atol=1e-4)
