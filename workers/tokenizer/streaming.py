"""Decoding as tokens come: chunk by chunk, each with the frames on either side that its samples depend on.

This is how everything is decoded, a whole utterance too, so that memory is bounded and a stream is the same sound.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import soxr
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from syllabary.model.codec import AnyGenerator
from syllabary.model.cpu.accelerate import FusedGenerator
from syllabary.shards.audio import RESAMPLING_QUALITY

Values = Float[Tensor, "1 dim frames"]


def decoded_chunks(
    pieces: Iterable[Values], generator: AnyGenerator | FusedGenerator, chunk_frames: int
) -> Iterator[Float[Tensor, "samples"]]:
    """The waveform of values that come in pieces of any number of frames, ``chunk_frames`` at a time.

    A chunk is computed as soon as the ``generator.context_frames`` frames behind it are there, with as many before it:
    as far as a sample depends on, so that chunks join without a seam. DAAM gates in a generator see a whole chunk; such
    chunks are faded into one another over one frame.
    """
    hop, context = generator.hop_length, generator.context_frames
    fade = 0 if generator.is_local else hop
    source, base, start = iter(pieces), 0, 0
    held: Tensor | None = None
    faded_from = torch.zeros(0)
    while True:
        held = _filled(held, source, start + chunk_frames + context - base)
        if held is None or start >= base + held.shape[-1]:
            return
        received = base + held.shape[-1]
        keep_stop, first = min(start + chunk_frames, received), max(0, start - context)
        part = held[..., first - base : min(start + chunk_frames + context, received) - base].contiguous()
        waveform = generator(part, torch.tensor([part.shape[-1] * hop]))[0].cpu()
        chunk = waveform[(start - first) * hop : (keep_stop - first) * hop].clone()
        if fade and start:
            _fade_in(chunk[:fade], faded_from, chunk[:fade].clone())
        faded_from = waveform[(keep_stop - first) * hop :][:fade]
        yield chunk
        start = keep_stop
        dropped = max(0, start - context - base)
        held, base = held[..., dropped:].clone(), base + dropped


def _filled(held: Tensor | None, source: Iterator[Tensor], wanted: int) -> Tensor | None:
    """``held`` with pieces of the source behind it, until there are as many frames as wanted or no more come."""
    parts = [] if held is None else [held]
    count = sum(part.shape[-1] for part in parts)
    while count < wanted and (piece := next(source, None)) is not None:
        parts.append(piece)
        count += piece.shape[-1]
    return torch.cat(parts, dim=-1) if parts else None


def _fade_in(out: Float[Tensor, "samples"], old: Float[Tensor, "samples"], new: Float[Tensor, "samples"]) -> None:
    """Fill ``out`` with a linear fade from ``old`` to ``new``; all of one length."""
    share = torch.linspace(0, 1, len(out))
    out.copy_(old[: len(out)] * (1 - share) + new[: len(out)] * share)


def resampled_chunks(
    chunks: Iterable[NDArray[np.float32]], from_rate: int, to_rate: int
) -> Iterator[NDArray[np.float32]]:
    """The chunks of a waveform at another rate, as ``syllabary.shards.audio.resample`` makes them of the whole."""
    if from_rate == to_rate:
        yield from chunks
        return
    stream = soxr.ResampleStream(from_rate, to_rate, 1, dtype="float32", quality=RESAMPLING_QUALITY)
    for chunk in chunks:
        yield stream.resample_chunk(chunk)
    yield stream.resample_chunk(np.zeros(0, np.float32), last=True)


def cut_to(chunks: Iterable[NDArray[np.float32]], num_samples: int | None) -> Iterator[NDArray[np.float32]]:
    """Chunks until there are ``num_samples`` (None for all); what is missing then is zeros, as soxr may give one less.

    All chunks are asked for, so that whoever makes them comes to an end.
    """
    given = 0
    for chunk in chunks:
        kept = chunk if num_samples is None else chunk[: max(0, num_samples - given)]
        given += len(kept)
        if len(kept):
            yield kept
    if num_samples is not None and given < num_samples:
        yield np.zeros(num_samples - given, np.float32)
