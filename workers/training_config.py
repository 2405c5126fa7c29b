"""How the two stages are trained: steps, batches, optimizer, schedule, engine and health limits. Free of torch."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator


class Config(BaseModel):
    """Base of the training configurations: frozen, unknown keys refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class OptimizerConfig(Config):
    """AdamW (PAPER section stage 1) with linear warm-up and optional cosine decay to ``final_lr_fraction``."""

    lr: float = Field(default=1.5e-4, gt=0)
    betas: tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]] = (0.8, 0.99)
    weight_decay: float = Field(default=1e-3, ge=0)
    warmup_steps: int = Field(default=0, ge=0)
    final_lr_fraction: float = Field(default=1.0, ge=0, le=1)
    clip_norm: float = Field(default=1.0, ge=0)


class AugmentConfig(Config):
    """Seeded for each sample: a gain drawn from [-gain_db, gain_db] and white noise at ``noise_snr_db`` below it.

    The paper uses none, so both are off unless asked for.
    """

    gain_db: float = Field(default=0.0, ge=0)
    noise_snr_db: float | None = None


class TrainConfig(Config):
    """What both stages share.

    ``crop_s`` is the longest crop of an utterance (None: the encoder's window). ``precision`` other than fp32 is
    autocast: weights, optimizer state and EMA stay fp32 under every ZeRO stage.
    """

    seed: int = 0
    num_steps: int = Field(default=24_000, ge=1)
    micro_batch_size: int = Field(default=32, ge=1)
    grad_accum_steps: int = Field(default=1, ge=1)
    num_workers: int = Field(default=1, ge=1)
    threads_per_worker: int = Field(default=1, ge=1)
    device: Literal["cpu", "cuda", "auto"] = "auto"
    crop_s: float | None = Field(default=None, gt=0)
    augment: AugmentConfig = AugmentConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    zero_stage: int = Field(default=0, ge=0)
    checkpoint_every: int = Field(default=1000, ge=1)
    keep_checkpoints: int = Field(default=3, ge=1)
    validate_every: int = Field(default=500, ge=1)
    num_validation_utterances: int = Field(default=64, ge=1)
    log_every: int = Field(default=10, ge=1)
    max_quarantined_percent: float = Field(default=5.0, ge=0, le=100)
    max_restarts: int = Field(default=3, ge=0)
    collective_timeout_s: int = Field(default=600, ge=1)

    @field_validator("zero_stage")
    @classmethod
    def _zero_keeps_whole_parameters(cls, value: int) -> int:
        if value > 2:
            raise ValueError(
                "ZeRO 3 splits the parameters, and the EMA target and the shared discriminators need them "
                "whole; use zero_stage 0, 1 or 2"
            )
        return value


class PretrainConfig(TrainConfig):
    """Stage 1: the JEPA encoder. ``export_encoder`` "context" is the one that the paper goes on with; the "target", its
    moving average, collapses more slowly in short runs."""

    export_encoder: Literal["context", "target"] = "context"


class CodecTrainConfig(TrainConfig):
    """Stage 2: FSQ and decoder. ``train_encoder`` "finetune" follows the paper's text, "frozen" its code.

    ``standardize_latents`` starts from an encoder whose every dim has mean 0 and standard deviation 1 on training clips
    (see ``workers.latent_scale``); the paper takes latents as they come.
    ``cache_latents`` (frozen only) encodes each utterance once, with one fixed crop, and keeps its latents in memory.
    """

    num_steps: int = Field(default=29_000, ge=1)
    micro_batch_size: int = Field(default=8, ge=1)
    train_encoder: Literal["frozen", "finetune"] = "frozen"
    standardize_latents: bool = True
    cache_latents: bool = False
    discriminator_start_step: int = Field(default=5_000, ge=0)
    discriminator_lr_fraction: float = Field(default=0.5, gt=0)
    num_samples_kept: int = Field(default=2, ge=0, description="validation utterances reconstructed at intervals")

    @model_validator(mode="after")
    def _cache_needs_a_fixed_encoder(self) -> Self:
        if self.cache_latents and self.train_encoder != "frozen":
            raise ValueError(
                "cache_latents needs train_encoder frozen: a fine-tuned encoder's latents change; change one of them"
            )
        if self.cache_latents and self.augment != AugmentConfig():
            raise ValueError("cache_latents needs augment off: each epoch would need other latents; change one of them")
        return self
