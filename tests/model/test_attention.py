"""Attention: torch's own without positions; with rotary ones distances alone count, and nothing beyond the reach."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from syllabary.model.conformer import SelfAttention, rotated

DIM, HEADS = 16, 2


def attention(**options: object) -> SelfAttention:
    """Every weight random, the norm's too."""
    generator = torch.Generator().manual_seed(0)
    module = SelfAttention(DIM, HEADS, **options)  # type: ignore[arg-type]
    for parameter in module.parameters():
        with torch.no_grad():
            parameter.copy_(0.5 * torch.randn(parameter.shape, generator=generator))
    return module.eval().requires_grad_(False)


def frames(length: int, clips: int = 1) -> Tensor:
    return torch.randn(clips, length, DIM, generator=torch.Generator().manual_seed(length))


def test_without_positions_it_is_torchs() -> None:
    module, x = attention(), frames(9, clips=2)
    theirs = nn.MultiheadAttention(DIM, HEADS, batch_first=True).eval()
    names = {"in_proj_weight": module.qkv.weight, "in_proj_bias": module.qkv.bias,
             "out_proj.weight": module.out.weight, "out_proj.bias": module.out.bias}  # fmt: skip
    theirs.load_state_dict(names)
    mask = torch.arange(9) < torch.tensor([[9], [4]])
    normed = F.layer_norm(x, (DIM,), module.norm.weight, module.norm.bias)
    expected, _ = theirs(normed, normed, normed, key_padding_mask=~mask, need_weights=False)
    torch.testing.assert_close(module(x, mask)[mask], expected.detach()[mask], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("reach", [1, 3, 7, 8, 50])
def test_a_reach_is_torchs_with_a_band_of_neighbours(reach: int) -> None:
    module, x = attention(reach=reach), frames(9)
    theirs = nn.MultiheadAttention(DIM, HEADS, batch_first=True).eval()
    theirs.load_state_dict(
        {"in_proj_weight": module.qkv.weight, "in_proj_bias": module.qkv.bias, "out_proj.weight": module.out.weight,
         "out_proj.bias": module.out.bias}
    )  # fmt: skip
    hidden = torch.tensor([[abs(i - j) > reach for j in range(9)] for i in range(9)])
    normed = F.layer_norm(x, (DIM,), module.norm.weight, module.norm.bias)
    expected, _ = theirs(normed, normed, normed, attn_mask=hidden, need_weights=False)
    torch.testing.assert_close(module(x, None), expected.detach(), atol=1e-5, rtol=1e-4)


def test_a_pair_of_channels_turns_by_its_own_rate() -> None:
    """Four channels: pairs (0, 2) and (1, 3), turned by t and t / 100; a unit vector shows cosine and sine."""
    x = torch.tensor([[1.0, 1.0, 0.0, 0.0]]).expand(1, 1, 200, 4)
    found = rotated(x)[0, 0]
    for t in (0, 1, 2, 157):
        expected = [math.cos(t), math.cos(t / 100), math.sin(t), math.sin(t / 100)]
        assert found[t].tolist() == pytest.approx(expected, abs=1e-5)


def test_a_score_depends_on_the_distance_alone() -> None:
    generator = torch.Generator().manual_seed(0)
    query, key = (torch.randn(1, 1, 1, 8, generator=generator).expand(1, 1, 40, 8) for _ in range(2))
    scores = (rotated(query) @ rotated(key).transpose(-1, -2))[0, 0]
    for distance in (-7, 0, 1, 20):
        diagonal = scores.diagonal(distance)
        torch.testing.assert_close(diagonal, diagonal[:1].expand_as(diagonal), atol=1e-4, rtol=1e-4)
    assert scores.diagonal(7)[0] != pytest.approx(float(scores.diagonal(-7)[0]), abs=1e-3)  # before is not after


@pytest.mark.parametrize("is_rotary", [True, False])
def test_what_lies_beyond_the_reach_changes_nothing(is_rotary: bool) -> None:
    module, x = attention(is_rotary=is_rotary, reach=2), frames(11)
    x = x.requires_grad_()
    (gradient,) = torch.autograd.grad(module(x, None)[0, 5].sum(), x)
    assert gradient[0].abs().sum(dim=1).nonzero()[:, 0].tolist() == [3, 4, 5, 6, 7]


def test_a_clip_moved_in_time_gives_the_same_within_the_reach() -> None:
    """With a reach, rotary positions know no absolute place: what is met in a long clip was met in a short one."""
    module, x = attention(is_rotary=True, reach=2), frames(60)
    late = module(x, None)[:, 40:50]
    torch.testing.assert_close(module(x[:, 38:52], None)[:, 2:12], late, atol=1e-5, rtol=1e-4)


def test_rotary_positions_matter() -> None:
    x = frames(9)
    turned = torch.cat([x[:, :1], x[:, 1:].flip(1)], dim=1)
    by_rotary, by_none = (attention(is_rotary=r) for r in (True, False))
    torch.testing.assert_close(by_none(turned, None)[:, 0], by_none(x, None)[:, 0], atol=1e-5, rtol=1e-4)
    assert float((by_rotary(turned, None)[:, 0] - by_rotary(x, None)[:, 0]).abs().max()) > 1e-2


@pytest.mark.parametrize("reach", [None, 1, 3])
def test_valid_positions_are_those_of_the_clip_alone_and_padding_is_a_number(reach: int | None) -> None:
    module, x = attention(is_rotary=True, reach=reach), frames(12, clips=2)
    x[1, 4:] = 88.0
    found = module(x, torch.arange(12) < torch.tensor([[12], [4]]))
    torch.testing.assert_close(found[1:, :4], module(x[1:, :4], None), atol=1e-5, rtol=1e-4)
    assert bool(found.isfinite().all())


@pytest.mark.parametrize("reach", [1, 3])
def test_every_position_may_see_one_at_least(reach: int) -> None:
    """A softmax over nothing is NaN in some of torch's kernels, and 0 in others."""
    mask = torch.arange(12) < torch.tensor([[12], [4], [1]])
    allowed = attention(is_rotary=True, reach=reach)._allowed(12, mask, torch.device("cpu"))
    assert allowed is not None and bool(allowed.any(dim=-1).all())
    for clip, length in enumerate((12, 4, 1)):
        seen = allowed[clip, 0, :length].nonzero()
        assert int(seen[:, 1].max()) < length and int((seen[:, 0] - seen[:, 1]).abs().max()) <= reach


def test_gradients_of_padded_rows_are_numbers_too() -> None:
    module, x = attention(is_rotary=True, reach=1).requires_grad_(), frames(12)
    out = module(x, torch.arange(12)[None] < 4)
    out[:, :4].square().sum().backward()
    assert all(bool(p.grad.isfinite().all()) for p in module.parameters() if p.grad is not None)
    assert float(module.qkv.weight.grad.abs().max()) > 0
