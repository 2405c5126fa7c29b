"""Residual blocks of kernel 3 with two thirds of the multiplications: Winograd's F(2, 3) (Lavin and Gray 2016).

Two outputs of a convolution with taps g0, g1, g2 and dilation d, which are d apart, from four inputs d apart:

    y[t]     = m0 + m1 + m2      m0 = (x[t-d] - x[t+d]) g0      m1 = (x[t] + x[t+d]) (g0 + g1 + g2) / 2
    y[t + d] = m1 - m2 - m3      m3 = (x[t] - x[t+2d])  g2      m2 = (x[t+d] - x[t]) (g0 - g1 + g2) / 2

Every dilation here is odd, so t can run over the even positions and t + d over the odd ones: with the two kept apart
(:class:`Planes`) all of this is sums of contiguous rows and matrix products, block by block within the cache. For one
clip on the CPU at fp32; blocks begin at the start of the clip, so a result depends on the clip alone.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor

from model.convolution import LEAKY_SLOPE, ResidualBlock, SameConv1d

_MARGIN = 64
_BLOCK_VALUES = 65_536
_leaky_relu = torch.ops.aten.leaky_relu.out


class Planes:
    """A clip's even and its odd positions, [positions / 2, channels] each, between margins of zeros."""

    def __init__(self, positions: int, channels: int) -> None:
        self.num_even, self.num_odd = (positions + 1) // 2, positions // 2
        self._even = _between_margins(self.num_even, channels)
        self._odd = _between_margins(self.num_odd, channels)

    def even(self, start: int, stop: int) -> Float[Tensor, "rows channels"]:
        """Even positions 2 start .. 2 stop, from ``_MARGIN`` rows before the clip to as many after it."""
        return self._even[_MARGIN + start : _MARGIN + stop]

    def odd(self, start: int, stop: int) -> Float[Tensor, "rows channels"]:
        """Odd positions 2 start + 1 .. 2 stop + 1, as :meth:`even`."""
        return self._odd[_MARGIN + start : _MARGIN + stop]

    def read(self, rows: Float[Tensor, "positions channels"]) -> None:
        """Take the values of a clip."""
        self.even(0, self.num_even).copy_(rows[0::2])
        self.odd(0, self.num_odd).copy_(rows[1::2])

    def write(self, rows: Float[Tensor, "positions channels"]) -> None:
        """Give the values back."""
        rows[0::2].copy_(self.even(0, self.num_even))
        rows[1::2].copy_(self.odd(0, self.num_odd))


@dataclass(frozen=True)
class Piece:
    """Consecutive outputs at even or odd positions: rows ``start`` .. ``start + len(values)`` of that plane."""

    is_even: bool
    start: int
    values: Float[Tensor, "rows channels"]

    def of(self, planes: Planes) -> Float[Tensor, "rows channels"]:
        """The same rows of ``planes``."""
        stop = self.start + len(self.values)
        return planes.even(self.start, stop) if self.is_even else planes.odd(self.start, stop)


