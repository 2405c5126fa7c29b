"""The models that recipes choose from, largest first. Free of torch.

Costs and sizes of each: ``syllabary show RECIPE``. Channels and strides of a decoder mirror those of its encoder.
"""

from __future__ import annotations

from model.config import (
    ConformerConfig,
    DaamConfig,
    DiscriminatorConfig,
    EncoderConfig,
    HifiganDecoderConfig,
    IstftDecoderConfig,
    JepaConfig,
    ModelConfig,
    PredictorConfig,
    SpectralFrontEndConfig,
    WaveformFrontEndConfig,
)

SAMPLE_RATE_16K = 16_000
STRIDES_16K = (8, 8, 5, 5, 4)


def paper_model() -> ModelConfig:
    """The paper's, to the parameter: 24 kHz, symmetric DAAM init, masks after the encoder."""
    return ModelConfig(encoder=EncoderConfig(daam=DaamConfig(init="paper")))


def base16k_model() -> ModelConfig:
    """16 kHz, the same 2.5 Hz. A third of the paper's arithmetic goes into bands that LibriLight does not have, most of
    the rest into first stages at kilohertz rates: those are narrowed here, and the slow, wide ones kept.
    """
    return ModelConfig(
        encoder=EncoderConfig(
            sample_rate=SAMPLE_RATE_16K,
            front_end=WaveformFrontEndConfig(channels=(32, 48, 128, 320, 512, 512), strides=STRIDES_16K),
        ),
        decoder=HifiganDecoderConfig(channels=(512, 512, 320, 128, 64, 32), strides=STRIDES_16K[::-1]),
    )


def small_model(strides: tuple[int, ...] = STRIDES_16K) -> ModelConfig:
    """The paper's at an eighth of its channels, with 2 residual blocks and 2 Conformer layers, at 16 kHz."""
    return ModelConfig(
        encoder=EncoderConfig(
            sample_rate=SAMPLE_RATE_16K,
            front_end=WaveformFrontEndConfig(channels=(8, 16, 32, 48, 64, 64), strides=strides, num_residual_blocks=2),
            conformer=ConformerConfig(num_layers=2),
        ),
        jepa=JepaConfig(predictor=PredictorConfig(hidden_dim=128)),
        decoder=HifiganDecoderConfig(channels=(64, 64, 48, 32, 16, 8), strides=strides[::-1]),
        discriminator=DiscriminatorConfig(channel_divisor=8),
    )


def tiny_model() -> ModelConfig:
    """As ``small``, with a smaller decoder and predictor and clips of at most 4.8 s."""
    small = small_model()
    encoder = small.encoder.model_copy(
        update={"window_s": 4.8, "conformer": ConformerConfig(num_layers=2, num_heads=4, conv_kernel=7)}
    )
    decoder = HifiganDecoderConfig(
        channels=(64, 48, 32, 32, 16, 8),
        strides=STRIDES_16K[::-1],
        mrf_kernels=(3, 7),
        mrf_dilations=((1, 3), (1, 3)),
    )
    return ModelConfig(
        encoder=encoder,
        decoder=decoder,
        jepa=JepaConfig(predictor=PredictorConfig(hidden_dim=64, num_heads=4, conv_kernel=7)),
        discriminator=DiscriminatorConfig(periods=(2, 5), num_scales=1, channel_divisor=16),
    )


def fast16k_model() -> ModelConfig:
    """Beyond the paper: spectral front end and inverse-STFT decoder at 16 kHz and the same 2.5 Hz."""
    return ModelConfig(
        encoder=EncoderConfig(sample_rate=SAMPLE_RATE_16K, front_end=SpectralFrontEndConfig()),
        decoder=IstftDecoderConfig(),
    )


def fast16k_small_model() -> ModelConfig:
    """``fast16k`` at a size that learns on a CPU in hours."""
    return ModelConfig(
        encoder=EncoderConfig(
            sample_rate=SAMPLE_RATE_16K,
            front_end=SpectralFrontEndConfig(channels=(128, 160, 192, 256), num_blocks=(3, 2, 2, 2)),
            conformer=ConformerConfig(num_layers=2),
        ),
        jepa=JepaConfig(predictor=PredictorConfig(hidden_dim=128)),
        decoder=IstftDecoderConfig(channels=(384, 384, 320, 256), num_blocks=(2, 2, 2, 6)),
        discriminator=DiscriminatorConfig(channel_divisor=8),
    )
