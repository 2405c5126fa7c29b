"""Masks hit exactly floor(ratio * frames), in every clip, reproducibly."""

import math
from fractions import Fraction

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
