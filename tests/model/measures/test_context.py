"""Code lengths of known sources: what a coder reaches, and that nothing of what follows is used."""

from __future__ import annotations

import numpy as np

from syllabary.model.measures.context import context_bits


def test_uniform_digits_cost_two_bits_and_no_model_helps() -> None:
    digits = [np.random.default_rng(0).integers(0, 4, (2_000, 8)).astype(np.uint8)]
    assert 2.0 <= context_bits(digits, 4) / digits[0].size < 2.02


def test_memory_in_time_is_found() -> None:
    """A digit stays with probability 0.9, else is drawn anew: 0.759 bit, where the zeroth order says 2."""
    rng = np.random.default_rng(1)
    digits = rng.integers(0, 4, (4_000, 4)).astype(np.uint8)
    for t in range(1, len(digits)):
        stays = rng.random(4) < 0.9
        digits[t, stays] = digits[t - 1, stays]
    stay, leave = 0.9 + 0.1 / 4, 0.1 / 4
    truth = -stay * np.log2(stay) - 3 * leave * np.log2(leave)
    assert truth < context_bits([digits], 4) / digits.size < 1.06 * truth


def test_copies_between_dims_are_found() -> None:
    one = np.random.default_rng(2).integers(0, 4, (3_000, 1)).astype(np.uint8)
    assert context_bits([np.repeat(one, 8, axis=1)], 4) / (8 * len(one)) < 2 / 8 + 0.03


def test_nothing_before_is_used_that_a_decoder_has_not() -> None:
    """The code length of a prefix does not depend on what follows."""
    rng = np.random.default_rng(3)
    head, one, other = (rng.integers(0, 4, (50, 3)).astype(np.uint8) for _ in range(3))
    extra = [context_bits([head, tail], 4) - context_bits([head], 4) for tail in (one, other)]
    assert min(extra) > 0 and context_bits([np.concatenate([head, one])], 4) > context_bits([head], 4)
