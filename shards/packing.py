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
from typing import Literal, NoReturn, get_args

import numpy as np
from numpy.typing import NDArray

DigitOrder = Literal["first_most_significant", "first_least_significant"]

_BLOCK_FRAMES = 8192
_WORD = 8
_MOST_LEVELS_IN_WORDS = 16
# How many bits apart the values to join are, and where the joined ones lie (the last is cut to 16 bits anyway).
_JOINS = ((8, 0x00FF00FF00FF00FF), (16, 0x0000FFFF0000FFFF), (32, None))


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
        tokens = np.empty((len(digits), self.num_groups), np.uint16)
        fits_words = self.group_size <= _WORD and self.levels <= _MOST_LEVELS_IN_WORDS
        for start in range(0, len(digits), _BLOCK_FRAMES):
            block = digits[start : start + _BLOCK_FRAMES]
            if not _all_below(block, self.levels):
                _refuse(digits, np.full(self.num_dims, self.levels), "digit", "dim")
            out = tokens[start : start + _BLOCK_FRAMES]
            self._pack_words(block, out) if fits_words else self._pack_columns(block, out)
        return tokens

    def unpack(self, tokens: NDArray[np.integer]) -> NDArray[np.uint8]:
        """Tokens [F, G] to digits uint8 [F, num_dims]; the exact inverse of :meth:`pack`.

        Raises:
            ValueError: another shape, or a token that its position cannot take.
        """
        tokens = _checked(tokens, self.num_groups, "tokens", "num_groups")
        self.require_valid(tokens)
        digits = np.empty((len(tokens), self.num_dims), np.uint8)
        for start in range(0, len(tokens), _BLOCK_FRAMES):
            block, out = tokens[start : start + _BLOCK_FRAMES], digits[start : start + _BLOCK_FRAMES]
            self._unpack_words(block, out) if self.group_size <= _WORD else self._unpack_columns(block, out)
        return digits

    def require_valid(self, tokens: NDArray[np.integer]) -> None:
        """Raise ValueError, naming frame, position and limit, when a token [F, G] is not valid for its position."""
        sizes = self.position_sizes
        if not (_all_below(tokens, sizes[0]) and _all_below(tokens[:, -1], sizes[-1])):
            _refuse(tokens, np.array(sizes), "token", "position")

    def _pack_words(self, digits: NDArray[np.integer], tokens: NDArray[np.uint16]) -> None:
        """The digits of a group are the bytes of a word; three products join neighbours, then pairs, then fours.

        A product by 1 + levels 2^8 makes each byte digit + levels * previous digit, and every second byte is kept. No
        sum carries over, since levels ** 2 - 1 fits a byte.
        """
        padded = np.empty(digits.size + 2 * _WORD, np.uint8)
        padded[_WORD:-_WORD] = digits.reshape(-1)
        words = np.empty((self.num_groups, len(digits)), "<u8")
        for group, (offset, mask) in enumerate(self._words):
            bytes_of_group = np.ndarray(len(digits), "<u8", padded, _WORD + offset, (self.num_dims,))
            np.bitwise_and(bytes_of_group, mask, out=words[group])
        for bits, kept in _JOINS:
            power = self.levels ** (bits // 8)
            words *= np.uint64(1 + (power << bits) if self._first_weighs_most else power + (1 << bits))
            words >>= np.uint64(bits)
            if kept is not None:
                words &= np.uint64(kept)
        tokens[...] = words.T

    def _unpack_words(self, tokens: NDArray[np.integer], digits: NDArray[np.uint8]) -> None:
        """A table holds the digits of a token as the bytes of a word; the next word covers what the last one spilt."""
        stride = self.num_dims + _WORD
        padded = np.empty((len(tokens), stride), np.uint8)
        ids, words = np.empty(len(tokens), np.intp), np.empty(len(tokens), "<u8")
        for group, radices in enumerate(self.radices):
            ids[...] = tokens[:, group]
            np.take(self._digits_of_token, ids, out=words, mode="clip")
            missing = radices.count(1) - self.radices[0].count(1)
            if self._first_weighs_most and missing:
                words >>= np.uint64(8 * missing)
            np.ndarray(len(tokens), "<u8", padded, group * self.group_size, (stride,))[...] = words
        digits[...] = padded[:, : self.num_dims]

    def _pack_columns(self, digits: NDArray[np.integer], tokens: NDArray[np.uint16]) -> None:
        """Any radices: one digit of every group at a time."""
        tokens[...] = 0
        for k in range(self.group_size):
            column = digits[:, k :: self.group_size].astype(np.uint16)
            tokens[:, : column.shape[1]] += column * self.weights[: column.shape[1], k]

    def _unpack_columns(self, tokens: NDArray[np.integer], digits: NDArray[np.uint8]) -> None:
        """Any radices: one digit of every group at a time."""
        for k in range(self.group_size):
            num = digits[:, k :: self.group_size].shape[1]
            digits[:, k :: self.group_size] = tokens[:, :num] // self.weights[:num, k] % self.levels

    @property
    def _first_weighs_most(self) -> bool:
        return self.digit_order == "first_most_significant"

    @cached_property
    def _words(self) -> list[tuple[int, np.uint64]]:
        """For each group, where its word begins in a row of digits, and the mask of the bytes that are its digits.

        The last digit of a word is to be the least significant one, or the first digit the first byte.
        """
        words = []
        for group in range(self.num_groups):
            start, stop = group * self.group_size, min((group + 1) * self.group_size, self.num_dims)
            mask = (1 << 8 * (stop - start)) - 1
            if self._first_weighs_most:
                words.append((stop - _WORD, np.uint64(mask << 8 * (_WORD - (stop - start)))))
            else:
                words.append((start, np.uint64(mask)))
        return words

    @cached_property
    def _digits_of_token(self) -> NDArray[np.uint64]:
        """The digits of every token of the first group, as the bytes of a word: [vocabulary]."""
        tokens = np.arange(self.vocabulary, dtype=np.uint64)
        words, num_digits = np.zeros_like(tokens), min(self.group_size, self.num_dims)
        for k in range(num_digits):
            at = num_digits - 1 - k if self._first_weighs_most else k
            digit = tokens // np.uint64(self.levels**k) % np.uint64(self.levels)
            words |= digit << np.uint64(8 * at)
        return words.astype("<u8")


def _checked(values: NDArray[np.integer], width: int, what: str, width_name: str) -> NDArray[np.integer]:
    values = np.asarray(values)
    if values.ndim != 2 or values.shape[1] != width:
        raise ValueError(f"{what} have shape {list(values.shape)}; expected [num_frames, {width_name} = {width}]")
    if not np.issubdtype(values.dtype, np.integer):
        raise ValueError(f"{what} have type {values.dtype}; expected integers")
    return values


def _all_below(values: NDArray[np.integer], limit: int) -> bool:
    is_signed = np.issubdtype(values.dtype, np.signedinteger)
    return not values.size or bool(values.max() < limit and not (is_signed and values.min() < 0))


def _refuse(values: NDArray[np.integer], limits: NDArray[np.int64], what: str, column: str) -> NoReturn:
    """Raise ValueError that names the first of the values [F, columns] outside 0 .. limits - 1."""
    frame, at = np.argwhere((values < 0) | (values > limits - 1))[0]
    raise ValueError(
        f"{what} {values[frame, at]} at frame {frame}, {column} {at}; expected 0 .. {limits[at] - 1} there"
    )
