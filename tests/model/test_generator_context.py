"""What a sample of the generators depends on, measured, against the context that they claim.

A chunk decoded with too little context has a seam; with too much it costs time and nothing else.
"""

from __future__ import annotations

import pytest
import torch

from syllabary.model import hifigan
from syllabary.model.config import HifiganDecoderConfig, IstftDecoderConfig
from syllabary.model.spectral import istft
from syllabary.workers.recipes.named import resolve
from syllabary.workers.tokenizer.networks import decoded_chunks
from tests.helpers.small_models import CONFIGS

DIM, SAMPLE_RATE = 4, 1600
SMALL_HIFIGAN, SMALL_ISTFT = CONFIGS["waveform"].decoder, CONFIGS["spectral"].decoder
DECODERS = {
    "small hifigan": SMALL_HIFIGAN,
    "wide kernel": SMALL_HIFIGAN.model_copy(update={"mrf_kernels": (3, 11), "mrf_dilations": ((1, 3), (1,))}),
    "wide dilation": SMALL_HIFIGAN.model_copy(update={"mrf_kernels": (3, 5), "mrf_dilations": ((9,), (1,))}),
    "wide output": HifiganDecoderConfig(
        channels=(4, 4), strides=(2,), mrf_kernels=(3,), mrf_dilations=((1,),), output_kernel=13
    ),
    "small istft": SMALL_ISTFT,
    "long window": IstftDecoderConfig(n_fft=96, channels=(8, 8), strides=(2, 8), num_blocks=(1, 2), kernel=3),
    "near attention": IstftDecoderConfig(
        n_fft=64,
        channels=(8, 8, 8),
        strides=(2, 2, 8),
        num_blocks=(1, 1, 1),
        kernel=3,
        attention_layers=(1, 0, 1),
        attention_heads=2,
        attention_reach=2,
    ),
    **{name: resolve(name).model.decoder for name in ("paper", "small", "small_5hz", "tiny_paper", "tiny", "fast16k")},
}
# Where the sum of the layers' reaches is no whole number the claim may be one frame more than what is reached; where it
# is a pitch that reaches farthest, one more, since a small change seldom makes another pitch the likeliest.
TIGHT = {
    "small hifigan", "wide kernel", "wide dilation", "wide output", "paper", "small", "small_5hz",
}  # fmt: skip


def narrow(config: HifiganDecoderConfig | IstftDecoderConfig) -> hifigan.Generator | istft.Generator:
    """The generator with few channels, which changes nothing about its reach, and no weight at zero, which would."""
    torch.manual_seed(0)
    few: dict[str, object] = {"channels": tuple(8 for _ in config.channels)}
    if isinstance(config, IstftDecoderConfig):
        few["attention_heads"] = 2
    small = config.model_copy(update=few)
    if isinstance(small, HifiganDecoderConfig):
        generator: hifigan.Generator | istft.Generator = hifigan.Generator(small, DIM)
    else:
        generator = istft.Generator(small, DIM, SAMPLE_RATE)
    with torch.no_grad():
        for parameter in generator.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return generator.eval()


def reach(generator: hifigan.Generator | istft.Generator) -> int:
    """Frames on either side from which anything at all reaches the samples of the middle frame."""
    middle, hop = generator.context_frames + 2, generator.hop_length
    frames = 2 * middle + 1
    if isinstance(generator, istft.Generator):
        return _reach_of_changes(generator, middle)
    values = torch.randn(1, DIM, frames, requires_grad=True)
    waveform = generator(values, torch.tensor([frames * hop]))[0, middle * hop : (middle + 1) * hop]
    (gradient,) = torch.autograd.grad((waveform * torch.randn(hop)).sum(), values)
    seen = gradient[0].abs().sum(dim=0).nonzero()[:, 0]
    return int((seen - middle).abs().max())


@torch.no_grad()
def _reach_of_changes(generator: istft.Generator, middle: int) -> int:
    """The same by changing one frame: the gradient of a pitch, the likeliest of many, is zero.

    Each decoded alone: rows of a batch differ in their last bits, and where a pitch reaches it may change no more.
    """
    hop, values = generator.hop_length, torch.randn(1, DIM, 2 * middle + 1)

    def heard(changed: torch.Tensor) -> torch.Tensor:
        return generator(changed, torch.tensor([changed.shape[-1] * hop]))[0, middle * hop : (middle + 1) * hop]

    unchanged = heard(values)
    for apart in range(middle, 0, -1):
        for frame in (middle - apart, middle + apart) * 4:
            changed = values.clone()
            changed[0, :, frame] = 3 * torch.randn(DIM)
            if not torch.equal(heard(changed), unchanged):
                return apart
    return 0


@pytest.mark.parametrize("name", sorted(DECODERS))
def test_context_is_what_a_sample_depends_on(name: str) -> None:
    generator = narrow(DECODERS[name])
    loose = 0 if name in TIGHT else 2 if isinstance(generator, istft.Generator) else 1
    assert reach(generator) <= generator.context_frames <= reach(generator) + loose


@pytest.mark.parametrize("name", ["small hifigan", "small istft", "near attention", "long window"])
def test_chunks_with_the_context_join_without_a_seam(name: str) -> None:
    generator = narrow(DECODERS[name])
    hop, context = generator.hop_length, generator.context_frames
    values = torch.randn(1, DIM, 6 * context + 5)
    whole = generator(values, torch.tensor([values.shape[-1] * hop]))[0].detach()

    def worst(context_frames: int) -> float:
        generator.context_frames = context_frames
        joined = torch.cat(list(decoded_chunks([values], generator, chunk_frames=context)))
        return float((joined - whole).abs().max().detach())

    scale = float(whole.abs().max())
    assert worst(context) < 5e-5 * scale
    assert worst(context // 2) > 3e-4 * scale
