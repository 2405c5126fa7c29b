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
class Span:
    """Frames ``start`` .. ``stop`` are computed together, ``keep_start`` .. ``keep_stop`` of them are kept."""

    start: int
    stop: int
    keep_start: int
    keep_stop: int


@dataclass(frozen=True)
class Framing:
    """Lengths of one encoder.

    Attributes:
        sample_rate: samples per second.
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
        """Frames of the longest trained clip, padded to whole frames: 38 of 15 s at 2.5 frames per second."""
        return math.ceil(Fraction(str(self.window_s)) * self.frame_rate)

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

    def encode_windows(self, num_frames: int) -> tuple[Span, ...]:
        """The windows in which a clip is encoded; their kept frames cover it once, in order.

        A clip no longer than the trained window is one window. A longer one is cut every ``window_frames`` frames; its
        last window ends with the clip and reaches back to a full window, of which only the new frames are kept. So
        nothing longer than the trained window is ever encoded, and every frame has the context of a whole window.
        """
        window = self.window_frames
        if num_frames <= window:
            return (Span(0, num_frames, 0, num_frames),)
        spans = []
        for keep_start in range(0, num_frames, window):
            keep_stop = min(keep_start + window, num_frames)
            spans.append(Span(keep_stop - window, keep_stop, keep_start, keep_stop))
        return tuple(spans)
