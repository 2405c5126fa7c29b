"""How the two stages are trained: steps, batches, optimizer, schedule, engine and health limits. Free of torch."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class Config(BaseModel):
    """Base of the training configurations: frozen, unknown keys refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class OptimizerConfig(Config):
    """AdamW (PAPER section stage 1) with linear warm-up and optional cosine decay to ``final_lr_fraction``."""

    lr: float = Field(default=1.5e-4, gt=0)
    betas: tuple[float, float] = (0.8, 0.99)
    weight_decay: float = Field(default=1e-3, ge=0)
    warmup_steps: int = Field(default=0, ge=0)
    final_lr_fraction: float = Field(default=1.0, ge=0, le=1)
    clip_norm: float = Field(default=1.0, ge=0)


class TrainConfig(Config):
    """What both stages share."""

    seed: int = 0
    num_steps: int = Field(default=24_000, ge=1)
    micro_batch_size: int = Field(default=32, ge=1)
    grad_accum_steps: int = Field(default=1, ge=1)
    num_workers: int = Field(default=1, ge=1)
    optimizer: OptimizerConfig = OptimizerConfig()
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    zero_stage: Literal[0, 1, 2] = 0
    checkpoint_every: int = Field(default=1000, ge=1)
    keep_checkpoints: int = Field(default=3, ge=1)
    validate_every: int = Field(default=500, ge=1)
    num_validation_utterances: int = Field(default=64, ge=1)
    log_every: int = Field(default=10, ge=1)


class PretrainConfig(TrainConfig):
    """Stage 1: the JEPA encoder."""


class CodecTrainConfig(TrainConfig):
    """Stage 2: FSQ and decoder. ``train_encoder`` "finetune" follows the paper's text, "frozen" its code."""

    num_steps: int = Field(default=29_000, ge=1)
    micro_batch_size: int = Field(default=8, ge=1)
    train_encoder: Literal["frozen", "finetune"] = "frozen"
    discriminator_start_step: int = Field(default=5_000, ge=0)
    discriminator_lr_fraction: float = Field(default=0.5, gt=0)
