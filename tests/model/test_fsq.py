"""FSQ: the grid, the nearest point, the gradient, the margin."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from syllabary.model.codec import Fsq, Routing
from syllabary.model.config import FsqConfig


def fsq(levels: int, dims: int = 3) -> Fsq:
    return Fsq(FsqConfig(levels=levels, group_size=1), dims)


def test_grid_of_four_levels() -> None:
    grid = fsq(4).values_of(torch.arange(4).view(1, 1, 4).expand(1, 3, 4))
    assert grid[0, 0].tolist() == [-0.75, -0.25, 0.25, 0.75]


@settings(max_examples=60, deadline=None)
@given(st.integers(2, 20), st.integers(0, 2**31 - 1))
def test_nearest_grid_point_and_margin(levels: int, seed: int) -> None:
    z = torch.randn(2, 3, 11, generator=torch.Generator().manual_seed(seed)) * 1.5
    found, bounded = fsq(levels)(z), torch.tanh(z)
    grid = (2 * torch.arange(levels) - levels + 1) / levels
    distance = (bounded[..., None] - grid).abs()
    chosen = distance.gather(-1, found.level_indices.long()[..., None])[..., 0]
    torch.testing.assert_close(chosen, distance.amin(-1), atol=1e-6, rtol=0)
    edges = (2 * torch.arange(1, levels) - levels) / levels
    nearest_edge = (bounded[..., None] - edges).abs().amin(-1).amin(1)
    torch.testing.assert_close(found.margin, nearest_edge, atol=1e-6, rtol=0)


@pytest.mark.parametrize("levels", [2, 3, 4, 5, 8, 256])
def test_values_of_indices_are_the_values_bit_for_bit(levels: int) -> None:
    found = fsq(levels)(torch.randn(4, 3, 50))
    assert torch.equal(found.values, fsq(levels).values_of(found.level_indices))
    again = fsq(levels)(torch.atanh(found.values.double().clamp(-0.999999, 0.999999)).float())
    assert torch.equal(again.level_indices, found.level_indices)


def test_gradient_is_that_of_tanh() -> None:
    z = torch.randn(2, 3, 7, requires_grad=True)
    weight = torch.randn(2, 3, 7)
    (fsq(4)(z).values * weight).sum().backward()
    torch.testing.assert_close(z.grad, weight * (1 - torch.tanh(z.detach()).square()))


def test_stays_in_fp32_under_autocast() -> None:
    z = torch.randn(1, 3, 500)
    with torch.autocast("cpu", torch.bfloat16):
        found = fsq(4)(z)
    assert found.values.dtype == torch.float32
    assert torch.equal(found.level_indices, fsq(4)(z).level_indices)


def test_extremes_stay_on_the_grid() -> None:
    found = fsq(4, 2)(torch.tensor([[[1e9], [-1e9]]]))
    assert found.level_indices.flatten().tolist() == [3, 0]


def latents(clips: int = 400) -> torch.Tensor:
    return torch.randn(clips, 3, 11, generator=torch.Generator().manual_seed(0))


def test_routing_gives_each_clip_as_a_whole_one_way_in_the_shares_asked_for() -> None:
    torch.manual_seed(0)
    z = latents()
    found, bounded, rounded = fsq(4).routed(z, Routing(rounded=0.5, noisy=0.2)), torch.tanh(z), fsq(4)(z).values
    is_rounded, is_free = ((found == other).flatten(1) for other in (rounded, bounded))
    assert (is_rounded.all(1) | ~is_rounded.any(1)).all() and (is_free.all(1) | ~is_free.any(1)).all()
    assert float(is_rounded.all(1).float().mean()) == pytest.approx(0.5, abs=0.08)
    assert float(is_free.all(1).float().mean()) == pytest.approx(0.3, abs=0.08)
    noise = (found - bounded)[~is_rounded.all(1) & ~is_free.all(1)]
    assert len(noise) > 40


@pytest.mark.parametrize("levels", [2, 4, 8])
def test_noise_is_uniform_and_one_level_wide(levels: int) -> None:
    torch.manual_seed(0)
    z = latents()
    noise = fsq(levels).routed(z, Routing(rounded=0.0, noisy=1.0)) - torch.tanh(z)
    half = 1 / levels
    assert float(noise.abs().max()) <= half + 1e-6 and float(noise.abs().max()) > 0.99 * half
    assert float(noise.mean()) == pytest.approx(0, abs=0.02 * half)
    assert float(noise.var()) == pytest.approx((2 * half) ** 2 / 12, rel=0.03)


def test_all_rounded_is_plain_quantization_and_none_is_tanh() -> None:
    z = latents(20)
    assert torch.equal(fsq(4).routed(z, Routing()), fsq(4)(z).values)
    assert torch.equal(fsq(4).routed(z, Routing(rounded=0.0)), torch.tanh(z))


@pytest.mark.parametrize("routing", [Routing(), Routing(0.0, 1.0), Routing(0.0, 0.0), Routing(0.4, 0.3)])
def test_every_way_has_the_gradient_of_tanh(routing: Routing) -> None:
    z = latents(20).requires_grad_()
    weight = torch.randn(20, 3, 11)
    (fsq(4).routed(z, routing) * weight).sum().backward()
    torch.testing.assert_close(z.grad, weight * (1 - torch.tanh(z.detach()).square()))


def test_routing_stays_in_fp32_under_autocast() -> None:
    with torch.autocast("cpu", torch.bfloat16):
        assert fsq(4).routed(latents(4).bfloat16(), Routing(0.3, 0.3)).dtype == torch.float32
