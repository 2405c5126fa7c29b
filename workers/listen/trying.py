"""Somebody's own speech, recorded or dropped onto the page: decoded, tokenized, kept as long as it is looked at.

Nothing is kept on disk: a temporary file of bounded size holds the upload while it is decoded.
"""

from __future__ import annotations

import secrets
import tempfile
import threading
from collections import OrderedDict
from concurrent.futures import Executor
from dataclasses import replace
from pathlib import Path

import numpy as np

from syllabary.shards import audio
from syllabary.shards.archive.parts import ArchiveFormat
from syllabary.shards.errors import FormatError, InputError, NotFoundError
from syllabary.shards.ingest.decoding.decoder import Decoder
from syllabary.shards.ingest.recordings import RecordingError
from syllabary.workers.listen.catalogue import SHARD, Row
from syllabary.workers.listen.clips import Clip
from syllabary.workers.listen.takes import ORIGINAL, RESTORED
from syllabary.workers.tokenizer.tokenizer import Tokenizer

MOST_BYTES = 32 << 20
MOST_S = 120.0
_MOST_CHANNELS = 8
_KEPT = 4
_BLOCK = 1 << 16


class Tries:
    """The last few tries, in memory alone; the tokenizer works in the one warm ``thread``."""

    def __init__(self, tokenizer: Tokenizer, form: ArchiveFormat, thread: Executor) -> None:
        self._thread = thread
        self._tokenizer, self._form = tokenizer, replace(form, packing=tokenizer.packing)
        self._clips = OrderedDict[str, Clip]()
        self._lock = threading.Lock()

    def add(self, data: bytes, name: str) -> str:
        """Tokenize a file; returns the key that :meth:`clip` knows it by.

        Raises:
            FormatError: not audio, or damaged.
            InputError: too long, too large, or no speech that a tokenizer takes.
        """
        clip = self._thread.submit(self._clip, *decoded(data), name).result()
        key = secrets.token_urlsafe(9)
        with self._lock:
            self._clips[key] = clip
            while len(self._clips) > _KEPT:
                self._clips.popitem(last=False)
        return key

    def clip(self, key: str) -> Clip:
        """A try. Raises NotFoundError: forgotten since, or never made."""
        with self._lock:
            if key not in self._clips:
                raise NotFoundError("this recording is forgotten by now", fix="record it or drop it again")
            return self._clips[key]

    def _clip(self, samples: audio.Samples, rate: int, name: str) -> Clip:
        encoded = self._tokenizer.encode(samples, rate)
        sound = audio.to_int16(self._tokenizer.decode(encoded.tokens, len(samples), rate))
        spoken = audio.to_int16(samples)
        row: Row = {
            "utterance_id": name, "start_sample": 0, "num_samples": len(samples), "sample_rate": rate,
            "num_frames": len(encoded.tokens), "tokens": encoded.tokens.reshape(-1).tolist(),
            "salience": encoded.salience.tolist(), SHARD: "",
        }  # fmt: skip
        takes = {RESTORED: lambda _: sound, ORIGINAL: lambda _: spoken}
        return Clip(name, [row], 0, len(samples), rate, self._form, takes)


def decoded(data: bytes) -> tuple[audio.Samples, int]:
    """Samples and rate of an uploaded file, mono.

    Raises:
        FormatError: not audio, or damaged.
        InputError: above ``MOST_S`` seconds or ``MOST_BYTES``.
    """
    if len(data) > MOST_BYTES:
        raise InputError("too large to try", value=len(data), expected=f"at most {MOST_BYTES >> 20} MiB")
    with tempfile.NamedTemporaryFile(prefix="syllabary-listen-") as file:
        file.write(data)
        file.flush()
        try:
            return _whole(Path(file.name))
        except RecordingError as error:
            fix = "WAV, FLAC, MP3, Ogg Vorbis and Opus are read"
            raise FormatError(f"this file cannot be heard: {error}", fix=fix) from error


def _whole(path: Path) -> tuple[audio.Samples, int]:
    """Every sample, those behind the end that a header claims too."""
    with Decoder(path) as decoder:
        samples = _read(decoder)
        if decoder.num_decoded == len(samples):
            return samples, decoder.rate
    with Decoder(path, believing=False) as decoder:
        return _read(decoder), decoder.rate


def _read(decoder: Decoder) -> audio.Samples:
    """To the end, or to where it is too long."""
    if decoder.channels > _MOST_CHANNELS:
        raise InputError("channels", value=decoder.channels, expected=f"at most {_MOST_CHANNELS}")
    blocks, left = list[audio.Samples](), int(MOST_S * decoder.rate)
    while len(block := decoder.read(_BLOCK)):
        blocks.append(audio.to_mono(block))
        left -= len(block)
        if left < 0:
            raise InputError("too long to try", expected=f"at most {MOST_S:.0f} s", fix="use `syllabary encode`")
    if not blocks:
        raise FormatError("this file cannot be heard: it holds no samples")
    return np.concatenate(blocks)
