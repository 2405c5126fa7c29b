"""DAAM against its formula in plain numpy, its symmetry, and its blindness to padding."""

import numpy as np
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
