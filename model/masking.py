"""Span masks for JEPA (PAPER section stage 1): spans of ``min_span`` .. T * ``max_span_fraction`` frames.

Deviation: the published loop counts overlapping spans twice and so masks less than it says. Here exactly
floor(mask_ratio * T) frames are masked; spans that would overshoot are cut short.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction

import torch
from jaxtyping import Bool
from torch import Tensor

from syllabary.model.config import JepaConfig


def num_masked(num_frames: int, config: JepaConfig) -> int:
    """floor(mask_ratio * num_frames), exact for the ratio as it is written in decimal."""
    return math.floor(Fraction(str(config.mask_ratio)) * num_frames)


def sample_mask(
    num_frames: Sequence[int], config: JepaConfig, generator: torch.Generator
) -> Bool[Tensor, "batch frames"]:
    """A mask per clip (True = to be predicted), padded with False to the longest clip.

    Args:
        num_frames: valid frames of each clip.
        config: ratio and span lengths.
        generator: a CPU generator; the same state gives the same masks.
    """
    mask = torch.zeros(len(num_frames), max(num_frames), dtype=torch.bool)
    for row, frames in zip(mask, num_frames, strict=True):
        _mask_clip(row[:frames], config, generator)
    return mask


def _mask_clip(row: Bool[Tensor, "frames"], config: JepaConfig, generator: torch.Generator) -> None:
    """Set spans of ``row`` until exactly the wanted number is True."""
    frames, wanted = len(row), num_masked(len(row), config)
    longest = max(config.min_span, math.floor(frames * config.max_span_fraction))
    while (missing := wanted - int(row.sum())) > 0:
        length = min(_draw(config.min_span, longest, generator), frames)
        start = _draw(0, frames - length, generator)
        free = (~row[start : start + length]).nonzero()[:missing, 0]
        row[start + free] = True


def _draw(low: int, high: int, generator: torch.Generator) -> int:
    """A whole number from low to high, both included."""
    return int(torch.randint(low, high + 1, (), generator=generator))
