"""Packing: the digits of a frame become token ids and come back, exactly. numpy only; no torch reads an archive.

A token is a mixed-radix number over the digits i_k of one group, radices r_k (PAPER section FSQ and packing):

    first_most_significant:   token = sum_k i_k prod_{j>k} r_j        2,1,3,0,2,1,3 in radix 4 -> 10023
    first_least_significant:  token = sum_k i_k prod_{j<k} r_j        the order of the paper's listing and code

``num_dims`` that is not a multiple of ``group_size`` is padded with dims of radix 1, so the last position has fewer
valid ids than the others. The published code never unpacks; unpacking here is the exact inverse.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, NoReturn, Self, cast, get_args

import numpy as np
from numpy.typing import NDArray

DigitOrder = Literal["first_most_significant", "first_least_significant"]

_BLOCK_FRAMES = 4096
_WORD = 8
_MOST_LEVELS_IN_WORDS = 16
_TEXT = re.compile(r"(\d{1,6}) dims of (\d{1,6}), (\d{1,6}) a token, ([a-z_]+)")
_PAIRS, _ALL = np.uint64(0x00FF00FF00FF00FF), np.uint64((1 << 64) - 1)


@dataclass(frozen=True)
class _Reads:
    """How the groups of a row of digits are read as words.

    Group g's word begins at byte ``offsets[g]``; it is shifted by ``shifts[g]`` bits where it would have reached beyond
    the row; ``masks`` are the bytes that are the group's own, one row for each frame of a block. The words of the
    groups from ``regular[0]`` to before ``regular[1]`` lie ``group_size`` bytes apart and are not shifted.
    """

    offsets: list[int]
    shifts: NDArray[np.uint64]
    masks: NDArray[np.uint64]
    regular: tuple[int, int]


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

    def __str__(self) -> str:
        """How a row says its packing: ``128 dims of 4, 7 a token, first_most_significant``."""
        return f"{self.num_dims} dims of {self.levels}, {self.group_size} a token, {self.digit_order}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """The packing that :meth:`__str__` wrote. Raises ValueError."""
        found = _TEXT.fullmatch(text)
        if found is None:
            raise ValueError(f"not a packing: {text!r}; expected {str(cls(128, 4, 7))!r} or the like")
        dims, levels, group_size, order = found.groups()
        return cls(int(dims), int(levels), int(group_size), cast(DigitOrder, order))

    @property
    def num_groups(self) -> int:
        """Tokens per frame, G = ceil(num_dims / group_size)."""
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
        """Pack digits [F, num_dims] into tokens uint16 [F, G].

        Raises:
            ValueError: another shape, or a digit outside 0 .. levels - 1.
        """
        digits = _checked(digits, self.num_dims, "digits", "num_dims")
        tokens = np.empty((len(digits), self.num_groups), np.uint16)
        (scratch,) = self._scratch(1, len(digits))
        has_sums_in_bytes = self._fits_words and self.levels <= _MOST_LEVELS_IN_WORDS
        for start in range(0, len(digits), _BLOCK_FRAMES):
            block = digits[start : start + _BLOCK_FRAMES]
            if not _all_below(block, self.levels):
                _refuse(digits, np.full(self.num_dims, self.levels), "digit", "dim")
            out = tokens[start : start + _BLOCK_FRAMES]
            words = scratch[: len(block)]
            self._pack_words(block, out, words) if has_sums_in_bytes else self._pack_columns(block, out)
        return tokens

    def unpack(self, tokens: NDArray[np.integer]) -> NDArray[np.uint8]:
        """Unpack tokens [F, G] into digits uint8 [F, num_dims]; the exact inverse of :meth:`pack`.

        Raises:
            ValueError: another shape, or a token that its position cannot take.
        """
        tokens = _checked(tokens, self.num_groups, "tokens", "num_groups")
        self.require_valid(tokens)
        digits = np.empty((len(tokens), self.num_dims), np.uint8)
        scratch = self._scratch(2, len(tokens))
        for start in range(0, len(tokens), _BLOCK_FRAMES):
            block, out = tokens[start : start + _BLOCK_FRAMES], digits[start : start + _BLOCK_FRAMES]
            words, ids = scratch[:, : len(block)]
            self._unpack_words(block, out, words, ids) if self._fits_words else self._unpack_columns(block, out)
        return digits

    def require_valid(self, tokens: NDArray[np.integer]) -> None:
        """Raise ValueError, naming frame, position and limit, when a token [F, G] is not valid for its position."""
        sizes = self.position_sizes
        if not (_all_below(tokens, sizes[0]) and _all_below(tokens[:, -1], sizes[-1])):
            _refuse(tokens, np.array(sizes), "token", "position")

    def _pack_words(self, digits: NDArray[np.integer], tokens: NDArray[np.uint16], words: NDArray[np.uint64]) -> None:
        """The digits of a group are the bytes of a word; a product joins neighbours, a second one the four pairs.

        ``words`` [F, G] is overwritten.

        The product by 1 + levels 2^8 makes each byte digit + levels * previous digit, and every second byte is kept. No
        sum carries over: levels ** 2 - 1 fits a byte, and below the top halfword of the second product lie tokens of
        the group's first digits.
        """
        self._read_words(np.ascontiguousarray(digits, np.uint8), words)
        words *= np.uint64(1 + (self.levels << 8))
        words >>= np.uint64(8)
        words &= _PAIRS
        words *= np.uint64(sum(self.levels ** (2 * k) << 16 * k for k in range(4)) % (1 << 64))
        tokens[...] = words.view("<u2")[:, 3::4]

    def _read_words(self, digits: NDArray[np.uint8], words: NDArray[np.uint64]) -> None:
        """The digits of each group into ``words`` [F, G], from the most to the least significant, the last byte."""
        reads = self._reads
        first, stop = reads.regular
        strides = (self.num_dims, self.group_size)
        words[:, first:stop] = np.ndarray((len(words), stop - first), "<u8", digits, reads.offsets[first], strides)
        shift = np.left_shift if self._first_weighs_most else np.right_shift
        for group in (*range(first), *range(stop, self.num_groups)):
            word = np.ndarray(len(digits), "<u8", digits, reads.offsets[group], strides[:1])
            shift(word, reads.shifts[group], out=words[:, group])
        words &= reads.masks[: len(words)]
        if not self._first_weighs_most:
            words.byteswap(inplace=True)

    def _unpack_words(
        self, tokens: NDArray[np.integer], digits: NDArray[np.uint8], words: NDArray[np.uint64], ids: NDArray[np.uint64]
    ) -> None:
        """A table holds the digits of a token as the bytes of a word; ``words`` and ``ids`` [F, G] are overwritten."""
        ids[...] = tokens
        np.take(self._digits_of_token, ids.view(np.int64), out=words, mode="wrap")
        missing = self.radices[-1].count(1) - self.radices[0].count(1)
        if self._first_weighs_most and missing:
            words[:, -1] >>= np.uint64(8 * missing)
        num_whole = (self.num_dims - _WORD) // self.group_size + 1
        for group in range(num_whole, self.num_groups):
            start = group * self.group_size
            own = digits[:, start : start + self.group_size]
            own[...] = words.view(np.uint8).reshape(*words.shape, _WORD)[:, group, : own.shape[1]]
        # A word is longer than its group: where it covers the next ones it is to hold their digits. Rows may run into
        # each other here, since the words at their ends are not written whole.
        flat, shifted = words.reshape(-1), ids.reshape(-1)
        for ahead in range(1, -(-_WORD // self.group_size)):
            np.left_shift(flat, np.uint64(8 * self.group_size * ahead), out=shifted)
            flat[:-ahead] |= shifted[ahead:]
        shape, strides = (len(words), num_whole), (self.num_dims, self.group_size)
        np.ndarray(shape, "<u8", digits, 0, strides)[...] = words[:, :num_whole]

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

    def _scratch(self, num: int, num_frames: int) -> NDArray[np.uint64]:
        """Room for the words of a block, [num, F, G], used for every block: fresh memory costs more than the work."""
        return np.empty((num, min(num_frames, _BLOCK_FRAMES) if self._fits_words else 0, self.num_groups), "<u8")

    @property
    def _fits_words(self) -> bool:
        """Whether a group fits a word, and a word the row."""
        return self.group_size <= _WORD <= self.num_dims

    @cached_property
    def _reads(self) -> _Reads:
        starts = np.arange(self.num_groups) * self.group_size
        stops = np.minimum(starts + self.group_size, self.num_dims)
        unused = (8 * (_WORD - (stops - starts))).astype(np.uint64)
        if self._first_weighs_most:
            wanted, regular = stops - _WORD, (-(-_WORD // self.group_size) - 1, self.num_dims // self.group_size)
            mask = _ALL << unused
        else:
            wanted, regular = starts, (0, (self.num_dims - _WORD) // self.group_size + 1)
            mask = _ALL >> unused
        offsets = np.clip(wanted, 0, self.num_dims - _WORD)
        shifts = (8 * abs(wanted - offsets)).astype(np.uint64)
        return _Reads(offsets.tolist(), shifts, np.tile(mask.astype("<u8"), (_BLOCK_FRAMES, 1)), regular)

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
