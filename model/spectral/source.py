"""The source of the vocoder (beyond the paper): pulses at the decoded pitch, and noise; the vocoder shapes both.

    pitch -> cycles, a whole number of them in each frame -> sum over h of cos(2 pi h phase), of unit variance
    noise -> one frame of it, the same in every frame

Each frame begins at phase 0, which moves its pitch by at most half a cycle a frame (1.25 Hz at 2.5 frames/s). So a
sample depends on pitches near it alone, and chunks of a clip decode to what the whole clip decodes to; and nothing is
drawn, so tokens decode to the same samples every time.

Phases are computed in double precision: a frame has up to 190 cycles, and its harmonics turn many times as often.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from syllabary.model.layers import zero_invalid

NUM_SOURCE_CHANNELS = 4
_TOP_SHARE = 0.95  # of half the sample rate: how far up the harmonics reach


def source_channels(
    hertz: Float[Tensor, "batch positions"],
    mask: Bool[Tensor, "batch positions"] | None,
    positions_per_frame: int,
    samples_per_position: int,
    sample_rate: int,
) -> Float[Tensor, "batch 4 positions"]:
    """The inputs of a position that sounds by itself: phase at its start, cycles per sample at its two edges, and its
    place in the frame, counted from 1. All four are 0 where the mask is False.

    ``hertz``: the pitch at the middle of each position; between two of them it is their mean.
    """
    hertz = hertz.double()
    valid = torch.ones_like(hertz, dtype=torch.bool) if mask is None else mask
    mean = (hertz[:, 1:] + hertz[:, :-1]) / 2
    has_next = valid[:, 1:]
    right = torch.cat([torch.where(has_next, mean, hertz[:, :-1]), hertz[:, -1:]], dim=1)
    left = torch.cat([hertz[:, :1], mean], dim=1)
    framed = (-1, positions_per_frame)
    edges = torch.stack([left, right], dim=1).unflatten(2, framed) / sample_rate
    cycles = edges.mean(dim=1) * samples_per_position
    total = cycles.sum(dim=2, keepdim=True)
    stretch = total.round() / total
    edges, cycles = edges * stretch[:, None], cycles * stretch
    begins = cycles.cumsum(dim=2) - cycles
    place = torch.arange(1, positions_per_frame + 1, device=hertz.device, dtype=hertz.dtype).expand_as(begins)
    channels = torch.stack([begins - begins.floor(), edges[:, 0], edges[:, 1], place], dim=1).flatten(2)
    return zero_invalid(channels.float(), mask)


class Source(nn.Module):
    """Pulses and noise for the vocoder, both of about unit variance."""

    noise: Tensor

    def __init__(self, positions_per_frame: int, samples_per_position: int) -> None:
        super().__init__()
        self.samples_per_position = samples_per_position
        still = torch.zeros(1, samples_per_position)
        noise = torch.tensor(_white(positions_per_frame * samples_per_position)).unflatten(
            0, (-1, samples_per_position)
        )
        self.register_buffer("noise", torch.cat([still, noise]), persistent=False)

    def forward(
        self, channels: Float[Tensor, "batch 4 positions"]
    ) -> tuple[Float[Tensor, "batch samples"], Float[Tensor, "batch samples"]]:
        """Pulses and noise of positions as ``source_channels`` describes them."""
        begins, left, right, place = (c[..., None] for c in channels.unbind(dim=1))
        k = self.samples_per_position
        at = torch.arange(k, device=channels.device, dtype=torch.float64)
        phase = begins + at * left + at.square() * (right - left) / (2 * k)
        harmonics = (_TOP_SHARE / 2 / torch.maximum(left, right).clamp(min=1e-6)).floor()
        pulses = torch.where(place > 0, self.pulses((phase - phase.round()).float(), harmonics), 0.0)
        return pulses.flatten(1), self.noise[place[..., 0].long()].flatten(1)

    def pulses(
        self, phase: Float[Tensor, "batch positions k"], harmonics: Float[Tensor, "batch positions 1"]
    ) -> Tensor:
        """The sum of so many cosines, by Dirichlet's formula, over its standard deviation."""
        half = math.pi * phase
        below = self.sine(half)
        is_peak = below.abs() < 1e-4
        total = self.sine((2 * harmonics + 1) * half) / (2 * below.masked_fill(is_peak, 1.0)) - 0.5
        return torch.where(is_peak, harmonics, total) * (2 / harmonics.clamp(min=1)).sqrt()

    @staticmethod
    def sine(angle: Tensor) -> Tensor:
        """Of angles far from 0, too."""
        return angle.sin()


def _white(count: int) -> list[float]:
    """Noise of unit variance that no library's version changes: a linear congruential generator's upper bits."""
    state, values = 1, []
    for _ in range(count):
        state = (1664525 * state + 1013904223) % 2**32
        values.append(math.sqrt(12) * ((state >> 8) / 2**24 - 0.5))
    return values
