"""Convolutions against torch's own, and their exact lengths."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from syllabary.model.layers import DownConv1d, ResidualBlock, SameConv1d, SnakeBeta, UpConv1d


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 9), st.integers(1, 12))
def test_up_equals_cropped_conv_transpose_at_one_thread(stride: int, length: int) -> None:
    torch.manual_seed(stride)
    up, x = UpConv1d(3, 5, stride), torch.randn(2, 3, length)
    full = F.conv_transpose1d(x, up.weight, up.bias, stride=stride)
    expected = full[..., stride // 2 : stride // 2 + stride * length]
    assert up(x).shape == (2, 5, stride * length)
    torch.testing.assert_close(up(x), expected, atol=1e-5, rtol=1e-5)


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 9), st.integers(1, 12))
def test_down_divides_exactly(stride: int, frames: int) -> None:
    assert DownConv1d(2, 3, stride)(torch.randn(1, 2, stride * frames)).shape == (1, 3, frames)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 30), st.sampled_from([1, 2, 3, 9, 27, 1000]), st.sampled_from([1, 3, 5, 7]))
def test_left_out_taps_change_nothing(length: int, dilation: int, kernel: int) -> None:
    torch.manual_seed(length)
    conv, x = SameConv1d(3, 4, kernel, dilation), torch.randn(2, 3, length)
    expected = F.conv1d(x, conv.weight, conv.bias, padding=dilation * (kernel // 2), dilation=dilation)
    torch.testing.assert_close(conv(x), expected, atol=1e-5, rtol=1e-5)


def test_dead_taps_get_no_gradient() -> None:
    conv = SameConv1d(2, 2, 3, dilation=50)
    conv(torch.randn(1, 2, 20)).square().sum().backward()
    assert conv.weight.grad is not None
    assert torch.equal(conv.weight.grad[..., [0, 2]], torch.zeros(2, 2, 2))
    assert conv.weight.grad[..., 1].abs().min() > 0


def test_snake_is_its_formula_and_caps_the_inverse() -> None:
    snake, x = SnakeBeta(2), torch.linspace(-3, 3, 14).view(1, 2, 7)
    with torch.no_grad():
        snake.raw_alpha.copy_(torch.tensor([-20.0, 1.0]))
    alpha = torch.tensor([0.01, F.softplus(torch.tensor(1.0)).item() + 0.01])[:, None]
    expected = x + torch.sin(alpha * x).square() * torch.tensor([10.0, 1 / float(alpha[1, 0])])[:, None]
    torch.testing.assert_close(snake(x), expected)


def test_snake_starts_at_alpha_one() -> None:
    x = torch.linspace(-2, 2, 9).view(1, 1, 9)
    torch.testing.assert_close(SnakeBeta(1)(x), x + torch.sin(x).square())


@pytest.mark.parametrize("dilations", [(1, 1, 1), (1, 3, 5)])
def test_residual_block_is_its_formula(dilations: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    block, x = ResidualBlock(4, 3, dilations), torch.randn(2, 4, 20)
    expected = x
    for dilation, first, second in zip(dilations, block.dilated, block.plain, strict=True):
        hidden = F.conv1d(F.leaky_relu(expected, 0.1), first.weight, first.bias, padding=dilation, dilation=dilation)
        expected = expected + F.conv1d(F.leaky_relu(hidden, 0.1), second.weight, second.bias, padding=1)
    torch.testing.assert_close(block(x, None), expected, atol=1e-5, rtol=1e-5)
