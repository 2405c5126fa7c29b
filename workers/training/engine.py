"""DeepSpeed engines: how a module, its trainable parameters and a training configuration become a sharded optimizer.

Weights stay fp32 and whole on every rank (ZeRO 0 to 2, autocast for lower precisions), so that an EMA of them and the
export read them directly. All of this rests on torch's AdamW: DeepSpeed's own CPU Adam is compiled on first use.

fp16's smallest number is 6e-8, so the loss is multiplied and the gradient divided again (:class:`LossScale`). DeepSpeed
has a scaler for autocast, which is switched off here (0.19.8): under ZeRO 1 and 2 it clips and measures the gradient
while it is still multiplied, an overflow leaves the step out but never lowers the factor, so that every step after it
is left out too, and no checkpoint holds the factor, so that a resumed run goes on with another one.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed import distributed_c10d

from syllabary.shards.errors import ConfigError
from syllabary.workers.recipes.recipe import OptimizerConfig, TrainConfig

T = TypeVar("T")
_BUCKET_NUMEL = 1 << 22
_DTYPES = {"bf16": "bfloat16", "fp16": "float16"}
FIRST_FACTOR, HIGHEST_FACTOR, LOWEST_FACTOR = 2.0**16, 2.0**24, 1.0
GROWTH_STEPS = 2000
_STATE = "syllabary_loss_scale"


def select_device(train: TrainConfig) -> torch.device:
    """The device of this process, after checking that it can train at the asked precision.

    Raises:
        ConfigError: no GPU although one is asked for, or fp16 on the CPU.
    """
    cuda = torch.cuda.is_available()
    if train.device == "cuda" and not cuda:
        raise ConfigError("device cuda, but this machine has no GPU", fix="--set STAGE.device=cpu")
    device = (
        torch.device("cuda", torch.cuda.current_device()) if cuda and train.device != "cpu" else torch.device("cpu")
    )
    if train.precision == "fp16" and device.type == "cpu":
        raise ConfigError(
            "precision fp16 needs a GPU",
            value=train.precision,
            expected="fp32 or bf16 on the CPU",
            fix="--set STAGE.precision=bf16",
        )
    return device


def join_process_group(device: torch.device) -> None:
    """Let DeepSpeed use the process group that Ray Train (or a test) has made; makes a gloo or nccl one if none is.

    DeepSpeed would compile a shared-memory operator for CPU collectives on first use (over a minute, and it needs
    ninja); gloo does without, so the operator is declared incompatible.
    """
    os.environ.setdefault("DS_ACCELERATOR", device.type)
    logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
    import deepspeed
    import deepspeed.ops

    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
    backend = "nccl" if device.type == "cuda" else "gloo"
    deepspeed.init_distributed(dist_backend=backend, auto_mpi_discovery=False, verbose=False)


def deepspeed_config(train: TrainConfig) -> dict[str, Any]:
    """The whole DeepSpeed configuration; nothing in it comes from the user unchecked."""
    config: dict[str, Any] = {
        "train_micro_batch_size_per_gpu": train.micro_batch_size,
        "gradient_accumulation_steps": train.grad_accum_steps,
        "gradient_clipping": train.optimizer.clip_norm,
        "zero_optimization": {"stage": train.zero_stage},
        "steps_per_print": 1 << 60,
    }
    if train.precision != "fp32":
        # An empty module list keeps gradients fp32 on the wire: only the arithmetic is lowered.
        config["torch_autocast"] = {
            "enabled": True,
            "dtype": _DTYPES[train.precision],
            "lower_precision_safe_modules": [],
        }
    return config


def build_engine(
    module: nn.Module,
    groups: Iterable[tuple[nn.Module, float]],
    train: TrainConfig,
    lr: float,
    *,
    load_universal: bool = False,
) -> Any:
    """A DeepSpeed engine around ``module`` that trains parts of it with AdamW at the peak rate ``lr``.

    ``groups`` are those parts, each with the fraction of the rate it learns at; what wants no gradient is left out.
    ``load_universal`` prepares it to load a checkpoint written by another number of ranks.

    Raises:
        ConfigError: DeepSpeed does not take a setting as asked.
    """
    import deepspeed

    learning = [([p for p in part.parameters() if p.requires_grad], fraction) for part, fraction in groups]
    learning = [(parameters, fraction) for parameters, fraction in learning if parameters]
    optimizer = torch.optim.AdamW(
        [{"params": parameters, "lr": lr * fraction} for parameters, fraction in learning],
        lr=lr, betas=train.optimizer.betas, weight_decay=train.optimizer.weight_decay, fused=True,
    )  # fmt: skip
    config = deepspeed_config(train)
    if load_universal:
        config["checkpoint"] = {"load_universal": True}
    engine, *_ = deepspeed.initialize(model=module, optimizer=optimizer, config=config)
    if train.zero_stage == 0:
        engine.enable_backward_allreduce = False  # see backward()
    engine.lr_fractions = [fraction for _, fraction in learning]
    take_over_scaling(engine, is_fp16=train.precision == "fp16")
    _require_as_asked(engine, train)
    _limit_waiting(timedelta(seconds=train.collective_timeout_s))
    return engine


def _limit_waiting(timeout: timedelta) -> None:
    """Let every process group give up on a hung rank after ``timeout``; DeepSpeed makes its own with 30 minutes."""
    for group in distributed_c10d._world.pg_map if dist.is_initialized() else ():
        distributed_c10d._set_pg_timeout(timeout, group)


def _require_as_asked(engine: Any, train: TrainConfig) -> None:
    asked = {
        "zero_stage": (engine.zero_optimization_stage(), train.zero_stage),
        "grad_accum_steps": (engine.gradient_accumulation_steps(), train.grad_accum_steps),
        "clip_norm": (engine.gradient_clipping(), train.optimizer.clip_norm),
        "micro_batch_size": (engine.train_micro_batch_size_per_gpu(), train.micro_batch_size),
        "precision": (_precision_of(engine), train.precision),
    }
    for name, (found, wanted) in asked.items():
        if found != wanted:
            raise ConfigError(
                f"DeepSpeed would train with {name} {found!r}",
                value=wanted,
                fix="this version of DeepSpeed does not fit; install the pinned one",
            )


def _precision_of(engine: Any) -> str:
    names = {dtype: precision for precision, dtype in _DTYPES.items()}
    dtype = str(engine.torch_autocast_dtype()).removeprefix("torch.")
    return names.get(dtype, dtype) if engine.torch_autocast_enabled() else "fp32"


def learning_rate(optimizer: OptimizerConfig, step: int, num_steps: int) -> float:
    """The rate of step ``step`` (from 1): linear warm-up, then cosine decay to final_lr_fraction of the peak."""
    warm = min(1.0, step / optimizer.warmup_steps) if optimizer.warmup_steps else 1.0
    span = max(1, num_steps - optimizer.warmup_steps)
    progress = min(1.0, max(0, step - optimizer.warmup_steps) / span)
    floor = optimizer.final_lr_fraction
    return optimizer.lr * warm * (floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * progress)))


def set_learning_rate(engine: Any, lr: float, *, num_resting: int = 0) -> None:
    """Set the rate of every parameter group, each by its fraction; a pure function of the step needs no state.

    The first ``num_resting`` groups get 0.
    """
    for i, (group, fraction) in enumerate(zip(engine.optimizer.param_groups, engine.lr_fractions, strict=True)):
        group["lr"] = lr * fraction if i >= num_resting else 0.0


def backward(engine: Any, loss: Tensor) -> None:
    """Add the gradient of ``loss`` to the engine's, over all ranks at the end of a step.

    Without ZeRO, DeepSpeed's own call would copy all gradients into one buffer as large as they are, and back, on a
    single rank too; a bucket at a time does the same in a few megabytes, and one rank has nothing to add up.
    """
    if engine.zero_optimization_stage() > 0:
        if engine.scaling:
            engine.optimizer.override_loss_scale(engine.scaling.factor)
        engine.backward(loss)
        return
    engine.backward(loss * engine.scaling.factor if engine.scaling else loss)
    if world()[1] > 1:
        engine.allreduce_gradients(bucket_size=_BUCKET_NUMEL)


def gradient_of(leaf: Tensor, engine: Any) -> Tensor:
    """What :func:`backward` of ``engine`` left in ``leaf``, an input of its module that wants a gradient, as the
    gradient of the loss that it was given: without the factor of fp16 and DeepSpeed's division by micro-batches.

    The module that made the input learns from it by ``(output * gradient).sum()``, in an engine of its own.
    """
    assert leaf.grad is not None
    factor = engine.scaling.factor if engine.scaling else 1.0
    return leaf.grad * (engine.gradient_accumulation_steps() / factor)


def step_engine(engine: Any) -> dict[str, float]:
    """Count a micro-batch, and at the end of its step clip and apply the gradient.

    Returns the ``gradient_norm`` of an applied gradient, over all ranks, before clipping. Under fp16 also the
    ``loss_scale`` of the next step, and no norm for a gradient that overflowed, which is left out and is no failure.
    """
    if not engine.is_gradient_accumulation_boundary():
        engine.step()
        return {}
    norm = None if engine.zero_optimization_stage() > 0 else _whole_norm(engine)
    overflowed = engine.scaling and norm is not None and not math.isfinite(norm)
    with left_out(engine.optimizer) if overflowed else contextlib.nullcontext():
        engine.step()
    measured = float(engine.get_global_grad_norm()) if norm is None else norm
    return engine.scaling.judge(measured) if engine.scaling else {"gradient_norm": measured}


def _whole_norm(engine: Any) -> float:
    """DeepSpeed measures the norm under ZeRO only; without it every rank holds the whole, averaged gradient."""
    grads = [p.grad for p in engine.module.parameters() if p.grad is not None]
    if engine.scaling:
        engine.scaling.unscale(grads)
    return float(nn.utils.get_total_norm(grads))


def holds_finite_weights(engine: Any) -> bool:
    """Whether no parameter or buffer of an engine's module is NaN or infinite; the same on every rank."""
    return all(bool(value.isfinite().all()) for value in engine.module.state_dict().values())


