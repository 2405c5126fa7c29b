"""Detect speech for sources without voice activity: WebRTC's detector over the whole recording, in bounded memory."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import webrtcvad
from numpy.typing import NDArray

from syllabary.shards.audio import to_int16
from syllabary.shards.ingest.decoding.decoder import Decoder
from syllabary.shards.ingest.streams import WHOLE, Reading, SampleStream

_FRAME_S = 0.03
_SMOOTHING_FRAMES = 9  # a frame is speech when most of the 270 ms around it are
_MARGIN_FRAMES = 3  # kept before and after, for soft beginnings and ends
_CHUNK_FRAMES = 1000


def detect_speech(path: Path, aggressiveness: int, reading: Reading = WHOLE) -> list[tuple[float, float]]:
    """(onset, offset) in seconds of each stretch of speech, in order and disjoint.

    Raises:
        RecordingError: the recording cannot be decoded.
    """
    with Decoder(path) as probe:
        rate = 16_000 if probe.rate >= 16_000 else 8000  # the detector knows few rates
    with SampleStream(path, reading, rate=rate) as stream:
        voiced = _voiced_frames(stream, webrtcvad.Vad(aggressiveness))
        duration_s = stream.num_samples / rate
    return _intervals(_smooth(voiced), duration_s)


def _voiced_frames(stream: SampleStream, detector: webrtcvad.Vad) -> NDArray[np.bool_]:
    size = round(_FRAME_S * stream.rate)
    count = stream.num_samples // size
    voiced = np.zeros(count, dtype=bool)
    for first in range(0, count, _CHUNK_FRAMES):
        last = min(count, first + _CHUNK_FRAMES)
        chunk = to_int16(stream.read(first * size, last * size)).tobytes()
        for frame in range(last - first):
            data = chunk[2 * size * frame : 2 * size * (frame + 1)]
            voiced[first + frame] = detector.is_speech(data, stream.rate)
    return voiced


def _smooth(voiced: NDArray[np.bool_]) -> NDArray[np.bool_]:
    if not len(voiced):
        return voiced
    around = np.convolve(voiced, np.ones(_SMOOTHING_FRAMES), mode="full")[_SMOOTHING_FRAMES // 2 :][: len(voiced)]
    speech = around > _SMOOTHING_FRAMES / 2
    widened = np.convolve(speech, np.ones(2 * _MARGIN_FRAMES + 1), mode="full")[_MARGIN_FRAMES:][: len(voiced)]
    return np.asarray(widened > 0)


def _intervals(speech: NDArray[np.bool_], duration_s: float) -> list[tuple[float, float]]:
    edges = np.flatnonzero(np.diff(np.concatenate([[0], speech.astype(np.int8), [0]])))
    pairs = zip(edges[::2], edges[1::2], strict=True)
    return [(float(a) * _FRAME_S, min(float(b) * _FRAME_S, duration_s)) for a, b in pairs]
