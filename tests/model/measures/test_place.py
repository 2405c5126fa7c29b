"""Place and speech told apart, on latents and digits whose answer is known from elsewhere."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from syllabary.model.layers import valid_mask
from syllabary.model.measures.place import (
    between_clips,
    common_length,
    entropy_given_place,
    given_place,
    group_by_place,
    place_of,
    rank_given_place,
    relative_loss,
    variance_between_clips,
)
from syllabary.model.measures.usage import entropy_bits


def _clips(num_clips: int, num_frames: int) -> torch.Tensor:
    """Places of clips of equal length, one clip after the other."""
    return torch.arange(num_frames).repeat(num_clips)


def _noise(rows: int, dims: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(rows, dims, generator=torch.Generator().manual_seed(seed))


def test_a_case_worked_by_hand():
    """Means 1 and 11 at the two places: 4 / (4 - 2) between clips, of 104 / (4 - 1) in all."""
    x, groups = torch.tensor([[0.0], [10.0], [2.0], [12.0]]), group_by_place(_clips(2, 2), 2)
    assert given_place(x, groups).flatten().tolist() == [-1, -1, 1, 1]
    assert variance_between_clips(x, groups).tolist() == [2]
    assert between_clips(x, groups) == pytest.approx(2 / (104 / 3))
    assert relative_loss(3.0, x, groups) == pytest.approx(1.5)


def test_the_share_is_one_minus_the_adjusted_determination_of_a_regression_on_the_place():
    places = _clips(9, 5)
    x = _noise(45, 3) + torch.tensor([0.0, 0.5, 3.0]) * places[:, None]
    design = np.eye(5)[places.numpy()]
    shares = []
    for y in x.double().numpy().T:
        residual = y - design @ np.linalg.lstsq(design, y, rcond=None)[0]
        determination = 1 - (residual**2).sum() / ((y - y.mean()) ** 2).sum()
        shares.append((1 - determination) * (45 - 1) / (45 - 5))
    assert between_clips(x, group_by_place(places)) == pytest.approx(np.mean(shares), rel=1e-9)


def test_latents_that_know_nothing_of_the_place_have_their_whole_variance_between_clips_at_any_number_of_clips():
    for num_clips in (4, 40):
        found = between_clips(_noise(num_clips * 8, 2000), group_by_place(_clips(num_clips, 8)))
        assert found == pytest.approx(1, abs=0.02)


def test_a_clock_has_nothing_between_clips():
    places = _clips(6, 8)
    clock = _noise(8, 16)[places]
    groups = group_by_place(places)
    assert between_clips(clock, groups) == pytest.approx(0, abs=1e-12)
    assert rank_given_place(clock, groups) == 0
    digits = torch.randint(4, (8, 16), generator=torch.Generator().manual_seed(1))[places]
    assert float(entropy_bits(torch.stack([torch.bincount(d, minlength=4) for d in digits.T])).mean()) > 1.2
    assert entropy_given_place(digits, 4, groups).tolist() == [0] * 16
    assert relative_loss(1.0, clock, groups) is None


def test_the_best_guess_that_knows_only_the_place_has_relative_loss_1_at_any_scale():
    places = _clips(300, 6)
    clock = 5 * _noise(6, 4, 7)
    for scale in (1e-3, 1.0, 10.0):
        targets = scale * (clock[places] + _noise(1800, 4, 8) * torch.tensor([1.0, 2.0, 3.0, 4.0]) + 5)
        error = float((targets - scale * (clock[places] + 5)).square().mean())
        assert relative_loss(error, targets, group_by_place(places)) == pytest.approx(1, rel=0.01)
        assert relative_loss(error / 2, targets, group_by_place(places)) == pytest.approx(0.5, rel=0.01)


def test_a_clock_and_speech_at_a_known_ratio():
    """Variance 9 by place and 1 between clips: a tenth is left."""
    places = _clips(200, 400)
    x = 3 * _noise(400, 4)[places] + _noise(80_000, 4, seed=1)
    assert between_clips(x, group_by_place(places)) == pytest.approx(0.1, abs=0.01)


def test_rank_without_the_place_is_that_of_the_speech():
    places = _clips(500, 8)
    speech = _noise(4000, 2, 1) @ torch.eye(12)[:2]
    assert rank_given_place(speech, group_by_place(places)) == pytest.approx(2, abs=0.02)


@pytest.mark.parametrize("size", [0.1, 1.0, 3.0])
def test_rank_beside_a_clock_counts_for_the_share_of_the_variance_it_has(size):
    """Two directions out of four that a clock of variance size^2 fills: shares of 1 / (1 + size^2) in two, 0 in two."""
    places = _clips(300, 400)
    clock = size * _noise(400, 4)[places]
    speech = torch.cat([_noise(120_000, 2, 1), torch.zeros(120_000, 2)], dim=1)
    expected = 2 * (2 / (1 + size**2) + 0) / 4
    assert rank_given_place(clock + speech, group_by_place(places)) == pytest.approx(expected, rel=0.03)


def test_corrected_entropy_of_counts_worked_by_hand():
    counts = torch.tensor([[3, 1], [4, 0], [0, 0]])
    plain = 0.75 * math.log2(4 / 3) + 0.25 * 2
    assert entropy_bits(counts).tolist() == pytest.approx([plain, 0, 0])
    assert entropy_bits(counts, corrected=True).tolist() == pytest.approx([plain + 1 / (8 * math.log(2)), 0, 0])


@pytest.mark.parametrize(("share", "levels"), [(0.0, 4), (0.5, 4), (0.9, 4), (0.5, 8)])
def test_entropy_given_the_place_of_digits_that_follow_it_now_and_then(share, levels):
    """With probability ``share`` the digit is the place's, else any: an entropy that a formula gives."""
    generator, num_clips = torch.Generator().manual_seed(3), 24
    places = _clips(num_clips, 30)
    clock = torch.randint(levels, (30, 200), generator=generator)[places]
    free = torch.randint(levels, clock.shape, generator=generator)
    digits = torch.where(torch.rand(clock.shape, generator=generator) < share, clock, free)
    own, other = share + (1 - share) / levels, (1 - share) / levels
    truth = -own * math.log2(own) - (levels - 1) * other * math.log2(other)
    groups = group_by_place(places)
    found = float(entropy_given_place(digits, levels, groups).mean())
    plain = float(entropy_given_place(digits, levels, groups, corrected=False).mean())
    assert found == pytest.approx(truth, abs=0.09)
    assert plain < truth - 0.04 and abs(found - truth) < 0.6 * abs(plain - truth) and found <= math.log2(levels)


