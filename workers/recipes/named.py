"""The named recipes, each a function that returns a whole configuration, and a recipe by its name. Free of torch.

Before them stand the models that they choose from, largest first. Costs and sizes of each: ``syllabary show RECIPE``.
Channels and strides of a decoder mirror those of its encoder.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

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
from syllabary.shards.errors import ConfigError
from syllabary.shards.ingest.config import IngestConfig
from syllabary.workers.recipes.recipe import (
    AugmentConfig,
    BottleneckConfig,
    CodecTrainConfig,
    OptimizerConfig,
    PretrainConfig,
    Recipe,
    VocoderConfig,
    overlaid,
    varied,
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
            predictor=PredictorConfig(conv_kernel=SHORT_KERNEL, positions="rotary", reach=NEAR),
            mask_at="input",
            variance_weight=0.02,  # enough to keep the latents' rank, and the voice with it (decision 0025)
            covariance_weight=0.001,
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


def paper() -> Recipe:
    """The paper's tokenizer at 24 kHz: 2.5 frames/s, 47.5 tokens/s, 640 bit/s; 191 M parameters; encoder fine-tuned."""
    codec = CodecTrainConfig(train_encoder="finetune", standardize_latents=False)
    return Recipe(name="paper", model=paper_model(), codec=codec)


def base16k() -> Recipe:
    """The paper's architecture at 16 kHz, narrower where rates are high: over four times cheaper, the same 2.5 Hz."""
    return Recipe(name="base16k", model=base16k_model(), ingest=_INGEST_16K)


def small() -> Recipe:
    """The paper's architecture at an eighth of its channels, 16 kHz: the base of the ablations below."""
    return Recipe(name="small", model=small_model(), ingest=_INGEST_16K)


def fast16k() -> Recipe:
    """Beyond the paper: spectral front end, inverse-STFT decoder, bottleneck first; same latents, FSQ and packing."""
    return Recipe(
        name="fast16k",
        model=fast16k_model(),
        ingest=_INGEST_16K,
        pretrain=_spectral_pretrain(num_steps=24_000),
        codec=_spectral_codec(num_steps=29_000),
    )


def fast16k_small() -> Recipe:
    """fast16k at a size that learns on a CPU in hours."""
    return Recipe(
        name="fast16k_small",
        model=fast16k_small_model(),
        ingest=_INGEST_16K,
        pretrain=_spectral_pretrain(num_steps=3_000, micro_batch_size=8),
        codec=_spectral_codec(num_steps=8_000),
    )


def speech16k() -> Recipe:
    """The tokenizer that ships: fast16k_small trained on 434 readers in hours of two cores (infra/speech16k)."""
    codec = _spectral_codec(num_steps=5_400)
    return Recipe(
        name="speech16k",
        model=fast16k_small_model(),
        ingest=_INGEST_16K.model_copy(update={"valid_percent": 4.0, "test_percent": 12.0, "shard_size_mb": 32.0}),
        pretrain=_spectral_pretrain(num_steps=3_000, micro_batch_size=8),
        codec=codec.model_copy(
            update={
                "optimizer": codec.optimizer.model_copy(update={"lr": 5e-4, "warmup_steps": 250}),
                "bottleneck": BottleneckConfig(share=0.55),
                "vocoder": codec.vocoder.model_copy(update={"discriminator_start_step": 800}),
            }
        ),
    )


def speech16k_demo() -> Recipe:
    """speech16k for `run`: a few steps of both stages from the weights that ship."""
    return demo_of(speech16k())


def tiny() -> Recipe:
    """fast16k small enough to learn in minutes on two cores: 16 kHz, 2.5 frames/s."""
    return Recipe(
        name="tiny",
        model=tiny_model(),
        ingest=_TINY_INGEST,
        pretrain=_tiny_pretrain(),
        codec=_tiny_codec(),
    )


def tiny_paper() -> Recipe:
    """The paper's architecture and training made small enough for minutes on two cores: 16 kHz, 2.5 frames/s."""
    return Recipe(
        name="tiny_paper",
        model=tiny_paper_model(),
        ingest=_TINY_INGEST.model_copy(update={"max_utterance_s": 4.8}),
        pretrain=_tiny_paper_pretrain(),
        codec=_tiny_paper_codec(),
    )