def lowered(train: TrainConfig, device: torch.device) -> torch.autocast:
    """The autocast of the training precision, for calls of a module past its engine."""
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(train.precision, torch.float32)
    return torch.autocast(device.type, dtype=dtype, enabled=train.precision != "fp32")


@contextlib.contextmanager
def frozen(module: nn.Module) -> Iterator[None]:
    """Within the block, gradients flow through ``module`` but none is computed for its parameters."""
    trainable = [p for p in module.parameters() if p.requires_grad]
    for parameter in trainable:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in trainable:
            parameter.requires_grad_(True)


def world() -> tuple[int, int]:
    """(rank, world_size) of this process; (0, 1) without a process group."""
    if not dist.is_initialized():
        return 0, 1
    return dist.get_rank(), dist.get_world_size()


def sum_over_ranks(values: Tensor) -> Tensor:
    """The sum over all ranks, in place."""
    if world()[1] > 1:
        dist.all_reduce(values)
    return values


def gather_from_ranks(value: T) -> list[T]:
    """One value of every rank, in rank order, on every rank."""
    size = world()[1]
    if size == 1:
        return [value]
    gathered: list[Any] = [None] * size
    dist.all_gather_object(gathered, value)
    return gathered


def clips_of_all_ranks(mine: Sequence[T]) -> tuple[list[T], list[int]]:
    """What each rank has of its held-out clips, in the order of a single rank, and at which places this rank's are.

    Clips go round the ranks one by one (``fixed_batches``); where one cannot be read, those after it on its rank move
    up. Collective.
    """
    parts = gather_from_ranks(list(mine))
    order = sorted((turn, rank) for rank, part in enumerate(parts) for turn in range(len(part)))
    places = [place for place, (_, rank) in enumerate(order) if rank == world()[0]]
    return [parts[rank][turn] for turn, rank in order], places


