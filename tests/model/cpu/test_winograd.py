"""Winograd's form of a residual stage is the stage, to rounding, at any length and dilation."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from syllabary.model.cpu import winograd
from syllabary.model.cpu.winograd import Planes, Scratch, WinogradConv, WinogradResiduals
from syllabary.model.layers import ResidualBlock, SameConv1d

ODD = st.integers(0, 150).map(lambda n: 2 * n + 1)


def rows_of(planes: Planes, positions: int, channels: int) -> Tensor:
    rows = torch.empty(positions, channels)
    planes.write(rows)
    return rows


@given(st.integers(1, 400), ODD, st.sampled_from([30, 65_536]))
def test_convolution_gives_every_output_once(positions: int, dilation: int, block_values: int) -> None:
    torch.manual_seed(positions)
    conv, rows = SameConv1d(5, 5, 3, dilation).requires_grad_(False), torch.randn(positions, 5)
    x, out, times = (Planes.empty(positions, 5) for _ in range(3))
    for planes, values in ((x, rows), (out, torch.full_like(rows, torch.nan)), (times, torch.zeros_like(rows))):
        planes.read(values)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(winograd, "_BLOCK_VALUES", block_values)
        for piece in WinogradConv.of(conv).pieces(x, Scratch(5)):
            piece.of(out).copy_(piece.values)
            piece.of(times).add_(1)
    assert bool((rows_of(times, positions, 5) == 1).all())
    torch.testing.assert_close(rows_of(out, positions, 5), conv(rows.T[None])[0].T, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("positions", [1, 2, 3, 64, 129, 1_000])
def test_residual_blocks(positions: int) -> None:
    torch.manual_seed(0)
    blocks = [ResidualBlock(6, 3, (1, 3**i, 5**i)).requires_grad_(False) for i in range(5)]
    x = torch.randn(1, 6, positions)
    expected = x
    for block in blocks:
        expected = block(expected, None)
    columns = x[:, :, None].contiguous(memory_format=torch.channels_last)
    found = WinogradResiduals(blocks)(columns)
    torch.testing.assert_close(found[:, :, 0], expected, atol=2e-5, rtol=1e-4)


def test_even_dilations_and_other_kernels_are_not_its_business() -> None:
    for conv in (SameConv1d(4, 4, 3, 2), SameConv1d(4, 4, 5)):
        with pytest.raises(AssertionError):
            WinogradConv.of(conv)