class Scratch:
    """Where one block of a convolution is worked out: small enough for the cache, used again for every block."""

    def __init__(self, channels: int) -> None:
        self.num_rows = max(1, _BLOCK_VALUES // channels)
        self._buffers = torch.empty(6, self.num_rows, channels)

    def rows(self, num: int) -> tuple[Tensor, ...]:
        """Six buffers of ``num`` rows."""
        return self._buffers[:, :num].unbind(0)

    def blocks(self, start: int, stop: int) -> Iterator[tuple[int, int]]:
        """start .. stop, ``num_rows`` rows at a time."""
        for low in range(start, stop, self.num_rows):
            yield low, min(low + self.num_rows, stop)


class WinogradConv:
    """A SameConv1d of kernel 3 and odd dilation, over planes."""

    def __init__(self, conv: SameConv1d) -> None:
        assert conv.kernel_size == (3,) and conv.dilation[0] % 2 == 1 and conv.bias is not None
        before, centre, after = conv.weight.detach().double().permute(2, 1, 0)
        sums = (before + centre + after) / 2, (before - centre + after) / 2
        self._before, self._plus, self._minus, self._minus_after = (
            m.float().contiguous() for m in (before, *sums, -after)
        )
        self._bias, self._dilation = conv.bias.detach().float(), conv.dilation[0]
        self._half = self._dilation // 2
        self._centre = None if self._dilation <= _MARGIN else centre.float().contiguous()

    def pieces(self, x: Planes, scratch: Scratch) -> Iterator[Piece]:
        """conv(x), every output once. A piece lies in ``scratch`` and holds until the next one is asked for."""
        if self._centre is None:
            # The margins are the zeros beyond the clip; a few outputs too many are worked out and dropped.
            for start, stop in scratch.blocks(-self._half, x.num_even):
                yield from self._pairs(x, scratch.rows(stop - start), start, has_before=True, has_after=True)
            return
        num_pairs = max(0, min(x.num_even, x.num_odd - self._half))
        no_after = x.num_even - self._dilation
        edges = sorted({0, num_pairs, *(e for e in (self._half + 1, no_after) if 0 < e < num_pairs)})
        for low, high in itertools.pairwise(edges):
            for start, stop in scratch.blocks(low, high):
                yield from self._pairs(x, scratch.rows(stop - start), start, low > self._half, low < no_after)
        yield from self._border(x, scratch, num_pairs)

    def _pairs(
        self, x: Planes, rows: tuple[Tensor, ...], start: int, has_before: bool, has_after: bool
    ) -> Iterator[Piece]:
        """Outputs y[t] at even rows from ``start`` and y[t + d] at odd rows from ``start + half``."""
        outer, last, total, difference, m1, m2 = rows
        stop, half = start + len(total), self._half
        even, odd = x.even(start, stop), x.odd(start + half, stop + half)
        if has_before:
            torch.sub(x.odd(start - half - 1, stop - half - 1), odd, out=outer)
        else:
            torch.neg(odd, out=outer)
        if has_after:
            torch.sub(even, x.even(start + self._dilation, stop + self._dilation), out=last)
        else:
            last = even
        torch.add(even, odd, out=total)
        torch.sub(odd, even, out=difference)
        torch.addmm(self._bias, total, self._plus, out=m1)
        torch.mm(difference, self._minus, out=m2)
        at_even, at_odd = torch.add(m1, m2, out=total), torch.sub(m1, m2, out=difference)
        at_even.addmm_(outer, self._before)
        at_odd.addmm_(last, self._minus_after)
        yield Piece(True, max(start, 0), at_even[max(0, -start) :])
        yield Piece(False, start + half, at_odd[: max(0, x.num_odd - start - half)])

    def _border(self, x: Planes, scratch: Scratch, num_pairs: int) -> Iterator[Piece]:
        """Outputs whose partner lies beyond the clip: at most two taps of them see anything."""
        assert self._centre is not None
        for start, stop in scratch.blocks(0, min(self._half, x.num_odd)):
            out = torch.addmm(self._bias, x.odd(start, stop), self._centre, out=scratch.rows(stop - start)[0])
            after = x.even(start + self._half + 1, max(start + self._half + 1, min(stop + self._half + 1, x.num_even)))
            out[: len(after)].addmm_(after, self._minus_after, alpha=-1)
            yield Piece(False, start, out)
        for start, stop in scratch.blocks(num_pairs, x.num_even):
            out = torch.addmm(self._bias, x.even(start, stop), self._centre, out=scratch.rows(stop - start)[0])
            before = x.odd(max(0, start - self._half - 1), max(0, stop - self._half - 1))
            out[len(out) - len(before) :].addmm_(before, self._before)
            yield Piece(True, start, out)


class WinogradResiduals:
    """The residual blocks of one stage, one after another."""

    def __init__(self, blocks: list[ResidualBlock]) -> None:
        self._pairs = [
            (WinogradConv(cast(SameConv1d, dilated)), WinogradConv(cast(SameConv1d, plain)))
            for block in blocks
            for dilated, plain in zip(block.dilated, block.plain, strict=True)
        ]

    def __call__(self, x: Float[Tensor, "1 channels 1 positions"]) -> Float[Tensor, "1 channels 1 positions"]:
        """Overwrites ``x``, which is channels-last."""
        self._run(x[0, :, 0].T)
        return x

    def _run(self, rows: Float[Tensor, "positions channels"]) -> None:
        positions, channels = rows.shape
        x, activated, hidden = (Planes(positions, channels) for _ in range(3))
        scratch = Scratch(channels)
        x.read(rows)
        _leaky_relu(x.even(0, x.num_even), LEAKY_SLOPE, out=activated.even(0, x.num_even))
        _leaky_relu(x.odd(0, x.num_odd), LEAKY_SLOPE, out=activated.odd(0, x.num_odd))
        for dilated, plain in self._pairs:
            for piece in dilated.pieces(activated, scratch):
                _leaky_relu(piece.values, LEAKY_SLOPE, out=piece.of(hidden))
            for piece in plain.pieces(hidden, scratch):
                total = piece.of(x)
                _leaky_relu(total.add_(piece.values), LEAKY_SLOPE, out=piece.of(activated))
        x.write(rows)


def _between_margins(num_rows: int, channels: int) -> Float[Tensor, "padded channels"]:
    rows = torch.empty(num_rows + 2 * _MARGIN, channels)
    rows[:_MARGIN] = 0
    rows[-_MARGIN:] = 0
    return rows
