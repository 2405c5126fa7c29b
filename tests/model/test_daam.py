"""DAAM against its formula in plain numpy, its symmetry, and its blindness to padding."""

import numpy as np
import pytest
import torch

from syllabary.model.config import DaamConfig
from syllabary.model.daam import Daam


def reference(x: np.ndarray, daam: Daam) -> np.ndarray:
    """The paper's formula for one clip [channels, positions], in double precision."""
    w, b = (p.detach().double().numpy() for p in (daam.projection.weight[0, :, 0], daam.projection.bias))
    a = w @ x + b
    sigma = np.sqrt(max(a.var(), 1e-6))
    scales = np.log1p(np.exp(daam.raw_scale.detach().double().numpy())) + 1e-3
    deltas = daam.offset.detach().double().numpy()
    p = np.zeros_like(a)
    for delta, s in zip(deltas, scales, strict=True):
        z = (a - (a.mean() + delta)) / (sigma * s + 1e-6)
        p += np.exp(-(z**2) / 2) / (s * np.sqrt(2 * np.pi))
    return x * (1 + daam.alpha.item() * p / len(scales))


def test_is_the_papers_formula() -> None:
    torch.manual_seed(0)
    daam, x = Daam(6, DaamConfig()), torch.randn(3, 6, 40)
    with torch.no_grad():
        daam.offset.normal_()
    found = daam(x, None).values.detach().numpy()
    for i in range(3):
        np.testing.assert_allclose(found[i], reference(x[i].double().numpy(), daam), rtol=1e-5, atol=1e-6)


def test_statistics_see_valid_positions_only() -> None:
    torch.manual_seed(0)
    daam, x = Daam(4, DaamConfig()), torch.randn(1, 4, 30)
    mask = torch.arange(30)[None] < 17
    padded = torch.where(mask[:, None], x, torch.full_like(x, 99.0))
    torch.testing.assert_close(daam(padded, mask).values[..., :17], daam(x[..., :17], None).values)


def gradients(config: DaamConfig) -> torch.Tensor:
    torch.manual_seed(0)
    daam = Daam(4, config)
    daam(torch.randn(2, 4, 50), None).values.square().sum().backward()
    return torch.stack([daam.offset.grad, daam.raw_scale.grad])


def test_paper_init_keeps_components_identical_and_ours_does_not() -> None:
    same, ours = gradients(DaamConfig(init="paper")), gradients(DaamConfig(init="spread"))
    torch.testing.assert_close(same, same[:, :1].expand(2, 4))
    assert (ours[:, 1:] - ours[:, :1]).abs().min() > 1e-4 * ours.abs().max()


def test_silence_and_bf16_stay_finite_and_fp32_inside() -> None:
    daam = Daam(4, DaamConfig())
    assert torch.isfinite(daam(torch.zeros(1, 4, 9), None).values).all()
    with torch.autocast("cpu", torch.bfloat16):
        assert daam(torch.randn(1, 4, 9), None).density.dtype == torch.float32


def scales(config: DaamConfig) -> np.ndarray:
    """s_k = softplus(nu_k) + 1e-3 as they start."""
    return np.log1p(np.exp(Daam(3, config).raw_scale.detach().double().numpy())) + 1e-3


def test_scales_start_geometrically_from_a_quarter_to_two_deviations() -> None:
    np.testing.assert_allclose(scales(DaamConfig()), [0.25, 0.5, 1.0, 2.0], rtol=1e-5)
    np.testing.assert_allclose(scales(DaamConfig(num_gaussians=2)), [0.25, 2.0], rtol=1e-5)


def test_the_paper_starts_all_scales_at_softplus_of_log_a_half() -> None:
    alike = np.log(1.5) + 1e-3  # log(1 + exp(log 0.5))
    np.testing.assert_allclose(scales(DaamConfig(init="paper")), [alike] * 4, rtol=1e-5)
    np.testing.assert_allclose(scales(DaamConfig(num_gaussians=1)), [alike], rtol=1e-5)


def test_a_gate_starts_with_alpha_a_twentieth_and_offsets_at_the_mean() -> None:
    daam = Daam(3, DaamConfig())
    assert daam.alpha.tolist() == [np.float32(0.05)] and daam.offset.tolist() == [0.0] * 4


def test_the_density_is_what_lifts_a_frame() -> None:
    """y = x (1 + alpha g), so g = (y / x - 1) / alpha; at the mean of one Gaussian it is 1 / (s sqrt(2 pi))."""
    torch.manual_seed(0)
    daam, x = Daam(4, DaamConfig()), torch.rand(2, 4, 30) + 0.5
    found = daam(x, None)
    torch.testing.assert_close(found.density, (found.values / x - 1)[:, 0] / 0.05, rtol=1e-3, atol=1e-3)
    alone, middle = Daam(1, DaamConfig(num_gaussians=1)), torch.tensor([[[-1.0, 0.0, 1.0]]])
    assert float(alone(middle, None).density[0, 1].detach()) == pytest.approx(
        1 / ((np.log(1.5) + 1e-3) * np.sqrt(2 * np.pi)), rel=1e-4
    )


def test_a_clip_in_half_precision_is_gated_in_full_and_given_back_in_half() -> None:
    torch.manual_seed(0)
    daam, x = Daam(4, DaamConfig()), torch.randn(1, 4, 9).bfloat16()
    half, full = daam(x, None), daam(x.float(), None)
    assert half.values.dtype == torch.bfloat16 and half.values.equal(full.values.bfloat16())
    assert half.density.equal(full.density)
