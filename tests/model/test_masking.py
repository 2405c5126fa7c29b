"""Masks hit exactly floor(ratio * frames), in every clip, reproducibly."""

import math
import re
from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from syllabary.model.config import JepaConfig
from syllabary.model.masking import sample_mask

lengths = st.lists(st.integers(1, 90), min_size=1, max_size=5)


@settings(max_examples=80, deadline=None)
@given(lengths, st.integers(1, 99), st.integers(1, 4), st.integers(0, 1000))
def test_exactly_the_ratio(num_frames: list[int], percent: int, min_span: int, seed: int) -> None:
    config = JepaConfig(mask_ratio=percent / 100, min_span=min_span)
    mask = sample_mask(num_frames, config, torch.Generator().manual_seed(seed))
    assert mask.shape == (len(num_frames), max(num_frames))
    for row, frames in zip(mask, num_frames, strict=True):
        assert int(row.sum()) == math.floor(Fraction(percent, 100) * frames)
        assert not row[frames:].any()


def test_same_generator_state_same_masks_and_others_differ() -> None:
    masks = [sample_mask([60, 40], JepaConfig(), torch.Generator().manual_seed(seed)) for seed in (5, 5, 6)]
    assert torch.equal(masks[0], masks[1])
    assert not torch.equal(masks[0], masks[2])


def test_masks_are_spans_not_scattered_frames() -> None:
    mask = sample_mask([400] * 20, JepaConfig(), torch.Generator().manual_seed(0)).int()
    starts = int((mask.diff(dim=1, prepend=torch.zeros(20, 1, dtype=torch.int32)) == 1).sum())
    assert int(mask.sum()) / starts > 4


def test_every_frame_can_be_masked() -> None:
    mask = sample_mask([12] * 300, JepaConfig(), torch.Generator().manual_seed(1))
    assert mask.any(dim=0).all()
    assert not mask.all(dim=0).any()


def runs(mask: torch.Tensor) -> list[tuple[int, int]]:
    """Start and length of every run of True of all rows."""
    found = []
    for row in mask.tolist():
        text = "".join(".X"[on] for on in row)
        found += [(match.start(), len(match.group())) for match in re.finditer("X+", text)]
    return found


def test_one_span_that_fills_the_ratio_lies_anywhere_in_the_clip() -> None:
    config = JepaConfig(mask_ratio=0.25, min_span=10, max_span_fraction=0.25)
    found = runs(sample_mask([40] * 1000, config, torch.Generator().manual_seed(0)))
    assert {length for _, length in found} == {10}
    assert {start for start, _ in found} == set(range(31))


def test_span_lengths_are_uniform_from_the_shortest_to_the_fraction_of_the_clip() -> None:
    config = JepaConfig(mask_ratio=0.02, min_span=2, max_span_fraction=0.006)
    found = runs(sample_mask([1000] * 600, config, torch.Generator().manual_seed(0)))
    share = {length: sum(own == length for _, own in found) / len(found) for length in range(1, 9)}
    # Lengths 2 .. 6 of 1000 frames; spans seldom touch, and the last of a clip's 20 frames is cut short.
    assert all(share[length] == pytest.approx(0.2, abs=0.07) for length in range(2, 7)), share
    assert share[7] + share[8] < 0.03
