"""Rates and lengths: the one place where samples, frames and tokens are counted, in pure integers.

An utterance of ``num_samples`` has ``ceil(num_samples / hop_length)`` frames and is padded with zeros to a whole number
of frames, so every strided layer divides its length exactly. Deviation: the paper's odd strides lose and gain samples
(PAPER section stage 2); here decode gives back exactly ``num_samples``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction


@dataclass(frozen=True)
class Framing:
    """Lengths of one encoder.

    Attributes:
        sample_rate: samples a second.
        strides: of the successive layers; their product is the hop length.
        window_s: the longest clip the encoder is trained on, in seconds.
    """

    sample_rate: int
    strides: tuple[int, ...]
    window_s: float = 15.0

    @property
    def hop_length(self) -> int:
        """Samples a frame."""
        return math.prod(self.strides)

    @property
    def frame_rate(self) -> Fraction:
        """Frames a second, exact."""
        return Fraction(self.sample_rate, self.hop_length)

    @property
    def window_frames(self) -> int:
        """Whole frames in the window, at least one."""
        return max(1, math.floor(Fraction(str(self.window_s)) * self.frame_rate))

    @property
    def window_samples(self) -> int:
        """Samples in the window: a whole number of frames."""
        return self.window_frames * self.hop_length

    def num_frames(self, num_samples: int) -> int:
        """ceil(num_samples / hop_length).

        Raises:
            ValueError: num_samples is negative.
        """
        if num_samples < 0:
            raise ValueError(f"num_samples is {num_samples}; expected 0 or more")
        return -(-num_samples // self.hop_length)

    def padded_samples(self, num_samples: int) -> int:
        """num_samples rounded up to whole frames."""
        return self.num_frames(num_samples) * self.hop_length

    def stage_lengths(self, num_frames: int) -> tuple[int, ...]:
        """Length at the input and after each stride, from samples down to frames."""
        lengths = [num_frames * self.hop_length]
        for stride in self.strides:
            lengths.append(lengths[-1] // stride)
        return tuple(lengths)
