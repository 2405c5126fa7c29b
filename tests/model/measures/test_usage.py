"""Code usage on cases known by hand."""

import math

import pytest
import torch

from syllabary.model.measures.usage import effective_rank, entropy_bits, level_usage


def test_uniform_use_is_full_perplexity() -> None:
    indices = torch.arange(4).repeat(8)[:, None].expand(32, 3)
    found = level_usage(indices, 4)
    assert found.level_share.tolist() == [0.25] * 4
    assert found.entropy_bits == pytest.approx(2)
    assert found.perplexity == pytest.approx(4)
    assert found.dead_dims == 0


def test_constant_dims_are_dead() -> None:
    indices = torch.tensor([[0, 1], [1, 1], [0, 1], [1, 1]])
    found = level_usage(indices, 2)
    assert found.dead_dims == 1
    assert found.entropy_bits == pytest.approx(0.5)
    assert found.dim_level_share.tolist() == [[0.5, 0.5], [0.0, 1.0]]


def test_no_frames_is_refused() -> None:
    with pytest.raises(ValueError, match="expected at least one"):
        level_usage(torch.zeros(0, 4, dtype=torch.uint8), 4)


def test_effective_rank_of_isotropic_and_of_one_direction() -> None:
    torch.manual_seed(0)
    assert effective_rank(torch.randn(4000, 6)) == pytest.approx(6, abs=0.05)
    assert effective_rank(torch.randn(100, 1) @ torch.randn(1, 6)) == pytest.approx(1, abs=1e-3)
    assert effective_rank(torch.ones(10, 6)) == 0


def test_entropy_of_known_distributions() -> None:
    found = entropy_bits(torch.tensor([[5, 5, 5, 5], [7, 0, 0, 0], [1, 1, 2, 0], [0, 0, 0, 0]]))
    assert found.tolist() == pytest.approx([2, 0, 1.5, 0])


def test_a_dim_that_seldom_moves_is_not_dead() -> None:
    indices = torch.zeros(100, 2, dtype=torch.uint8)
    indices[7, 1] = 1
    assert level_usage(indices, 4).dead_dims == 1


def test_effective_rank_of_two_directions_of_known_strength() -> None:
    """Singular values 3 and 1 are shares of 3/4 and 1/4 (Roy & Vetterli: of the values, not of their squares)."""
    latents = torch.tensor([[3.0, 0.0], [-3.0, 0.0], [0.0, 1.0], [0.0, -1.0]]) + torch.tensor([5.0, -7.0])
    entropy = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))
    assert effective_rank(latents) == pytest.approx(math.exp(entropy), rel=1e-6)
