"""Lengths, windows and chunks are pure integers and cover everything once."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from syllabary.model.config import Framing

strides = st.lists(st.integers(1, 9), min_size=1, max_size=5).map(tuple)


@given(strides, st.integers(0, 10**7))
def test_frames_are_the_ceiling(strides: tuple[int, ...], num_samples: int) -> None:
    framing = Framing(24_000, strides)
    frames = framing.num_frames(num_samples)
    assert (frames - 1) * framing.hop_length < num_samples <= frames * framing.hop_length or num_samples == frames == 0
    assert framing.padded_samples(num_samples) == frames * framing.hop_length
    assert framing.stage_lengths(frames)[0] == framing.padded_samples(num_samples)
    assert framing.stage_lengths(frames)[-1] == frames


@given(st.integers(1, 50), st.integers(1, 400))
def test_encode_windows_cover_once_and_never_exceed_the_window(window: int, num_frames: int) -> None:
    framing = Framing(10, (10,), float(window))
    spans = framing.encode_windows(num_frames)
    kept = [frame for span in spans for frame in range(span.keep_start, span.keep_stop)]
    assert kept == list(range(num_frames))
    assert all(span.stop - span.start == min(window, num_frames) for span in spans)
    assert all(0 <= span.start <= span.keep_start < span.keep_stop <= span.stop <= num_frames for span in spans)


def test_negative_length_is_refused() -> None:
    with pytest.raises(ValueError, match="num_samples is -1; expected 0 or more"):
        Framing(16_000, (8, 8)).num_frames(-1)
