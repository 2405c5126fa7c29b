"""What is asked of the engines, without one: precision, device, rates, DeepSpeed's settings and the loss scale."""

from __future__ import annotations

from types import MethodType
from typing import Any

import pytest
import torch

from syllabary.shards.errors import ConfigError
from syllabary.workers.recipes.recipe import CodecTrainConfig, OptimizerConfig, PretrainConfig, TrainConfig
from syllabary.workers.training import engine
from syllabary.workers.training.engine import (
    FIRST_FACTOR,
    GROWTH_STEPS,
    HIGHEST_FACTOR,
    LossScale,
    deepspeed_config,
    learning_rate,
    select_device,
)


def test_fp16_on_the_cpu_and_a_missing_gpu_are_refused_in_one_line():
    with pytest.raises(ConfigError, match=r"precision fp16 needs a GPU.*bf16") as refused:
        select_device(TrainConfig(precision="fp16", device="cpu"))
    assert "\n" not in str(refused.value)
    if not torch.cuda.is_available():
        with pytest.raises(ConfigError, match="no GPU"):
            select_device(TrainConfig(device="cuda"))


def test_zero_3_is_refused_with_its_reason():
    with pytest.raises(ValueError, match=r"EMA target .* need them whole; use zero_stage 0, 1 or 2"):
        PretrainConfig(zero_stage=3)


def test_cached_latents_need_a_frozen_encoder_and_no_augmentation():
    with pytest.raises(ValueError, match="cache_latents needs train_encoder frozen"):
        CodecTrainConfig(cache_latents=True, train_encoder="finetune")
    with pytest.raises(ValueError, match="cache_latents needs augment off"):
        CodecTrainConfig(cache_latents=True, train_encoder="frozen", augment={"gain_db": 3})


def test_warm_up_then_cosine_decay():
    optimizer = OptimizerConfig(lr=2.0, warmup_steps=4, final_lr_fraction=0.5)
    rates = [learning_rate(optimizer, step, 12) for step in range(1, 13)]
    assert rates[:4] == [0.5, 1.0, 1.5, 2.0]
    assert rates[7] == pytest.approx(1.5)
    assert rates[11] == pytest.approx(1.0)
    assert learning_rate(OptimizerConfig(lr=3.0), 7, 10) == 3.0


def test_deepspeed_is_told_nothing_but_what_it_takes():
    config = deepspeed_config(TrainConfig(precision="bf16", zero_stage=1, optimizer=OptimizerConfig(clip_norm=0.5)))
    assert config["gradient_clipping"] == 0.5
    assert config["zero_optimization"] == {"stage": 1}
    assert config["torch_autocast"] == {"enabled": True, "dtype": "bfloat16", "lower_precision_safe_modules": []}
    assert "fp16" not in config and "bf16" not in config  # either would lower the weights themselves


class _Engine:
    """What DeepSpeed would answer of itself."""

    def __init__(self, **answers: Any) -> None:
        asked = {
            "zero_optimization_stage": 1, "gradient_accumulation_steps": 1, "gradient_clipping": 1.0,
            "train_micro_batch_size_per_gpu": 32, "torch_autocast_enabled": False,
            "torch_autocast_dtype": torch.bfloat16,
        }  # fmt: skip
        for name, value in (asked | answers).items():
            setattr(self, name, lambda value=value: value)


@pytest.mark.parametrize(
    ("answer", "named"),
    [
        ({"zero_optimization_stage": 0}, "zero_stage 0"),
        ({"gradient_accumulation_steps": 4}, "grad_accum_steps 4"),
        ({"gradient_clipping": 0.0}, r"clip_norm 0\.0"),
        ({"torch_autocast_enabled": True}, "precision 'bf16'"),
    ],
)
def test_a_setting_that_deepspeed_would_ignore_stops_the_run_in_one_line(answer, named):
    train = TrainConfig(zero_stage=1)
    engine._require_as_asked(_Engine(), train)
    with pytest.raises(ConfigError, match=f"DeepSpeed would train with {named}") as refused:
        engine._require_as_asked(_Engine(**answer), train)
    assert "\n" not in str(refused.value)


