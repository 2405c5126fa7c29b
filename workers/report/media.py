"""Sounds and spectrograms of the report page, as data URIs: lossless audio of exact length, pictures of few bytes."""

from __future__ import annotations

import base64
import io
import itertools
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from syllabary.shards.audio import Samples

WINDOW_S = 0.032
HIGHEST_HZ = 8000
RANGE_DB = 50.0
COLUMNS, ROWS, SHADES = 480, 88, 16


def data_uri(media_type: str, data: bytes) -> str:
    """``data`` as a URI that needs no file and no network."""
    return f"data:{media_type};base64,{base64.b64encode(data).decode()}"


def level_of(samples: Samples, rate: int) -> float:
    """The level in dB that one cell in 200 exceeds: what the pictures of one utterance share as their darkest shade."""
    return float(np.quantile(_decibels(samples, rate), 0.995))


def spectrogram_uri(samples: Samples, rate: int, loudest_db: float) -> str:
    """The picture of :func:`spectrogram_png`, for a page that needs no network."""
    return data_uri("image/png", spectrogram_png(samples, rate, loudest_db))


def spectrogram_png(samples: Samples, rate: int, loudest_db: float) -> bytes:
    """A spectrogram PNG of ``COLUMNS`` x ``ROWS``, 0 to 8 kHz: ink whose opacity is the level, on nothing.

    The page shows through, so one picture does for light and dark. ``loudest_db`` is opaque and ``RANGE_DB`` below it
    is clear; what lies above ``rate / 2`` is empty.

    Args:
        samples: [num_samples].
        rate: in Hz.
        loudest_db: from :func:`level_of` of the original, so that systems compare.
    """
    shade = np.clip(1 + (_decibels(samples, rate) - loudest_db) / RANGE_DB, 0, 1)
    picture = Image.fromarray(np.rint(shade[::-1] * (SHADES - 1)).astype(np.uint8), mode="P")
    picture.putpalette([24, 26, 30] * SHADES)
    opacity = bytes(round(255 * step / (SHADES - 1)) for step in range(SHADES))
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG", bits=4, transparency=opacity, compress_level=9)
    return buffer.getvalue()


def _decibels(samples: Samples, rate: int) -> NDArray[np.float64]:
    """Mean power of the cells [ROWS, COLUMNS], lowest frequency first, in dB, with the usual pre-emphasis of speech:
    6 dB an octave, without which everything above 3 kHz would be too pale to see."""
    size = round(WINDOW_S * rate)
    padded = np.pad(np.diff(samples.astype(np.float64), prepend=0.0), size // 2)
    centres = np.linspace(0, len(padded) - size, COLUMNS).round().astype(int)
    frames = np.lib.stride_tricks.sliding_window_view(padded, size)[centres] * np.hanning(size)
    power = np.abs(np.fft.rfft(frames)) ** 2
    edges = np.linspace(0, HIGHEST_HZ * size / rate, ROWS + 1)
    cells = np.zeros((ROWS, COLUMNS))
    for row, (low, high) in enumerate(itertools.pairwise(edges)):
        bins = power[:, int(low) : max(int(high), int(low) + 1)]
        if bins.shape[1]:
            cells[row] = bins.mean(axis=1)
    return 10 * np.log10(cells + 1e-10)


def salience_points(salience: Sequence[float], frame_s: float, duration_s: float) -> str:
    """The salience [num_frames], 0..1, as an SVG polyline in a box of 1000 x 100: one step per frame.

    Frames after ``duration_s`` are left out.
    """
    points = []
    for frame, value in enumerate(salience):
        if frame * frame_s >= duration_s:
            break
        for edge in (frame, frame + 1):
            points.append(f"{min(edge * frame_s / duration_s, 1) * 1000:.1f},{100 * (1 - value):.1f}")
    return " ".join(points)
