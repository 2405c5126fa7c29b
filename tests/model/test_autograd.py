"""Training's cheaper operations have the plain form's values and gradients."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from syllabary.model import autograd
from syllabary.model.autograd import dilated_conv, masked_leaky_relu, prefers_products
from syllabary.model.layers import ResidualBlock, SameConv1d


@pytest.mark.parametrize("mask", [None, torch.tensor([[True] * 9, [True] * 5 + [False] * 4])])
def test_masked_leaky_relu_is_leaky_relu_and_zeros(mask):
    torch.manual_seed(0)
    x = torch.randn(2, 3, 9, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: masked_leaky_relu(x, mask, 0.1), x)
    plain = F.leaky_relu(x, 0.1) if mask is None else F.leaky_relu(x, 0.1).masked_fill(~mask[:, None], 0.0)
    assert masked_leaky_relu(x, mask, 0.1).equal(plain)


def test_it_keeps_the_tensor_that_the_next_layer_keeps_and_nothing_else():
    x, weight = torch.randn(1, 4, 50, requires_grad=True), torch.randn(4, 4, 1, requires_grad=True)
    kept: set[int] = set()
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.add(t.data_ptr()) or t, lambda t: t):
        hidden = masked_leaky_relu(x * 1, None, 0.1)
        out = F.conv1d(hidden, weight)
    assert kept == {hidden.data_ptr(), weight.data_ptr()}
    out.sum().backward()


@pytest.mark.parametrize(("taps", "dilation"), [(1, 30), (3, 1), (3, 7), (3, 19), (5, 4)])
def test_a_dilated_convolution_by_products_is_the_convolution(taps, dilation):
    torch.manual_seed(0)
    x = torch.randn(2, 3, 20, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(4, 3, taps, dtype=torch.float64, requires_grad=True)
    bias = torch.randn(4, dtype=torch.float64, requires_grad=True)
    plain = F.conv1d(x, weight, bias, padding=taps // 2 * dilation, dilation=dilation)
    torch.testing.assert_close(dilated_conv(x, weight, bias, dilation), plain)
    assert torch.autograd.gradcheck(lambda *a: dilated_conv(*a, dilation), (x, weight, bias))


def test_a_residual_block_learns_the_same_with_and_without_products(monkeypatch):
    torch.manual_seed(0)
    block, x = ResidualBlock(4, 3, (1, 27, 125)), torch.randn(2, 4, 200)
    mask = torch.arange(200) < torch.tensor([[200], [150]])
    gradients = []
    for many in (1 << 30, 100):
        monkeypatch.setattr(autograd, "_MANY_POSITIONS", many)
        block.zero_grad()
        block(x, mask).square().mean().backward()
        gradients.append([p.grad.clone() for p in block.parameters()])
    for plain, products in zip(*gradients, strict=True):
        torch.testing.assert_close(products, plain, rtol=1e-4, atol=1e-6)
    assert any(not a.equal(b) for a, b in zip(*gradients, strict=True))


def test_products_are_for_training_in_fp32_on_long_clips_only():
    x = torch.empty(1, 1, 8192)
    assert prefers_products(x, 25)
    assert not prefers_products(x, 24)
    assert not prefers_products(x[..., :-1], 25)
    assert not prefers_products(x.bfloat16(), 25)
    with torch.no_grad():
        assert not prefers_products(x, 25)
    with torch.autocast("cpu", torch.bfloat16):
        assert not prefers_products(x, 25)
        assert SameConv1d(1, 1, 3, 81)(x).dtype == torch.bfloat16