def test_a_gpu_gets_nccl_and_half_precision_and_a_cpu_gloo(monkeypatch):
    import deepspeed

    asked: list[str] = []
    monkeypatch.setattr(deepspeed, "init_distributed", lambda dist_backend, **_: asked.append(dist_backend))
    monkeypatch.setenv("DS_ACCELERATOR", "cpu")
    for name in ("cuda", "cpu"):
        engine.join_process_group(torch.device(name))
    assert asked == ["nccl", "gloo"]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)
    assert select_device(TrainConfig(precision="fp16")) == torch.device("cuda", 1)
    assert select_device(TrainConfig(device="cpu")).type == "cpu"
    assert deepspeed_config(TrainConfig(precision="fp16"))["torch_autocast"]["dtype"] == "float16"


def test_the_shared_memory_operator_can_still_be_declared_incompatible():
    import deepspeed.ops

    assert "deepspeed_shm_comm" in deepspeed.ops.__compatible_ops__


def test_the_scale_halves_at_an_overflow_and_doubles_after_a_long_time_without():
    scale = LossScale()
    scale.update(overflowed=True)
    assert (scale.factor, scale.good_steps) == (FIRST_FACTOR / 2, 0)
    for _ in range(GROWTH_STEPS - 1):
        scale.update(overflowed=False)
    assert scale.factor == FIRST_FACTOR / 2
    scale.update(overflowed=False)
    assert (scale.factor, scale.good_steps) == (FIRST_FACTOR, 0)
    highest = LossScale(HIGHEST_FACTOR, GROWTH_STEPS - 1)
    highest.update(overflowed=False)
    assert highest.factor == HIGHEST_FACTOR


def test_an_overflow_at_no_scale_at_all_is_told_as_a_gradient_that_is_not_finite():
    assert LossScale(2.0).judge(float("inf")) == {"loss_scale": 1.0}
    assert LossScale(1.0).judge(float("inf")) == {"loss_scale": 0.5, "gradient_norm": float("inf")}


@pytest.mark.parametrize(("world_size", "expected"), [(1, [1.0, 2.0]), (2, [101.0, 102.0])])
def test_a_sum_is_taken_over_all_ranks_where_there_are_several(monkeypatch, world_size, expected):
    monkeypatch.setattr(engine, "world", lambda: (0, world_size))
    monkeypatch.setattr(engine.dist, "all_reduce", lambda values: values.add_(100))  # what the other rank has
    values = torch.tensor([1.0, 2.0])
    assert engine.sum_over_ranks(values).tolist() == expected == values.tolist()


class _Zero:
    """DeepSpeed's ZeRO optimizer as far as it scales losses: its own methods, without parameters and ranks."""

    def __init__(self) -> None:
        from deepspeed.runtime.zero.stage_1_and_2 import DeepSpeedZeroOptimizer as Zero

        self.custom_loss_scaler, self.external_loss_scale = False, None
        self.torch_autocast_gradscaler = self.loss_scaler = None
        self.override_loss_scale, self.scale = (
            MethodType(method, self) for method in (Zero.override_loss_scale, Zero.scale_if_loss)
        )


@pytest.mark.parametrize(("scaling", "gradient"), [(None, 3.0), (LossScale(16.0), 48.0)])
def test_zero_scales_a_loss_by_the_factor_of_fp16_and_by_none_otherwise(scaling, gradient):
    leaf, optimizer = torch.tensor(2.0, requires_grad=True), _Zero()
    asked = _Engine()
    asked.scaling, asked.optimizer = scaling, optimizer
    asked.backward = lambda loss: (optimizer.scale(loss) if optimizer.custom_loss_scaler else loss).backward()
    engine.backward(asked, 3 * leaf)
    assert leaf.grad == gradient


@pytest.mark.parametrize("universal", [False, True])
def test_deepspeed_is_told_of_a_checkpoint_of_other_ranks_only_where_there_is_one(monkeypatch, universal):
    import deepspeed
    from deepspeed.runtime.config import DeepSpeedConfig

    asked = {}

    def initialize(config, **_):
        asked.update(config)
        raise InterruptedError

    monkeypatch.setattr(deepspeed, "initialize", initialize)
    part = torch.nn.Linear(1, 1)
    with pytest.raises(InterruptedError):
        engine.build_engine(part, [(part, 1.0)], TrainConfig(), 1e-3, load_universal=universal)
    assert DeepSpeedConfig(asked).load_universal_checkpoint is universal
