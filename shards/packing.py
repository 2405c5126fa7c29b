"""Packing: the digits of a frame become token ids and come back, exactly. numpy only; no torch reads an archive.

A token is a mixed-radix number over the digits i_k of one group, radices r_k (PAPER section FSQ and packing):

    first_most_significant:   token = sum_k i_k prod_{j>k} r_j        2,1,3,0,2,1,3 in radix 4 -> 10023
    first_least_significant:  token = sum_k i_k prod_{j<k} r_j        the order of the paper's listing and code

``num_dims`` that is not a multiple of ``group_size`` is padded with dims of radix 1, so the last position has fewer
valid ids than the others. The published code never unpacks; unpacking here is the exact inverse.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

DigitOrder = Literal["first_most_significant", "first_least_significant"]


@dataclass(frozen=True)
class Packing:
    """How ``num_dims`` digits of ``levels`` values each become ``num_groups`` tokens of ``group_size`` digits.

    Raises:
        ValueError: a count below its minimum, an unknown digit order, or a token that would not fit into uint16.
    """

    num_dims: int
    levels: int
    group_size: int
    digit_order: DigitOrder = "first_most_significant"

    def __post_init__(self) -> None:
        for name, least in (("num_dims", 1), ("levels", 2), ("group_size", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} is {getattr(self, name)}; expected {least} or more")
        if self.digit_order not in get_args(DigitOrder):
            raise ValueError(f"unknown digit_order {self.digit_order!r}; expected one of {get_args(DigitOrder)}")
        if self.vocabulary > 1 << 16:
            raise ValueError(
                f"levels {self.levels} ** group_size {self.group_size} is {self.vocabulary:,}; a token is a uint16: "
                "expected at most 65,536; use a smaller group_size"
            )

    @property
    def num_groups(self) -> int:
        """Tokens a frame, G = ceil(num_dims / group_size)."""
        return -(-self.num_dims // self.group_size)

    @cached_property
    def radices(self) -> tuple[tuple[int, ...], ...]:
        """Radix of every digit, [G][group_size]: ``levels``, or 1 where the last group is padded."""
        flat = [self.levels] * self.num_dims + [1] * (self.num_groups * self.group_size - self.num_dims)
        return tuple(tuple(flat[g * self.group_size : (g + 1) * self.group_size]) for g in range(self.num_groups))

    @property
    def vocabulary(self) -> int:
        """Number of token ids that some position may take."""
        return max(self.position_sizes)

    @property
    def position_sizes(self) -> tuple[int, ...]:
        """Valid ids of each position, [G]: position g takes 0 .. position_sizes[g] - 1."""
        return tuple(math.prod(radices) for radices in self.radices)

    @cached_property
    def weights(self) -> NDArray[np.uint16]:
        """What one step of each digit adds to its token, [G, group_size] (0 where a padded digit never steps)."""
        most_significant = self.digit_order == "first_most_significant"
        rows = []
        for radices in self.radices:
            passed = [math.prod(radices[k + 1 :] if most_significant else radices[:k]) for k in range(self.group_size)]
            rows.append([weight if radix > 1 else 0 for weight, radix in zip(passed, radices, strict=True)])
        return np.array(rows, np.uint16)

    def pack(self, digits: NDArray[np.integer]) -> NDArray[np.uint16]:
        """Digits [F, num_dims] to tokens uint16 [F, G].

        Raises:
            ValueError: another shape, or a digit outside 0 .. levels - 1.
        """
        digits = _checked(digits, self.num_dims, "digits", "num_dims")
        _require_below(digits, np.full(self.num_dims, self.levels), "digit", "dim")
        tokens = np.zeros((len(digits), self.num_groups), np.uint16)
        shifts = self._shifts
        for k in range(self.group_size):
            column = digits[:, k :: self.group_size].astype(np.uint16)
            num = column.shape[1]
            if shifts is None:
                tokens[:, :num] += column * self.weights[:num, k]
            else:
                tokens[:, :num] |= column << shifts[:num, k]
        return tokens

    def unpack(self, tokens: NDArray[np.integer]) -> NDArray[np.uint8]:
        """Tokens [F, G] to digits uint8 [F, num_dims]; the exact inverse of :meth:`pack`.

        Raises:
            ValueError: another shape, or a token that its position cannot take.
        """
        tokens = _checked(tokens, self.num_groups, "tokens", "num_groups")
        self.require_valid(tokens)
        tokens = tokens.astype(np.uint16, copy=False)
        digits = np.empty((len(tokens), self.num_dims), np.uint8)
        shifts = self._shifts
        for k in range(self.group_size):
            num = digits[:, k :: self.group_size].shape[1]
            if shifts is None:
                digits[:, k :: self.group_size] = tokens[:, :num] // self.weights[:num, k] % self.levels
            else:
                digits[:, k :: self.group_size] = (tokens[:, :num] >> shifts[:num, k]) & (self.levels - 1)
        return digits

    def require_valid(self, tokens: NDArray[np.integer]) -> None:
        """Raise ValueError, naming frame, position and limit, when a token [F, G] is not valid for its position."""
        _require_below(tokens, np.array(self.position_sizes), "token", "position")

    @cached_property
    def _shifts(self) -> NDArray[np.uint16] | None:
        """log2 of the weights where the radix is a power of two: shifting is faster than multiplying."""
        if self.levels & (self.levels - 1):
            return None
        return np.log2(np.maximum(self.weights, 1)).astype(np.uint16)


def _checked(values: NDArray[np.integer], width: int, what: str, width_name: str) -> NDArray[np.integer]:
    values = np.asarray(values)
    if values.ndim != 2 or values.shape[1] != width:
        raise ValueError(f"{what} have shape {list(values.shape)}; expected [num_frames, {width_name} = {width}]")
    if not np.issubdtype(values.dtype, np.integer):
        raise ValueError(f"{what} have type {values.dtype}; expected integers")
    return values


def _require_below(values: NDArray[np.integer], limits: NDArray[np.int64], what: str, column: str) -> None:
    if values.size == 0 or (values.min() >= 0 and values.max() < limits.min()):
        return
    wrong = (values < 0) | (values > limits - 1)
    if wrong.any():
        frame, at = np.argwhere(wrong)[0]
        raise ValueError(
            f"{what} {values[frame, at]} at frame {frame}, {column} {at}; expected 0 .. {limits[at] - 1} there"
        )