def test_places_count_by_their_clips():
    """Eight clips that agree at one place, four that take four levels at the other: 4 / 12 of 2 bits."""
    places = torch.tensor([0] * 8 + [1] * 4)
    digits = torch.tensor([3] * 8 + [0, 1, 2, 3])[:, None]
    assert entropy_given_place(digits, 4, group_by_place(places), corrected=False).tolist() == pytest.approx([2 / 3])


def test_padding_and_places_that_few_clips_reach_do_not_count():
    lengths, latents = torch.tensor([5, 3, 3, 3, 2]), _noise(5 * 6, 4).view(5, 6, 4)
    valid = valid_mask(lengths, 6, latents.device)
    places = place_of(valid)
    assert places.tolist() == [0, 1, 2, 3, 4, 0, 1, 2, 0, 1, 2, 0, 1, 2, 0, 1]
    groups = group_by_place(places, 4)
    assert groups.num_clips.tolist() == [5, 5, 4] and groups.rows.tolist() == [0, 1, 2, *range(5, 16)]
    before = between_clips(latents[valid], groups)
    latents[~valid] = torch.nan
    latents[0, 3:5] = 1e6
    assert between_clips(latents[valid], groups) == before
    equal = group_by_place(_clips(5, 3), 4)
    filled = latents[:, :3].reshape(15, 4)[:14]
    assert equal.num_clips.tolist() == [5, 5, 5]
    assert between_clips(filled, group_by_place(_clips(5, 3)[:14], 4)) == pytest.approx(before)


@pytest.mark.parametrize("places", [torch.arange(7), torch.tensor([], dtype=torch.long), _clips(3, 4)])
def test_too_few_clips_have_no_figures(places):
    x, groups = _noise(len(places), 3), group_by_place(places, 4)
    assert between_clips(x, groups) is None and variance_between_clips(x, groups) is None
    assert relative_loss(1.0, x, groups) is None and rank_given_place(x, groups) is None
    assert entropy_given_place(x.long(), 4, groups) is None


def test_latents_that_never_move_have_no_share_and_rank_0():
    groups = group_by_place(_clips(5, 4))
    still = torch.full((20, 3), 5.0) + 1e-7 * _noise(20, 3)
    assert between_clips(still, groups) is None and relative_loss(1.0, still, groups) is None
    assert rank_given_place(still, groups) == 0
    assert entropy_given_place(torch.ones(20, 3, dtype=torch.long), 4, groups).tolist() == [0, 0, 0]
    moving = torch.cat([still, _noise(20, 1, 5)], dim=1)
    assert between_clips(moving, groups) == pytest.approx(between_clips(moving[:, 3:], groups))


@pytest.mark.parametrize(
    ("lengths", "min_clips", "length"),
    [([5, 9, 7, 8], 2, 8), ([5, 9, 7, 8], 3, 7), ([5, 9, 7, 8], 4, 5), ([5, 9], 4, 5), ([3], 4, 3), ([7] * 9, 4, 7)],
)
def test_clips_are_compared_at_the_length_that_half_of_them_reach(lengths, min_clips, length):
    assert common_length(lengths, min_clips) == length
