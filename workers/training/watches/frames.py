"""Frames of held-out clips of one length, joined over all ranks, to compare clips at the same place.

An encoder may encode the distance to the end of a clip as well as to its start, where it sees the padding beyond:
between clips of different lengths that would pass for speech. So every clip that is long enough is cut to one length,
the longest that at least half of the clips reach, and encoded anew at it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from syllabary.model.encoder import EncodeOutput
from syllabary.model.layers import full_precision
from syllabary.model.measures.place import PlaceGroups, common_length, group_by_place, place_of
from syllabary.workers.training.data.clips import Batch
from syllabary.workers.training.engine import gather_from_ranks, rows_of_all_ranks

_NUM_BANDS, _FLOOR = 8, 1e-12
Encode = Callable[[Tensor, Tensor], EncodeOutput]


@dataclass(frozen=True)
class HeldOutFrames:
    """All frames of the clips of one length, of all ranks.

    Attributes:
        latents: float32 [rows, dim].
        bands_db: level of the speech itself in octave-like bands, in dB [rows, bands].
        groups: the rows by their place in the clip.
        num_clips: held-out clips that could be read, the shorter ones too.
        peak: largest sample of them, 0 to 1.
        precision_gap: how far the latents are from those in fp32, of their deviation (root of the mean square), on the
            first batch of each rank; None where they are those in fp32 or do not move.
    """

    latents: Tensor
    bands_db: Tensor
    groups: PlaceGroups
    num_clips: int
    peak: float
    precision_gap: float | None = None


@torch.no_grad()
def held_out_frames(
    encode: Encode, batches: Sequence[Batch], device: torch.device, hop_length: int, min_clips: int
) -> HeldOutFrames:
    """The frames of this rank's held-out clips joined with the other ranks'. Collective.

    Args:
        encode: of a waveform [batch, samples] and its numbers of valid samples.
        batches: this rank's held-out clips.
        device: of the encoder.
        hop_length: samples per frame.
        min_clips: how many clips must have a frame at a place for that place to count.
    """
    lengths = [n for batch in batches for n in _whole_frames(batch, hop_length)]
    everyone = [n for part in gather_from_ranks(lengths) for n in part]
    num_frames = common_length(everyone, min_clips)
    is_lowered = torch.is_autocast_enabled(device.type)
    latents, bands, places = [], [], []
    again: list[Tensor] = []  # in fp32
    for batch in (cut for batch in batches if (cut := _cut(batch, num_frames, hop_length)) is not None):
        encoded = encode(batch.waveform.to(device), batch.num_samples).latents
        latents.append(_rows(encoded))
        if is_lowered and not again:
            with full_precision(device):
                again.append(_rows(encode(batch.waveform.to(device), batch.num_samples).latents))
        bands.append(band_levels(batch.waveform, hop_length).flatten(0, 1))
        places.append(place_of(torch.ones(len(batch.slots), num_frames, dtype=torch.bool)))
    peaks = gather_from_ranks(max((float(batch.waveform.abs().max()) for batch in batches), default=0.0))
    groups = group_by_place(rows_of_all_ranks(places), min_clips)
    gap = _gap(rows_of_all_ranks(latents[:1]), rows_of_all_ranks(again)) if is_lowered else None
    return HeldOutFrames(rows_of_all_ranks(latents), rows_of_all_ranks(bands), groups, len(everyone), max(peaks), gap)


def _rows(latents: Tensor) -> Tensor:
    """Latents [batch, dim, frames] as rows [batch * frames, dim]."""
    return latents.transpose(1, 2).flatten(0, 1).float().cpu()


def _gap(lowered: Tensor, full: Tensor) -> float | None:
    """Root of the mean squared difference of two sets of rows, over the deviation of the second."""
    spread = float(full.var(dim=0, correction=0).mean())
    return (float((lowered - full).square().mean()) / spread) ** 0.5 if spread else None


def _whole_frames(batch: Batch, hop_length: int) -> list[int]:
    """Whole frames of each clip; one below a frame counts as one, with its padding."""
    return [max(1, n // hop_length) for n in batch.num_samples.tolist()]


def _cut(batch: Batch, num_frames: int, hop_length: int) -> Batch | None:
    """The clips of a batch that are long enough, cut to ``num_frames``; None when there is none."""
    rows = [row for row, n in enumerate(_whole_frames(batch, hop_length)) if n >= num_frames]
    if not rows:
        return None
    num_samples, slots = num_frames * hop_length, tuple(batch.slots[row] for row in rows)
    return Batch(batch.waveform[rows, :num_samples], torch.full((len(rows),), num_samples), slots)


def band_levels(waveform: Tensor, hop_length: int) -> Tensor:
    """Mean power of each whole frame of ``waveform`` [batch, samples] in bands, in dB [batch, frames, bands]."""
    frames = waveform.float().unfold(1, hop_length, hop_length)
    power = torch.fft.rfft(frames, dim=-1).abs().square() / hop_length**2
    bins = power.shape[-1]
    edges = sorted({min(bins, round(bins ** (k / _NUM_BANDS))) for k in range(_NUM_BANDS + 1)})
    bands = [power[..., low:high].mean(dim=-1) for low, high in pairwise(edges)]
    return 10 * (torch.stack(bands, dim=-1) + _FLOOR).log10()
