"""Samples and bytes."""

from __future__ import annotations

import io
from typing import Literal

import numpy as np
import pytest
import soundfile

from syllabary.shards.audio import (
    HEAD_BYTES,
    decode,
    decoded_comment,
    encode,
    encode_flac,
    is_decoded,
    resample,
    to_int16,
)
from syllabary.shards.errors import FormatError


def noise(num_samples: int, seed: int = 0) -> np.ndarray:
    return (np.random.default_rng(seed).standard_normal(num_samples) * 0.1).astype(np.float32)


@pytest.mark.parametrize("audio_format", ["flac", "wav"])
def test_a_comment_stands_at_the_beginning_of_a_file_and_changes_no_sample(
    audio_format: Literal["flac", "wav"],
) -> None:
    samples, comment = noise(50_000), decoded_comment("a" * 64, "b" * 64)
    plain, told = encode(samples, 16_000, audio_format), encode(samples, 16_000, audio_format, comment)
    assert np.array_equal(decode(plain)[0], decode(told)[0])
    assert is_decoded(told[:HEAD_BYTES]) and not is_decoded(plain)
    assert told == encode(samples, 16_000, audio_format, comment)
    buffer = io.BytesIO()
    soundfile.write(buffer, to_int16(samples), 16_000, format=audio_format, subtype="PCM_16")
    assert plain == buffer.getvalue(), "without a comment, the bytes of before"
    with soundfile.SoundFile(io.BytesIO(told)) as file:
        assert file.comment == "decoded by syllabary from tokens, encoder aaaaaaaaaaaaaaaa, decoder bbbbbbbbbbbbbbbb"


def test_sixteen_bit_samples_survive_exactly() -> None:
    levels = np.array([-32768, -32767, -1, 0, 1, 32766, 32767] * 100, dtype=np.int16)
    samples, rate = decode(encode_flac(levels.astype(np.float32) / 32768, 16_000))
    assert rate == 16_000
    assert samples.dtype == np.float32
    assert (samples * 32768 == levels).all()


@pytest.mark.parametrize("promised", [0, 2**36 - 1])  # the first is how FLAC says that it does not know
def test_a_length_that_cannot_be_is_refused_before_memory_is_asked_for(promised: int) -> None:
    flac = bytearray(encode_flac(noise(5000), 16_000))
    fields = int.from_bytes(flac[18:26], "big") >> 36 << 36  # rate, channels, bits; then the number of samples
    flac[18:26] = (fields | promised).to_bytes(8, "big")
    with pytest.raises(FormatError, match="audio promises more samples than its bytes can hold"):
        decode(bytes(flac))


def test_encoding_is_deterministic_and_clips() -> None:
    samples = noise(5000) * 20
    assert encode_flac(samples, 16_000) == encode_flac(samples.copy(), 16_000)
    decoded, _ = decode(encode_flac(samples, 16_000))
    assert decoded.max() == 32767 / 32768
    assert decoded.min() == -1


def test_channels_are_averaged() -> None:
    left, right = noise(1000, 1), noise(1000, 2)
    buffer = io.BytesIO()
    soundfile.write(buffer, np.stack([left, right], 1), 8000, format="WAV", subtype="FLOAT")
    samples, _ = decode(buffer.getvalue())
    assert np.allclose(samples, (left + right) / 2, atol=1e-6)


@pytest.mark.parametrize(("from_rate", "to_rate"), [(44_100, 16_000), (16_000, 24_000), (8000, 8000), (22_050, 16_000)])
@pytest.mark.parametrize("num_samples", [1, 2, 441, 10_001])
def test_resampled_length_is_exact(num_samples: int, from_rate: int, to_rate: int) -> None:
    changed = resample(noise(num_samples), from_rate, to_rate)
    assert len(changed) == -(-num_samples * to_rate // from_rate)
    assert changed.dtype == np.float32


def test_resampling_keeps_a_tone() -> None:
    time = np.arange(44_100) / 44_100
    changed = resample(np.sin(2 * np.pi * 1000 * time).astype(np.float32), 44_100, 16_000)
    expected = np.sin(2 * np.pi * 1000 * np.arange(16_000) / 16_000)
    assert np.abs(changed - expected)[500:-500].max() < 1e-3


@pytest.mark.parametrize("data", [b"", b"fLaC", b"this is text, not audio" * 20])
def test_not_audio_is_refused(data: bytes) -> None:
    with pytest.raises(FormatError, match="not readable audio"):
        decode(data)


def test_truncated_flac_is_refused() -> None:
    data = encode_flac(noise(50_000), 16_000)
    with pytest.raises(FormatError):
        decode(data[: len(data) // 2])


def test_samples_that_are_not_numbers_are_refused() -> None:
    with pytest.raises(FormatError, match="cannot be stored"):
        encode_flac(np.array([0, np.nan], dtype=np.float32), 16_000)
