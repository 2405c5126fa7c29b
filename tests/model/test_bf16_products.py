"""What is multiplied in bf16 is right: oneDNN's kernels for new instructions have given noise, and no loss said so."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from syllabary.model.bottleneck import Bottleneck
from syllabary.model.codec import Codec, Routing
from syllabary.model.config import IstftDecoderConfig
from syllabary.model.discriminators import Discriminators
from syllabary.model.jepa import Predictor
from syllabary.model.layers import DownConv1d, is_wrong_in_bf16
from syllabary.workers.recipes.named import RECIPES
from syllabary.workers.tokenizer.networks import computes_bf16

ATEN = torch.ops.aten
PRODUCTS = {
    ATEN.convolution.default, ATEN.convolution_backward.default, ATEN.mm.default, ATEN.addmm.default, ATEN.bmm.default,
    ATEN.baddbmm.default,
}  # fmt: skip
long = pytest.mark.long


class Products(TorchDispatchMode):
    """Computes every product of bf16 values in fp32 too, and keeps those that differ by more than rounding."""

    def __init__(self) -> None:
        super().__init__()
        self.count, self.wrong = 0, list[tuple[str, list[torch.Size], float]]()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        tensors = [value for value in args if isinstance(value, torch.Tensor)]
        if func in PRODUCTS and any(value.dtype == torch.bfloat16 for value in tensors):
            wide = [value.float() if isinstance(value, torch.Tensor) else value for value in args]
            wanted = func(*wide, **(kwargs or {}))
            for one, other in zip(_each(found), _each(wanted), strict=True):
                self.count += 1
                error = float((one.float() - other).abs().max() / other.abs().max().clamp(min=1e-12))
                if not error < 0.03:
                    self.wrong.append((str(func), [value.shape for value in tensors], error))
        return found


def _each(result: torch.Tensor | tuple[torch.Tensor | None, ...]) -> list[torch.Tensor]:
    return [value for value in (result if isinstance(result, tuple) else (result,)) if value is not None]


@pytest.mark.skipif(not computes_bf16(torch.device("cpu")), reason="this CPU does not compute in bf16")
@pytest.mark.parametrize(
    "recipe", ["tiny", "tiny_paper", "small", *(pytest.param(n, marks=long) for n in ("fast16k", "base16k", "paper"))]
)
def test_every_product_of_a_step_in_bf16_is_what_it_is_in_fp32(recipe: str) -> None:
    model = RECIPES[recipe]().model
    torch.manual_seed(0)
    codec, judges = Codec(model), Discriminators(model.discriminator)
    predictor = Predictor(model.encoder.latent_dim, model.jepa.predictor)
    num_samples = torch.tensor([int(1.2 * model.encoder.sample_rate)] * 2)
    with Products() as products, torch.autocast("cpu", torch.bfloat16):
        speech = 0.05 * torch.randn(2, int(num_samples[0]))
        made = codec(speech, num_samples).waveform
        found = [made, *(score.values for score in judges(made, num_samples).scores)]
        found.append(predictor(torch.randn(2, model.encoder.latent_dim, 5), None))
        if isinstance(model.decoder, IstftDecoderConfig):
            heads = Bottleneck(codec, model.decoder)(speech, num_samples, Routing(1.0, 0.0))
            found += [heads.mel, heads.pitch]
        torch.stack([value.float().square().mean() for value in found]).sum().backward()
    assert products.count > 100
    assert products.wrong == []


def test_a_convolution_that_is_noise_on_some_cpus_is_computed_in_fp32() -> None:
    down = DownConv1d(8, 16, 8)
    wave = torch.randn(2, 8, 800)
    with torch.autocast("cpu", torch.bfloat16):
        found = down(wave.bfloat16())
    assert found.dtype == torch.float32
    assert torch.equal(found, F.conv1d(wave.bfloat16().float(), down.weight, down.bias, stride=8, padding=4))


@pytest.mark.parametrize(
    ("channels", "taps", "is_wrong"),
    [(8, 16, True), (4, 16, True), (12, 8, True), (2, 32, True), (8, 4, False), (8, 10, False), (16, 16, False)],
)
def test_which_convolutions_are_noise_on_some_cpus(channels: int, taps: int, is_wrong: bool) -> None:
    """As measured on a CPU with AMX; where there is one, those that are taken to be right are."""
    weight = torch.randn(16, channels, taps) / (channels * taps) ** 0.5
    assert is_wrong_in_bf16(weight) == is_wrong
    if not is_wrong and computes_bf16(torch.device("cpu")):
        wave = torch.randn(1, channels, 800).bfloat16()
        weight = weight.bfloat16()
        found, wanted = F.conv1d(wave, weight), F.conv1d(wave.float(), weight.float())
        assert float((found.float() - wanted).abs().max() / wanted.abs().max()) < 0.03