def small_no_daam() -> Recipe:
    """Ablation of small: no DAAM gate anywhere."""
    return _variant("small_no_daam", {"model": {"encoder": {"daam": {"enabled": False}}}})


def small_daam_k1() -> Recipe:
    """Ablation of small: one Gaussian a DAAM gate."""
    return _variant("small_daam_k1", {"model": {"encoder": {"daam": {"num_gaussians": 1}}}})


def small_daam_symmetric() -> Recipe:
    """Ablation of small: the paper's DAAM init, whose four Gaussians stay one."""
    return _variant("small_daam_symmetric", {"model": {"encoder": {"daam": {"init": "paper"}}}})


def small_decoder_daam() -> Recipe:
    """Ablation of small: DAAM gates in the decoder too."""
    return _variant("small_decoder_daam", {"model": {"decoder": {"daam": True}}})


def small_mask_features() -> Recipe:
    """Ablation of small: masks before the Conformers (small itself masks after them, as the paper does)."""
    return _variant("small_mask_features", {"model": {"jepa": {"mask_at": "features"}}})


def small_finetune() -> Recipe:
    """Ablation of small: stage 2 fine-tunes the encoder (small itself freezes it, as the paper's code does)."""
    return _variant("small_finetune", {"codec": {"train_encoder": "finetune"}})


def small_levels8() -> Recipe:
    """Ablation of small: 8 levels, 5 dims per token: 26 tokens per frame, 960 bit/s."""
    return _variant("small_levels8", {"model": {"fsq": {"levels": 8, "group_size": 5}}})


def small_group8() -> Recipe:
    """Ablation of small: 8 dims per token: 16 tokens per frame, vocabulary 65,536, no position with fewer ids."""
    return _variant("small_group8", {"model": {"fsq": {"group_size": 8}}})


def small_group4() -> Recipe:
    """Ablation of small: 4 dims per token: 32 tokens per frame, vocabulary 256."""
    return _variant("small_group4", {"model": {"fsq": {"group_size": 4}}})


def small_5hz() -> Recipe:
    """Ablation of small: 5 frames per second, 1,280 bit/s."""
    model = small_model(strides=(8, 8, 5, 5, 2))
    return Recipe(name="small_5hz", model=model, ingest=_INGEST_16K)


def small_12hz() -> Recipe:
    """Ablation of small: 12.5 frames per second, 3,200 bit/s."""
    model = small_model(strides=(8, 4, 5, 4, 2))
    return Recipe(name="small_12hz", model=model, ingest=_INGEST_16K)


_INGEST_16K = IngestConfig(max_sample_rate=16_000)
_TINY_INGEST = IngestConfig(
    max_utterance_s=6.0, max_sample_rate=16_000, shard_size_mb=4, valid_percent=10, test_percent=10
)
_AUGMENT = AugmentConfig(speed_percent=12, input_noise_share=0.3)


def _variant(name: str, changes: dict[str, Any]) -> Recipe:
    """``small`` with some values changed."""
    return varied(small(), {"name": name, **changes})


