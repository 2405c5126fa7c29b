"""A residual stage learns by Winograd's form what it learns by plain convolutions: values and every gradient."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from syllabary.model.cpu import winograd, winograd_training
from syllabary.model.cpu.winograd_training import run_residual_blocks
from syllabary.model.layers import ResidualBlock

CHANNELS = 5


@pytest.fixture(autouse=True)
def narrow_is_wide(monkeypatch):
    monkeypatch.setattr(winograd, "_WIDE", CHANNELS)
    monkeypatch.setattr(winograd, "_LONG", 0)


def stage(num_blocks: int) -> list[ResidualBlock]:
    torch.manual_seed(num_blocks)
    return [ResidualBlock(CHANNELS, 3, (1, 3**i, 5**i)) for i in range(num_blocks)]


def learned(blocks: list[ResidualBlock], x: Tensor, mask: Tensor | None, *, plainly: bool) -> list[Tensor]:
    """Output at valid positions, gradient of the input, gradients of the parameters."""
    x = x.clone().requires_grad_()
    for block in blocks:
        block.zero_grad()
    y = x
    if plainly:
        for block in blocks:
            y = block(y, mask)
    else:
        y = run_residual_blocks(blocks, x, mask)
        assert "Residuals" in _names(y)
    y = y if mask is None else y.masked_fill(~mask[:, None], 0.0)
    weight = torch.linspace(-1, 1, y.numel()).reshape(y.shape).cos()
    (y * weight).sum().backward()
    assert x.grad is not None
    return [y.detach(), x.grad, *(p.grad.clone() for block in blocks for p in block.parameters() if p.grad is not None)]


def _names(y: Tensor) -> str:
    seen, waiting = "", [y.grad_fn]
    for node in waiting:
        seen += type(node).__name__
        waiting += [following for following, _ in node.next_functions if following is not None]
    return seen


def assert_alike(found: list[Tensor], expected: list[Tensor]) -> None:
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=2e-5 * float(1 + other.abs().max()))


@given(positions=st.integers(1, 300), num_blocks=st.integers(1, 5), block_values=st.sampled_from([20, 65_536]))
def test_at_every_length_and_dilation(positions: int, num_blocks: int, block_values: int) -> None:
    blocks, x = stage(num_blocks), torch.randn(1, CHANNELS, positions)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(winograd, "_BLOCK_VALUES", block_values)
        found = learned(blocks, x, None, plainly=False)
    assert_alike(found, learned(blocks, x, None, plainly=True))


def test_clips_of_a_batch_see_their_own_length_only():
    blocks, x = stage(4), torch.randn(3, CHANNELS, 200)
    mask = torch.arange(200) < torch.tensor([[200], [131], [2]])
    x = x.masked_fill(~mask[:, None], 0.0)
    found = learned(blocks, x, mask, plainly=False)
    assert_alike(found, learned(blocks, x, mask, plainly=True))
    alone = run_residual_blocks(blocks, x[1:2, :, :131], None)
    assert alone[0].equal(run_residual_blocks(blocks, x, mask)[1, :, :131])


def test_without_gradient_it_gives_the_same_and_leaves_its_input_alone():
    blocks, x = stage(4), torch.randn(2, CHANNELS, 150)
    before = x.clone()
    with torch.no_grad():
        found = run_residual_blocks(blocks, x, None)
    torch.testing.assert_close(found, run_residual_blocks(blocks, x, None).detach(), rtol=1e-4, atol=1e-5)
    assert x.equal(before)
    assert not found.requires_grad


def test_frozen_weights_get_no_gradient():
    blocks, x = stage(2), torch.randn(1, CHANNELS, 40, requires_grad=True)
    for block in blocks:
        block.requires_grad_(False)
    run_residual_blocks(blocks, x, None).sum().backward()
    assert x.grad is not None
    assert all(p.grad is None for block in blocks for p in block.parameters())


def test_it_keeps_two_activations_a_pair():
    blocks, x = stage(3), torch.randn(1, CHANNELS, 120, requires_grad=True)
    margins = 2 * 2 * winograd._MARGIN * CHANNELS
    kept: dict[int, int] = {}
    with torch.autograd.graph.saved_tensors_hooks(
        lambda t: kept.setdefault(t.data_ptr(), t.numel()) and t, lambda t: t
    ):
        run_residual_blocks(blocks, x, None)
    weights = {p.data_ptr() for block in blocks for p in block.parameters()}
    activations = sum(size for where, size in kept.items() if where not in weights)
    assert activations == 2 * 9 * (120 * CHANNELS + margins)


@pytest.mark.parametrize("refused", ["narrow", "short", "bf16", "autocast"])
def test_what_it_is_not_for_goes_the_plain_way(refused, monkeypatch):
    blocks, x = stage(2), torch.randn(1, CHANNELS, 40)
    monkeypatch.setattr(winograd, "_WIDE", CHANNELS + (refused == "narrow"))
    monkeypatch.setattr(winograd, "_LONG", 40 if refused == "short" else 0)
    monkeypatch.setattr(winograd_training, "_clip_by_clip", lambda *_: pytest.fail("took Winograd's form"))
    if refused == "bf16":
        blocks, x = [block.bfloat16() for block in blocks], x.bfloat16()
    with torch.autocast("cpu", torch.bfloat16, enabled=refused == "autocast"):
        run_residual_blocks(blocks, x, None)
