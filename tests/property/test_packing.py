"""Packing is a bijection onto the valid tokens of each position, for every shape, radix and digit order."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from syllabary.shards.archive.packing import Packing

ORDERS = ("first_most_significant", "first_least_significant")


@st.composite
def packings(draw: st.DrawFn) -> Packing:
    levels = draw(st.integers(2, 256))
    largest = max(g for g in range(1, 17) if levels**g <= 1 << 16)
    return Packing(draw(st.integers(1, 40)), levels, draw(st.integers(1, largest)), draw(st.sampled_from(ORDERS)))


def reference_token(digits: list[int], packing: Packing) -> int:
    """The formula in plain Python: Horner's rule over the digits of one group, most significant first."""
    token = 0
    for digit in digits if packing.digit_order == "first_most_significant" else reversed(digits):
        token = token * packing.levels + digit
    return token


def test_the_papers_worked_value() -> None:
    digits = np.array([[2, 1, 3, 0, 2, 1, 3]])
    assert Packing(7, 4, 7).pack(digits).tolist() == [[10023]]
    assert Packing(7, 4, 7).unpack(np.array([[10023]])).tolist() == digits.tolist()
    assert Packing(7, 4, 7, "first_least_significant").pack(digits).tolist() == [[13878]]


def test_the_papers_128_dims_make_19_tokens_with_16_ids_at_the_last() -> None:
    packing = Packing(128, 4, 7)
    assert (packing.num_groups, packing.vocabulary) == (19, 16_384)
    assert packing.position_sizes == (16_384,) * 18 + (16,)
    assert packing.radices[0] == (4,) * 7 and packing.radices[18] == (4, 4, 1, 1, 1, 1, 1)


@given(packings(), st.integers(0, 5), st.integers(0, 2**32 - 1))
def test_unpack_inverts_pack_and_pack_follows_the_formula(packing: Packing, num_frames: int, seed: int) -> None:
    digits = np.random.default_rng(seed).integers(0, packing.levels, (num_frames, packing.num_dims))
    tokens = packing.pack(digits)
    assert tokens.dtype == np.uint16 and tokens.shape == (num_frames, packing.num_groups)
    assert np.array_equal(packing.unpack(tokens), digits)
    g = packing.group_size
    for frame, row in zip(digits.tolist(), tokens.tolist(), strict=True):
        assert row == [reference_token(frame[i : i + g], packing) for i in range(0, len(frame), g)]


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize(
    ("dims", "levels", "group"),
    [
        *((128, 4, 7), (128, 5, 6), (128, 8, 5), (12, 4, 8), (16, 2, 3), (9, 16, 4)),  # by words
        *((3, 16, 8), (20, 2, 16), (9, 40, 3)),
    ],
)
def test_many_frames_in_every_layout(dims: int, levels: int, group: int, order: Any) -> None:
    """More frames than one block, the last of them short; digits in memory of any order, type and step."""
    packing = Packing(dims, levels, group, order)
    digits = np.random.default_rng(0).integers(0, levels, (10_000, dims)).astype(np.uint8)
    tokens = packing.pack(digits)
    wanted = np.zeros((10_000, packing.num_groups), np.int64)
    for k in range(dims):
        wanted[:, k // group] += digits[:, k].astype(np.int64) * int(packing.weights[k // group, k % group])
    assert np.array_equal(tokens, wanted)
    assert np.array_equal(packing.unpack(tokens), digits)
    assert np.array_equal(packing.pack(np.asfortranarray(digits.astype(np.int64))), tokens)
    assert np.array_equal(packing.pack(np.repeat(digits, 2, axis=1)[:, ::2]), tokens)
    assert np.array_equal(packing.unpack(np.repeat(tokens, 2, axis=0)[::2].astype(np.int32)), digits)
    wrong = digits.copy()
    wrong[9_321, dims - 1] = levels
    with pytest.raises(ValueError, match=f"digit {levels} at frame 9321, dim {dims - 1}"):
        packing.pack(wrong)


@given(packings(), st.integers(0, 2**32 - 1))
def test_pack_inverts_unpack_on_every_valid_token(packing: Packing, seed: int) -> None:
    rng = np.random.default_rng(seed)
    tokens = np.stack([rng.integers(0, size, 4) for size in packing.position_sizes], axis=1)
    assert np.array_equal(packing.pack(packing.unpack(tokens)), tokens)


@given(packings())
def test_the_largest_digits_give_the_largest_token_of_each_position(packing: Packing) -> None:
    digits = np.full((1, packing.num_dims), packing.levels - 1)
    assert packing.pack(digits)[0].tolist() == [size - 1 for size in packing.position_sizes]


@given(packings(), st.integers(0, 2**32 - 1))
def test_values_out_of_range_are_refused_naming_the_place(packing: Packing, seed: int) -> None:
    rng = np.random.default_rng(seed)
    dim, group = rng.integers(packing.num_dims), rng.integers(packing.num_groups)
    digits = np.zeros((3, packing.num_dims), np.int64)
    digits[1, dim] = rng.choice([-1, packing.levels])
    with pytest.raises(ValueError, match=f"at frame 1, dim {dim}"):
        packing.pack(digits)
    tokens = np.zeros((3, packing.num_groups), np.int64)
    tokens[2, group] = rng.choice([-1, packing.position_sizes[group]])
    with pytest.raises(ValueError, match=f"at frame 2, position {group}"):
        packing.unpack(tokens)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0, 4, 7), "num_dims is 0"),
        ((8, 1, 7), "levels is 1"),
        ((8, 4, 0), "group_size is 0"),
        ((16, 4, 9), "expected at most 65,536"),
        ((8, 4, 2, "middle_first"), "unknown digit_order"),
    ],
)
def test_impossible_packings_are_refused(arguments: tuple[Any, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Packing(*arguments)


@pytest.mark.parametrize("values", [np.zeros(8, int), np.zeros((2, 9), int), np.zeros((2, 8))])
def test_other_shapes_and_types_are_refused(values: np.ndarray) -> None:
    with pytest.raises(ValueError, match="expected"):
        Packing(8, 4, 2).pack(values)