def _spectral_pretrain(num_steps: int, micro_batch_size: int = 32) -> PretrainConfig:
    """Clips of 6 s, a small rate with warm-up and cosine: what keeps a JEPA from becoming a clock."""
    return PretrainConfig(
        num_steps=num_steps,
        micro_batch_size=micro_batch_size,
        crop_s=6.0,
        precision="auto",
        augment=_AUGMENT.model_copy(update={"input_noise_share": 0.0}),
        export_encoder="target",
        optimizer=OptimizerConfig(lr=1e-4, warmup_steps=num_steps // 10, final_lr_fraction=0.05),
    )


def _spectral_codec(num_steps: int) -> CodecTrainConfig:
    """Bottleneck first, augmented clips of 6 s."""
    return CodecTrainConfig(
        method="bottleneck_first",
        train_encoder="finetune",
        num_steps=num_steps,
        micro_batch_size=10,
        crop_s=6.0,
        precision="auto",
        augment=_AUGMENT,
        optimizer=OptimizerConfig(lr=3e-4, weight_decay=1e-2, warmup_steps=num_steps // 10, final_lr_fraction=0.02),
        vocoder=VocoderConfig(trunk_lr_fraction=0.5),
    )


def demo_of(recipe: Recipe) -> Recipe:
    """A few steps of both stages for `run` on the demo speech, from weights that are trained already.

    Stage 2's rates are a fraction of a training's, so that minutes on four voices do not undo hours on hundreds, and
    the discriminators, which begin untrained, have no say. Stage 1, whose predictor begins untrained and whose encoder
    such a run does not take, keeps its rate.
    """
    few = {"num_workers": 2, "micro_batch_size": 3, "validate_every": 20, "checkpoint_every": 20, "log_every": 5,
           "num_validation_utterances": 32}  # fmt: skip
    gentle = {"optimizer": {"lr": 2e-5, "warmup_steps": 5}}
    ingest = _TINY_INGEST.model_dump(mode="json") | {"max_sample_rate": recipe.ingest.max_sample_rate}
    codec = {"bottleneck": {"share": 0.5}, "vocoder": {**gentle, "discriminator_start_step": 60}}
    changes = {
        "name": f"{recipe.name}_demo",
        "ingest": ingest,
        "pretrain": {**few, "optimizer": {"warmup_steps": 5}, "num_steps": 20},
        "codec": {**few, **gentle, "num_steps": 60, **codec},
    }
    return varied(recipe, changes)


def _tiny_pretrain() -> PretrainConfig:
    return _spectral_pretrain(num_steps=60, micro_batch_size=5).model_copy(
        update={
            "num_workers": 2, "checkpoint_every": 30, "validate_every": 30, "num_validation_utterances": 32,
            "log_every": 5,
        }
    )  # fmt: skip


def _tiny_codec() -> CodecTrainConfig:
    values = _spectral_codec(num_steps=800)
    return values.model_copy(
        update={
            "num_workers": 2, "micro_batch_size": 5, "checkpoint_every": 100, "validate_every": 200,
            "num_validation_utterances": 32, "log_every": 10,
            "vocoder": values.vocoder.model_copy(update={"discriminator_start_step": 20}),
            "optimizer": values.optimizer.model_copy(update={"lr": 8e-4}),
        }
    )  # fmt: skip


def _tiny_paper_pretrain() -> PretrainConfig:
    return PretrainConfig(
        num_steps=120,
        num_workers=2,
        micro_batch_size=4,
        export_encoder="target",
        optimizer=OptimizerConfig(lr=5e-4, warmup_steps=20, final_lr_fraction=0.1),
        checkpoint_every=40,
        validate_every=40,
        num_validation_utterances=32,
        log_every=5,
    )


def _tiny_paper_codec() -> CodecTrainConfig:
    return CodecTrainConfig(
        num_steps=240,
        num_workers=2,
        micro_batch_size=4,
        crop_s=1.6,
        optimizer=OptimizerConfig(lr=2e-3, warmup_steps=20, final_lr_fraction=0.1),
        discriminator_start_step=160,
        checkpoint_every=40,
        validate_every=80,
        num_validation_utterances=32,
        log_every=5,
    )


_ALL = (
    paper,
    base16k,
    fast16k,
    fast16k_small,
    speech16k,
    speech16k_demo,
    small,
    tiny,
    tiny_paper,
    small_no_daam,
    small_daam_k1,
    small_daam_symmetric,
    small_decoder_daam,
    small_mask_features,
    small_finetune,
    small_levels8,
    small_group8,
    small_group4,
    small_5hz,
    small_12hz,
)
RECIPES: Mapping[str, Callable[[], Recipe]] = {recipe.__name__: recipe for recipe in _ALL}


def resolve(name: str, *, config_uri: str | None = None, overrides: Iterable[str] = ()) -> Recipe:
    """The recipe of that name, with a YAML file and then ``a.b=c`` overrides laid over it.

    Raises:
        ConfigError: an unknown recipe, an unknown key, or a value that breaks a rule; the message names value, rule
            and fix.
    """
    if name not in RECIPES:
        raise ConfigError(
            "unknown recipe", value=name, expected=f"one of {', '.join(sorted(RECIPES))}", fix="see `syllabary recipes`"
        )
    return overlaid(RECIPES[name](), config_uri=config_uri, overrides=overrides)
