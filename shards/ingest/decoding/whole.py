"""A whole audio file as one waveform, held against what it promises, for who encodes a file without a corpus."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np

from syllabary.shards.audio import Samples, to_mono
from syllabary.shards.ingest.decoding.decoder import Decoder

_BLOCK = 1 << 18


class Whole(NamedTuple):
    """A file's samples float32 [num_samples] (mono: the mean of its channels), their rate, and what was mended."""

    samples: Samples
    rate: int
    notes: tuple[str, ...]


def decode_whole(path: Path) -> Whole:
    """Every sample of a file, by its content, every stream of it; nothing that a header says is a size of memory.

    Raises:
        RecordingError: not audio, damaged, or with another length than it promises where nothing proves the samples.
    """
    audio, num_decoded = _read(path, believing=True)
    if num_decoded != len(audio.samples):  # more than the header counts, and the MD5 says that they belong to it
        audio, _ = _read(path, believing=False)
    return audio


def _read(path: Path, *, believing: bool) -> tuple[Whole, int]:
    with Decoder(path, believing=believing) as decoder:
        blocks = []
        while len(block := decoder.read(_BLOCK)):
            blocks.append(to_mono(block))
        samples = np.concatenate(blocks) if blocks else np.zeros(0, np.float32)
        return Whole(samples, decoder.rate, tuple(decoder.notes)), decoder.num_decoded
