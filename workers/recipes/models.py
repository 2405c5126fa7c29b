"""The models that recipes choose from, largest first. Free of torch.

Costs and sizes of each: ``syllabary show RECIPE``. Channels and strides of a decoder mirror those of its encoder.
"""

from __future__ import annotations

from syllabary.model.config import (
    CodecLossConfig,
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
SHORT_KERNEL = 7  # of the Conformers' depthwise convolutions: a clip has 12 to 38 frames, the paper's kernel 31
FORMANT_GAIN = 1.0  # of spectral decoders (decision 0023)
NEAR = 12  # frames on either side that a Conformer attends to: no farther than a training clip of 6 s shows it


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
            conformer=ConformerConfig(conv_kernel=SHORT_KERNEL),
        ),
        jepa=JepaConfig(predictor=PredictorConfig(conv_kernel=SHORT_KERNEL)),
        decoder=HifiganDecoderConfig(channels=(512, 512, 320, 128, 64, 32), strides=STRIDES_16K[::-1]),
    )


def small_model(strides: tuple[int, ...] = STRIDES_16K) -> ModelConfig:
    """The paper's at an eighth of its channels, with 2 residual blocks and 2 Conformer layers, at 16 kHz."""
    return ModelConfig(
        encoder=EncoderConfig(
            sample_rate=SAMPLE_RATE_16K,
            front_end=WaveformFrontEndConfig(channels=(8, 16, 32, 48, 64, 64), strides=strides, num_residual_blocks=2),
            conformer=ConformerConfig(num_layers=2, conv_kernel=SHORT_KERNEL),
        ),
        jepa=JepaConfig(predictor=PredictorConfig(hidden_dim=128, conv_kernel=SHORT_KERNEL)),
        decoder=HifiganDecoderConfig(channels=(64, 64, 48, 32, 16, 8), strides=strides[::-1]),
        discriminator=DiscriminatorConfig(channel_divisor=8),
    )


def tiny_paper_model() -> ModelConfig:
    """As ``small``, with a smaller decoder and predictor and clips of at most 4.8 s."""
    small = small_model()
    conformer = ConformerConfig(num_layers=2, num_heads=4, conv_kernel=SHORT_KERNEL)
    encoder = small.encoder.model_copy(update={"window_s": 4.8, "conformer": conformer})
    decoder = HifiganDecoderConfig(
        channels=(64, 48, 32, 32, 16, 8),
        strides=STRIDES_16K[::-1],
        mrf_kernels=(3, 7),
        mrf_dilations=((1, 3), (1, 3)),
    )
    return ModelConfig(
        encoder=encoder,
        decoder=decoder,
        jepa=JepaConfig(predictor=PredictorConfig(hidden_dim=64, num_heads=4, conv_kernel=SHORT_KERNEL)),
        discriminator=DiscriminatorConfig(periods=(2, 5), num_scales=1, channel_divisor=16),
    )


def fast16k_model() -> ModelConfig:
    """Beyond the paper: spectral front end and inverse-STFT decoder at 16 kHz and the same 2.5 Hz; most of its 43 M
    parameters work at 12.5 and 2.5 Hz."""
    return _spectral(
        SpectralFrontEndConfig(channels=(256, 384, 512), num_blocks=(3, 6, 2), attention_layers=(0, 3, 1)),
        IstftDecoderConfig(channels=(512, 512, 384, 384), num_blocks=(2, 4, 4, 6), attention_layers=(0, 2, 0, 0)),
        ConformerConfig(num_layers=4, conv_kernel=SHORT_KERNEL, positions="rotary", reach=NEAR),
    )


def fast16k_small_model() -> ModelConfig:
    """``fast16k`` at a size that learns on a CPU in hours."""
    return _spectral(
        SpectralFrontEndConfig(channels=(128, 256, 384), num_blocks=(3, 4, 2), attention_layers=(0, 2, 1)),
        IstftDecoderConfig(channels=(384, 384, 256, 256), num_blocks=(2, 3, 3, 6), attention_layers=(0, 2, 0, 0)),
        ConformerConfig(num_layers=2, conv_kernel=SHORT_KERNEL, positions="rotary", reach=NEAR),
        channel_divisor=8,
    )


def tiny_model() -> ModelConfig:
    """``fast16k`` small enough to learn in minutes on two cores; clips of at most 6 s."""
    return _spectral(
        SpectralFrontEndConfig(channels=(96, 192, 256), num_blocks=(2, 3, 1), attention_layers=(0, 1, 1)),
        IstftDecoderConfig(channels=(256, 256, 160, 160), num_blocks=(1, 2, 2, 3), attention_layers=(0, 1, 0, 0)),
        ConformerConfig(num_layers=1, conv_kernel=SHORT_KERNEL, positions="rotary", reach=NEAR),
        channel_divisor=16,
        window_s=6.0,
    )


def _spectral(
    front_end: SpectralFrontEndConfig,
    decoder: IstftDecoderConfig,
    conformer: ConformerConfig,
    *,
    channel_divisor: int = 4,
    window_s: float = 15.0,
) -> ModelConfig:
    """Both spectral halves at 16 kHz, with judges of spectra and periods and losses on mel spectra alone."""
    return ModelConfig(
        encoder=EncoderConfig(sample_rate=SAMPLE_RATE_16K, window_s=window_s, front_end=front_end, conformer=conformer),
        jepa=JepaConfig(
            predictor=PredictorConfig(conv_kernel=SHORT_KERNEL, positions="rotary", reach=NEAR), mask_at="input"
        ),
        decoder=decoder.model_copy(update={"formant_gain": FORMANT_GAIN}),
        discriminator=DiscriminatorConfig(
            num_scales=0,
            spectral_ffts=(1024, 512, 256),
            spectral_power=0.3,
            unit_gain=True,
            channel_divisor=channel_divisor,
        ),
        losses=CodecLossConfig(
            waveform_weight=0.0,
            mrstft_weight=0.0,
            mel_weight=2.0,
            adversarial_weight=1.0,
            feature_matching_weight=2.0,
            relative_matching=True,
        ),
    )
