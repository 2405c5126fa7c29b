"""Samples and bytes: decode any audio to mono float32, encode 16-bit FLAC or WAV, change the sample rate.

Audio is mono everywhere behind this module: channels are averaged. A 16-bit mono recording passes decode and encode
without any change of its samples; deeper ones are rounded to 16 bits, without dither, so that equal input gives equal
bytes.
"""

from __future__ import annotations

import io
from typing import Literal

import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray

from syllabary.shards.errors import FormatError

Samples = NDArray[np.float32]
FULL_SCALE = 32768.0
RESAMPLING_QUALITY = "HQ"
DECODED = "decoded by syllabary"  # with what a file of a decoder's sound begins its comment
HEAD_BYTES = 4096  # of a file: its comment is among them
_MOST_SAMPLES_A_BYTE = 1 << 16  # a FLAC frame holds at most 65,535 samples, in over ten bytes


def decode(data: bytes) -> tuple[Samples, int]:
    """Samples float32 [num_samples] in -1..1 (mono) and the sample rate, of any format that libsndfile reads.

    Raises:
        FormatError: the bytes are not audio, or end before the length they promise.
    """
    try:
        with soundfile.SoundFile(io.BytesIO(data)) as audio:
            promised = audio.frames
            if promised > _MOST_SAMPLES_A_BYTE * len(data):  # FLAC that was streamed does not know: read as 2^63
                raise FormatError("audio promises more samples than its bytes can hold", value=promised)
            samples = to_mono(audio.read(dtype="float32", always_2d=True))
            rate = int(audio.samplerate)
    except soundfile.LibsndfileError as error:
        raise FormatError(f"not readable audio ({error.error_string})") from error
    if len(samples) != promised:
        raise FormatError("audio ends early", value=len(samples), expected=f"{promised} samples")
    return samples, rate


def to_mono(samples: Samples) -> Samples:
    """[num_samples, channels] to [num_samples]: the mean of the channels."""
    if samples.shape[1] == 1:
        return np.ascontiguousarray(samples[:, 0])
    mono: Samples = samples.mean(axis=1, dtype=np.float32)
    return mono


def to_int16(samples: Samples) -> NDArray[np.int16]:
    """Rounded to the nearest of 65,536 levels; what exceeds full scale is clipped."""
    scaled = np.rint(samples * np.float32(FULL_SCALE))
    return np.clip(scaled, -FULL_SCALE, FULL_SCALE - 1).astype(np.int16)


def encode_flac(samples: Samples, rate: int) -> bytes:
    """A 16-bit mono FLAC file of samples [num_samples]; see :func:`encode`."""
    return encode(samples, rate, "flac")


def encode(samples: Samples, rate: int, audio_format: Literal["flac", "wav"], comment: str = "") -> bytes:
    """A 16-bit mono file of samples [num_samples]; both formats hold the same numbers. Equal samples give equal bytes.

    ``comment`` stands in the file as its comment, where players and ``ffprobe`` show it.

    Raises:
        FormatError: a sample is not a finite number, or there is none.
    """
    if not len(samples) or not np.isfinite(samples).all():
        raise FormatError("samples cannot be stored", value=len(samples), expected="finite samples, one or more")
    buffer = io.BytesIO()
    with soundfile.SoundFile(buffer, "w", rate, 1, "PCM_16", format=audio_format.upper()) as file:
        if comment:
            file.comment = comment
        file.write(to_int16(samples))
    return buffer.getvalue()


def decoded_comment(encoder_digest: str, decoder_digest: str) -> str:
    """The comment of a file whose sound a tokenizer made from tokens: no new speech, whoever copies it where."""
    return f"{DECODED} from tokens, encoder {encoder_digest[:16]}, decoder {decoder_digest[:16]}"


def is_decoded(head: bytes) -> bool:
    """Whether the first bytes of a file have the comment of :func:`decoded_comment`."""
    return DECODED.encode() in head


def resampled_length(num_samples: int, from_rate: int, to_rate: int) -> int:
    """ceil(num_samples * to_rate / from_rate), in integers."""
    return -(-num_samples * to_rate // from_rate)


def resample(samples: Samples, from_rate: int, to_rate: int) -> Samples:
    """Samples [num_samples] at ``to_rate``: exactly ceil(num_samples * to_rate / from_rate) of them (soxr, HQ)."""
    if from_rate == to_rate:
        return samples
    length = resampled_length(len(samples), from_rate, to_rate)
    changed = soxr.resample(samples, from_rate, to_rate, quality=RESAMPLING_QUALITY)
    return fit_length(np.asarray(changed, dtype=np.float32), length)


def fit_length(samples: Samples, num_samples: int) -> Samples:
    """Cut, or pad with zeros, to ``num_samples``: soxr may give one sample more or less than asked for."""
    if len(samples) >= num_samples:
        return samples[:num_samples]
    return np.pad(samples, (0, num_samples - len(samples)))
