"""Residual blocks of kernel 3 with two thirds of the multiplications: Winograd's F(2, 3) (Lavin and Gray 2016).

Two outputs of a convolution with taps g0, g1, g2 and dilation d, which are d apart, from four inputs d apart:

    y[t]     = m0 + m1 + m2      m0 = (x[t-d] - x[t+d]) g0      m1 = (x[t] + x[t+d]) (g0 + g1 + g2) / 2
    y[t + d] = m1 - m2 - m3      m3 = (x[t] - x[t+2d])  g2      m2 = (x[t+d] - x[t]) (g0 - g1 + g2) / 2

Every dilation here is odd, so t can run over the even positions and t + d over the odd ones: with the two kept apart
(:class:`Planes`) all of this is sums of contiguous rows and matrix products, block by block within the cache. For one
clip on the CPU at fp32; blocks begin at the start of the clip, so a result depends on the clip alone.

The gradient of the taps is the transposed sum, of as many products: from the gradients e of y[t] and o of y[t + d]

    dg0 = (x[t-d] - x[t+d]) e + (p + q) / 2    dg1 = (p - q) / 2    dg2 = -(x[t] - x[t+2d]) o + (p + q) / 2
    p = (x[t] + x[t+d]) (e + o)                q = (x[t+d] - x[t]) (e - o)
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from syllabary.model.layers import LEAKY_SLOPE, ResidualBlock, SameConv1d

_WIDE, _LONG = 96, 2
_MARGIN = 64
_BLOCK_VALUES = 65_536
leaky_relu_out = torch.ops.aten.leaky_relu.out


def wins(convs: Sequence[SameConv1d], positions: int) -> bool:
    """Whether this form of all of ``convs`` is the faster one at so many positions.

    They must be wide enough for the products to outweigh the sums, and the clip long enough for the activations to
    outweigh the weights, of which this form holds a third more.
    """
    channels = convs[0].in_channels
    fits = all(conv.kernel_size == (3,) and conv.dilation[0] % 2 == 1 for conv in convs)
    return fits and channels >= _WIDE and positions >= _LONG * channels


def reaches_margins_only(dilation: int) -> bool:
    """Whether margins are wide enough for what is read and written beyond the clip."""
    return dilation <= _MARGIN


class Planes:
    """A clip's even and its odd positions, [positions / 2, channels] each, between margins of zeros."""

    def __init__(self, even: Float[Tensor, "padded channels"], odd: Float[Tensor, "padded channels"]) -> None:
        self.buffers = even, odd
        self.num_even, self.num_odd = (len(buffer) - 2 * _MARGIN for buffer in self.buffers)

    @classmethod
    def empty(cls, positions: int, channels: int) -> Planes:
        """Planes for a clip of so many positions, zero in their margins only."""
        return cls(_between_margins((positions + 1) // 2, channels), _between_margins(positions // 2, channels))

    def empty_like(self) -> Planes:
        """Other planes of the same shape."""
        return Planes.empty(self.num_even + self.num_odd, self.buffers[0].shape[1])

    def even(self, start: int, stop: int) -> Float[Tensor, "rows channels"]:
        """Even positions 2 start .. 2 stop, from ``_MARGIN`` rows before the clip to as many after it."""
        return self.buffers[0][_MARGIN + start : _MARGIN + stop]

    def odd(self, start: int, stop: int) -> Float[Tensor, "rows channels"]:
        """Odd positions 2 start + 1 .. 2 stop + 1, as :meth:`even`."""
        return self.buffers[1][_MARGIN + start : _MARGIN + stop]

    def whole(self) -> tuple[Float[Tensor, "even channels"], Float[Tensor, "odd channels"]]:
        """All even and all odd positions."""
        return self.even(0, self.num_even), self.odd(0, self.num_odd)

    def read(self, rows: Float[Tensor, "positions channels"]) -> Planes:
        """Take the values of a clip."""
        for phase, plane in enumerate(self.whole()):
            plane.copy_(rows[phase::2])
        return self

    def write(self, rows: Float[Tensor, "positions channels"]) -> None:
        """Give the values back."""
        for phase, plane in enumerate(self.whole()):
            rows[phase::2].copy_(plane)

    def activated(self) -> Planes:
        """Leaky ReLU of the values, in other planes."""
        activated = self.empty_like()
        for plane, out in zip(self.whole(), activated.whole(), strict=True):
            leaky_relu_out(plane, LEAKY_SLOPE, out=out)
        return activated


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


@dataclass(frozen=True)
class Spans:
    """Which rows go through the pairs of outputs above, and which have no partner within the clip.

    Attributes:
        dilation: odd.
        num_even, num_odd: rows of the two planes.
    """

    dilation: int
    num_even: int
    num_odd: int

    @property
    def half(self) -> int:
        """Rows from t's even one to t + d's odd one."""
        return self.dilation // 2

    @property
    def is_near(self) -> bool:
        """Whether all rows have partners."""
        return reaches_margins_only(self.dilation)

    @property
    def num_pairs(self) -> int:
        """Pairs from even row 0 on, where not near."""
        return max(0, min(self.num_even, self.num_odd - self.half))

    def pairs(self, scratch: Scratch) -> Iterator[tuple[int, int, bool, bool]]:
        """Blocks of t's even rows start .. stop, and whether x[t - d] and x[t + 2d] may be anything but zero."""
        if self.is_near:
            # The margins are the zeros beyond the clip; a few outputs too many are worked out and dropped.
            for start, stop in scratch.blocks(-self.half, self.num_even):
                yield start, stop, True, True
            return
        no_after = self.num_even - self.dilation
        edges = sorted({0, self.num_pairs, *(e for e in (self.half + 1, no_after) if 0 < e < self.num_pairs)})
        for low, high in itertools.pairwise(edges):
            for start, stop in scratch.blocks(low, high):
                yield start, stop, low > self.half, low < no_after

    def single_odd(self, scratch: Scratch) -> Iterator[tuple[int, int, int, int]]:
        """Odd rows start .. stop that see themselves and, the first of them, the even rows low .. high after them."""
        for start, stop in scratch.blocks(0, 0 if self.is_near else min(self.half, self.num_odd)):
            low = start + self.half + 1
            yield start, stop, low, max(low, min(stop + self.half + 1, self.num_even))

    def single_even(self, scratch: Scratch) -> Iterator[tuple[int, int, int, int]]:
        """Even rows start .. stop that see themselves and, the last of them, the odd rows low .. high before them."""
        for start, stop in scratch.blocks(self.num_even if self.is_near else self.num_pairs, self.num_even):
            yield start, stop, max(0, start - self.half - 1), max(0, stop - self.half - 1)


class WinogradConv:
    """A convolution of kernel 3 and odd dilation, over planes.

    Args:
        taps: matrices [in, out] of the positions before, at and after the output's own.
        bias: added to every output.
        dilation: odd.
    """

    def __init__(self, taps: Float[Tensor, "3 inc outc"], bias: Float[Tensor, "outc"], dilation: int) -> None:
        assert len(taps) == 3 and dilation % 2 == 1
        before, centre, after = taps
        sums = (before + centre + after) / 2, (before - centre + after) / 2
        self._before, self._plus, self._minus, self._minus_after = (
            m.float().contiguous() for m in (before, *sums, -after)
        )
        self._bias, self._dilation = bias, dilation
        self._centre = None if reaches_margins_only(dilation) else centre.float().contiguous()

    @classmethod
    def of(cls, conv: SameConv1d, *, passing: bool = False) -> WinogradConv:
        """The convolution of a module. Sums of taps are worked out in fp64, unless they last for one step only."""
        assert conv.bias is not None
        taps = conv.weight.detach().permute(2, 1, 0)
        return cls(taps if passing else taps.double(), conv.bias.detach().float(), conv.dilation[0])

    def pieces(self, x: Planes, scratch: Scratch) -> Iterator[Piece]:
        """conv(x), every output once. A piece lies in ``scratch`` and holds until the next one is asked for."""
        spans = Spans(self._dilation, x.num_even, x.num_odd)
        for start, stop, has_before, has_after in spans.pairs(scratch):
            sums = sums_of_inputs(x, scratch, start, stop, spans, has_before, has_after)
            yield from self._pairs(x, sums, start, spans.half)
        yield from self._singles(x, scratch, spans)

    def _pairs(self, x: Planes, sums: Sums, start: int, half: int) -> Iterator[Piece]:
        """Outputs y[t] at even rows from ``start`` and y[t + d] at odd rows from ``start + half``."""
        torch.addmm(self._bias, sums.total, self._plus, out=sums.spare[0])
        torch.mm(sums.difference, self._minus, out=sums.spare[1])
        at_even = torch.add(*sums.spare, out=sums.total)
        at_odd = torch.sub(*sums.spare, out=sums.difference)
        at_even.addmm_(sums.outer, self._before)
        at_odd.addmm_(sums.last, self._minus_after)
        yield Piece(True, max(start, 0), at_even[max(0, -start) :])
        yield Piece(False, start + half, at_odd[: max(0, x.num_odd - start - half)])

    def _singles(self, x: Planes, scratch: Scratch, spans: Spans) -> Iterator[Piece]:
        """Outputs whose partner lies beyond the clip: at most two taps of them see anything."""
        for start, stop, low, high in spans.single_odd(scratch):
            assert self._centre is not None
            out = torch.addmm(self._bias, x.odd(start, stop), self._centre, out=scratch.rows(stop - start)[0])
            out[: high - low].addmm_(x.even(low, high), self._minus_after, alpha=-1)
            yield Piece(False, start, out)
        for start, stop, low, high in spans.single_even(scratch):
            assert self._centre is not None
            out = torch.addmm(self._bias, x.even(start, stop), self._centre, out=scratch.rows(stop - start)[0])
            out[len(out) - (high - low) :].addmm_(x.odd(low, high), self._before)
            yield Piece(True, start, out)


@dataclass(frozen=True)
class Sums:
    """x[t-d] - x[t+d], x[t] - x[t+2d], x[t] + x[t+d] and x[t+d] - x[t] of some rows, and two buffers of their shape."""

    outer: Float[Tensor, "rows channels"]
    last: Float[Tensor, "rows channels"]
    total: Float[Tensor, "rows channels"]
    difference: Float[Tensor, "rows channels"]
    spare: tuple[Float[Tensor, "rows channels"], Float[Tensor, "rows channels"]]


def sums_of_inputs(
    x: Planes, scratch: Scratch, start: int, stop: int, spans: Spans, has_before: bool, has_after: bool
) -> Sums:
    """The sums for t at even rows ``start`` .. ``stop``, in ``scratch``."""
    outer, last, total, difference, *spare = scratch.rows(stop - start)
    half, even, odd = spans.half, x.even(start, stop), x.odd(start + spans.half, stop + spans.half)
    if has_before:
        torch.sub(x.odd(start - half - 1, stop - half - 1), odd, out=outer)
    else:
        torch.neg(odd, out=outer)
    if has_after:
        torch.sub(even, x.even(start + spans.dilation, stop + spans.dilation), out=last)
    else:
        last = even
    torch.add(even, odd, out=total)
    torch.sub(odd, even, out=difference)
    return Sums(outer, last, total, difference, (spare[0], spare[1]))


class WinogradResiduals:
    """The residual blocks of one stage, one after another."""

    def __init__(self, blocks: Sequence[ResidualBlock], *, passing: bool = False) -> None:
        pairs = [pair for block in blocks for pair in block.pairs()]
        self._pairs = [tuple(WinogradConv.of(conv, passing=passing) for conv in pair) for pair in pairs]

    def __call__(self, x: Float[Tensor, "1 channels 1 positions"]) -> Float[Tensor, "1 channels 1 positions"]:
        """Overwrites ``x``, which is channels-last."""
        self.run(x[0, :, 0].T)
        return x

    def run(self, rows: Float[Tensor, "positions channels"]) -> None:
        """Overwrites ``rows``, which may lie in memory in any order."""
        x, scratch = Planes.empty(*rows.shape).read(rows), Scratch(rows.shape[1])
        activated, hidden = x.activated(), x.empty_like()
        for dilated, plain in self._pairs:
            run_pair(dilated, plain, x, (activated, hidden, activated), scratch)
        x.write(rows)


def run_pair(
    dilated: WinogradConv, plain: WinogradConv, x: Planes, activated: tuple[Planes, Planes, Planes], scratch: Scratch
) -> None:
    """``x += plain(lrelu(dilated(lrelu(x))))``.

    ``activated`` holds lrelu(x), and gets the activations before ``plain`` and of the new ``x``; the first and the last
    may be the same planes.
    """
    before, hidden, after = activated
    for piece in dilated.pieces(before, scratch):
        leaky_relu_out(piece.values, LEAKY_SLOPE, out=piece.of(hidden))
    for piece in plain.pieces(hidden, scratch):
        leaky_relu_out(piece.of(x).add_(piece.values), LEAKY_SLOPE, out=piece.of(after))


def _between_margins(num_rows: int, channels: int) -> Float[Tensor, "padded channels"]:
    rows = torch.empty(num_rows + 2 * _MARGIN, channels)
    rows[:_MARGIN] = 0
    rows[-_MARGIN:] = 0
    return rows