def rows_of_all_ranks(parts: list[Tensor]) -> Tensor:
    """The rows of every rank's tensors [rows, ...], in rank order; a rank may have none."""
    mine = torch.cat(parts) if parts else None
    return torch.cat([rows for rows in gather_from_ranks(mine) if rows is not None])


@dataclass
class LossScale:
    """The factor of one engine's loss, the same on every rank (Micikevicius et al. 2018, section 3.2).

    Attributes:
        factor: a power of two, so that dividing by it rounds nothing.
        good_steps: steps without an overflow since it last changed.
    """

    factor: float = FIRST_FACTOR
    good_steps: int = 0

    def update(self, *, overflowed: bool) -> None:
        """Halve the factor after an overflow, double it after ``GROWTH_STEPS`` steps without one."""
        self.good_steps = 0 if overflowed else self.good_steps + 1
        if overflowed:
            self.factor /= 2
        elif self.good_steps == GROWTH_STEPS:
            self.factor, self.good_steps = min(2 * self.factor, HIGHEST_FACTOR), 0

    @property
    def is_exhausted(self) -> bool:
        """Whether gradients overflow without any help from the factor: no failure of the scale but of the training."""
        return self.factor < LOWEST_FACTOR

    def unscale(self, grads: list[Tensor]) -> None:
        """Divide gradients by the factor, in place."""
        torch._foreach_mul_(grads, 1 / self.factor)

    def judge(self, norm: float) -> dict[str, float]:
        """Update the scale, and report a step whose gradient had ``norm`` (not finite: it overflowed)."""
        overflowed = not math.isfinite(norm)
        self.update(overflowed=overflowed)
        report = {"loss_scale": self.factor}
        return report if overflowed and not self.is_exhausted else report | {"gradient_norm": norm}


def take_over_scaling(engine: Any, *, is_fp16: bool) -> None:
    """Leave scaling to :class:`LossScale` and switch DeepSpeed's scalers off; ``engine`` gets a ``scaling``.

    DeepSpeed gives its ZeRO optimizers a scaler by what the process has ever asked for, not by their configuration.
    """
    engine.torch_autocast_z0_gradscaler = None
    if engine.zero_optimization_stage() > 0:
        engine.optimizer.torch_autocast_gradscaler = None
    engine.scaling = LossScale() if is_fp16 else None


@contextlib.contextmanager
def left_out(optimizer: Any) -> Iterator[None]:
    """Within the block the optimizer's step does nothing: an engine then counts its step and applies none."""
    optimizer.step = lambda *args, **kwargs: None
    try:
        yield
    finally:
        del optimizer.step


def scaling_state(engine: Any) -> dict[str, Any]:
    """The state of the scaling for a checkpoint, in DeepSpeed's client_state."""
    return {_STATE: asdict(engine.scaling)} if engine.scaling else {}


def restore_scaling(engine: Any, client_state: Mapping[str, Any]) -> None:
    """Put the scaling where the checkpoint left it."""
    if engine.scaling:
        engine.scaling = LossScale(**client_state[_STATE])
