"""Token and bit rates of a configuration, derived in one place. Free of torch."""

from __future__ import annotations

import math
from dataclasses import dataclass

from syllabary.model.config import ModelConfig
from syllabary.shards.archive.packing import Packing


@dataclass(frozen=True)
class Rates:
    """Rates of a tokenizer.

    Attributes:
        num_groups: tokens per frame.
        tokens_per_s: tokens per second.
        vocabulary: ids of a full token, levels ** group_size.
        payload_bits_per_s: information at most, log2(levels) bits per dim.
        nominal_bits_per_s: as if every token had the full vocabulary.
        stored_bits_per_s: as uint16.
    """

    num_groups: int
    tokens_per_s: float
    vocabulary: int
    payload_bits_per_s: float
    nominal_bits_per_s: float
    stored_bits_per_s: float


def packing_of(config: ModelConfig) -> Packing:
    """The packing of the configuration's level indices into tokens."""
    fsq = config.fsq
    return Packing(config.encoder.latent_dim, fsq.levels, fsq.group_size, fsq.digit_order)


def rates_of(config: ModelConfig) -> Rates:
    """All rates of a configuration."""
    packing, frame_rate = packing_of(config), config.framing.frame_rate
    tokens_per_s = float(packing.num_groups * frame_rate)
    return Rates(
        num_groups=packing.num_groups,
        tokens_per_s=tokens_per_s,
        vocabulary=packing.vocabulary,
        payload_bits_per_s=float(config.encoder.latent_dim * frame_rate) * math.log2(config.fsq.levels),
        nominal_bits_per_s=tokens_per_s * math.log2(packing.vocabulary),
        stored_bits_per_s=tokens_per_s * 16,
    )
