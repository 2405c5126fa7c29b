"""Configurations small enough to run by the hundred: one of each front end and decoder, and a tokenizer of each."""

from __future__ import annotations

from pathlib import Path

import torch

from syllabary.model.codec import Codec
from syllabary.model.config import (
    ConformerConfig,
    DaamConfig,
    DiscriminatorConfig,
    EncoderConfig,
    FsqConfig,
    HifiganDecoderConfig,
    IstftDecoderConfig,
    JepaConfig,
    ModelConfig,
    PredictorConfig,
    SpectralFrontEndConfig,
    WaveformFrontEndConfig,
)
from syllabary.workers.tokenizer.tokenizer import Tokenizer, save_tokenizer

# Two test processes of two threads each on two cores spin against one another; tests that mean two threads say so.
torch.set_num_threads(1)

RATE = 2_000
HOP = 120
_CONFORMER = ConformerConfig(num_layers=2, num_heads=2, conv_kernel=5)
_WAVEFORM = EncoderConfig(
    sample_rate=RATE,
    window_s=1.2,
    latent_dim=16,
    front_end=WaveformFrontEndConfig(channels=(6, 8, 10, 12), strides=(8, 5, 3), num_residual_blocks=4),
    conformer=_CONFORMER,
)
_SPECTRAL = EncoderConfig(
    sample_rate=RATE,
    window_s=1.2,
    latent_dim=16,
    front_end=SpectralFrontEndConfig(
        n_fft=32, channels=(8, 10, 12), strides=(8, 5, 3), num_blocks=(2, 1, 1), attention_layers=(0, 0, 1),
        attention_heads=2, attention_reach=2,
    ),
    conformer=_CONFORMER.model_copy(update={"positions": "rotary", "reach": 4}),
)  # fmt: skip
_HIFIGAN = HifiganDecoderConfig(
    channels=(12, 10, 8, 6), strides=(3, 5, 8), mrf_kernels=(3, 7), mrf_dilations=((1, 3), (1, 3))
)
_ISTFT = IstftDecoderConfig(
    n_fft=32, channels=(12, 10, 8), strides=(3, 5, 8), num_blocks=(1, 1, 2), attention_layers=(1, 0, 0),
    attention_heads=2, attention_reach=1,
)  # fmt: skip
_SHARED = {
    "jepa": JepaConfig(predictor=PredictorConfig(hidden_dim=12, num_heads=2, conv_kernel=5)),
    "fsq": FsqConfig(),
    "discriminator": DiscriminatorConfig(periods=(2, 3), num_scales=2, channel_divisor=32),
}

CONFIGS: dict[str, ModelConfig] = {
    "waveform": ModelConfig(encoder=_WAVEFORM, decoder=_HIFIGAN, **_SHARED),
    "spectral": ModelConfig(encoder=_SPECTRAL, decoder=_ISTFT, **_SHARED),
    "no_daam": ModelConfig(
        encoder=_WAVEFORM.model_copy(update={"daam": DaamConfig(enabled=False)}), decoder=_ISTFT, **_SHARED
    ),
    "decoder_daam": ModelConfig(encoder=_SPECTRAL, decoder=_HIFIGAN.model_copy(update={"daam": True}), **_SHARED),
}


def small_codec(kind: str, seed: int = 0) -> Codec:
    """A codec with random weights, in evaluation mode."""
    torch.manual_seed(seed)
    return Codec(CONFIGS[kind]).eval()


def small_tokenizer(kind: str, folder: Path, seed: int = 0, **update: object) -> Tokenizer:
    """A tokenizer with random weights, saved in and loaded from ``folder``; ``update`` changes its encoder config."""
    torch.manual_seed(seed)
    config = CONFIGS[kind]
    config = config.model_copy(update={"encoder": config.encoder.model_copy(update=update)})
    codec = Codec(config)
    save_tokenizer(str(folder), config, codec.encoder.state_dict(), codec.generator.state_dict(), recipe={"name": kind})
    return Tokenizer.load(str(folder))
