"""Training steps for bench_gpu.py: the project's own stages, and the same arithmetic bare, to be compiled or captured.

A bare step has two halves: ``gradients`` (forward and backward, nothing but the device) and ``update`` (clip, AdamW,
moving average). The first is what a CUDA graph holds; every clip has its full length, so nothing is copied on the way.
"""

from __future__ import annotations

import itertools
import os
import socket
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, ClassVar, Protocol

import torch
from safetensors.torch import save
from torch import Tensor, nn

from syllabary.model.codec import Codec
from syllabary.model.discriminators import Discriminators
from syllabary.model.jepa import Jepa
from syllabary.model.losses import discriminator_loss, generator_losses
from syllabary.model.masking import sample_mask
from syllabary.model.spectral.mel import mel_windows
from syllabary.workers.recipes.recipe import OptimizerConfig, Recipe
from syllabary.workers.training.bottleneck_first import PhasedCodecStage
from syllabary.workers.training.codec import CodecStage
from syllabary.workers.training.compiling import compile_blocks
from syllabary.workers.training.data.clips import Batch
from syllabary.workers.training.data.epoch_order import mix
from syllabary.workers.training.driver import RankJob
from syllabary.workers.training.engine import frozen, join_process_group
from syllabary.workers.training.initial_weights import ENCODER_FILE
from syllabary.workers.training.jepa import JepaStage
from syllabary.workers.training.rank import RankSetup

_KINDS: dict[str, Callable[[RankSetup], object]] = {
    "pretrain": JepaStage, "codec": CodecStage, "codec, adversarial": CodecStage, "bottleneck": PhasedCodecStage,
    "vocoder": PhasedCodecStage,
}  # fmt: skip


class Step(Protocol):
    """One training step of a batch; returns its loss as a tensor that nobody has waited for."""

    def __call__(self, batch: Batch) -> Tensor:
        """Take it."""


class BareStep:
    """A step without DeepSpeed: ``gradients`` of static inputs, then ``update``."""

    inputs: Callable[[Batch], tuple[Tensor, ...]]
    gradients: Callable[..., Tensor]

    def __init__(self, modules: list[nn.Module], config: OptimizerConfig) -> None:
        self.modules, self._clip_norm = modules, config.clip_norm
        self.trained = [[p for p in module.parameters() if p.requires_grad] for module in modules]
        self.optimizers = [
            torch.optim.AdamW(group, lr=config.lr, betas=config.betas, weight_decay=config.weight_decay, fused=True)
            for group in self.trained
        ]

    def __call__(self, batch: Batch) -> Tensor:
        """A step as it is written."""
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none=True)
        loss = self.gradients(*self.inputs(batch))
        self.update()
        return loss

    def update(self) -> None:
        """Clip the gradients and apply them."""
        for group, optimizer in zip(self.trained, self.optimizers, strict=True):
            nn.utils.clip_grad_norm_(group, self._clip_norm, foreach=True)
            optimizer.step()


def _lowered(device: torch.device) -> AbstractContextManager[object]:
    return torch.autocast(device.type, torch.bfloat16, cache_enabled=False)  # a graph must not hold cached weights


class BareJepa(BareStep):
    """Stage 1 in bf16."""

    def __init__(self, recipe: Recipe, device: torch.device, clips: int, samples: int) -> None:
        self._recipe, self._device = recipe, device
        self._jepa = Jepa(recipe.model.encoder, recipe.model.jepa).to(device).train()
        self._lengths = torch.full((clips,), samples)
        super().__init__([self._jepa], recipe.pretrain.optimizer)

    def inputs(self, batch: Batch) -> tuple[Tensor, ...]:  # type: ignore[override]
        """Waveform and masks on the device."""
        frames = batch.waveform.shape[1] // self._recipe.model.framing.hop_length
        draws = (torch.Generator().manual_seed(mix(slot.seed, 4) >> 1) for slot in batch.slots)
        masks = torch.cat([sample_mask([frames], self._recipe.model.jepa, draw) for draw in draws])
        return batch.waveform, masks.to(self._device)

    def gradients(self, waveform: Tensor, masks: Tensor) -> Tensor:  # type: ignore[override]
        """Forward and backward."""
        with _lowered(self._device):
            found = self._jepa(waveform, self._lengths, masks)
        found.total.backward()
        return found.loss.detach()

    def update(self) -> None:
        """Also the moving average."""
        super().update()
        self._jepa.update_target()


class BareCodec(BareStep):
    """Stage 2 in bf16, encoder fine-tuned, with or without discriminators."""

    def __init__(self, recipe: Recipe, device: torch.device, clips: int, samples: int, *, adversarial: bool) -> None:
        self._model, self._device = recipe.model, device
        self._codec = Codec(recipe.model).to(device).train()
        self._judges = Discriminators(recipe.model.discriminator).to(device) if adversarial else None
        self._mels = mel_windows(self._model.losses, self._model.encoder.sample_rate, device)
        self._lengths = torch.full((clips,), samples)
        modules = [self._codec, *([self._judges] if self._judges else [])]
        super().__init__(modules, recipe.codec.optimizer)

    def inputs(self, batch: Batch) -> tuple[Tensor, ...]:  # type: ignore[override]
        """The waveform on the device."""
        return (batch.waveform,)

    def gradients(self, waveform: Tensor) -> Tensor:  # type: ignore[override]
        """Forward and backward of generator, and of discriminators where there are some."""
        with _lowered(self._device):
            made = self._codec(waveform, self._lengths).waveform.float()
        judged = None
        if self._judges:
            with _lowered(self._device):
                real, fake = self._judges(waveform, self._lengths), self._judges(made.detach(), self._lengths)
            discriminator_loss(real, fake).backward()
            with frozen(self._judges), _lowered(self._device):
                judged = real, self._judges(made, self._lengths)
        losses = generator_losses(made, waveform, self._lengths, self._model.losses, judged=judged, mels=self._mels)
        losses.total.backward()
        return losses.total.detach()


class Captured:
    """A bare step whose gradients are a CUDA graph, replayed.

    All graphs share one pool of memory and stay alive: one that is freed takes the pool from under the next.
    """

    _pool: Any = None
    _alive: ClassVar[list[Any]] = []

    def __init__(self, step: BareStep, batch: Batch) -> None:
        if Captured._pool is None:
            Captured._pool = torch.cuda.graph_pool_handle()
        self._step, self._inputs = step, [value.clone() for value in step.inputs(batch)]
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(3):
                step(batch)
        torch.cuda.current_stream().wait_stream(side)
        for optimizer in step.optimizers:
            optimizer.zero_grad(set_to_none=True)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph, pool=Captured._pool):
            self._loss = step.gradients(*self._inputs)
        Captured._alive.append(self._graph)

    def __call__(self, batch: Batch) -> Tensor:
        """A replay, then the update."""
        for held, value in zip(self._inputs, self._step.inputs(batch), strict=True):
            held.copy_(value)
        self._graph.replay()
        self._step.update()
        return self._loss.clone()


def compile_all(modules: Iterable[nn.Module], device: torch.device) -> None:
    """Compile the large blocks; on a CPU they are only traced: inductor needs a compiler and minutes there.

    Raises:
        AssertionError: there are none.
    """
    backend = "inductor" if device.type == "cuda" else "eager"
    assert sum(compile_blocks(module, backend) for module in modules), "this model has no block that is compiled"


def project_step(stage: str, recipe: Recipe, device: torch.device, folder: Path, *, is_compiled: bool) -> Step:
    """The step of the project's own stage 1 ("pretrain"), of its joint stage 2 ("codec", "codec, adversarial") or of
    either phase of the other stage 2 ("bottleneck", "vocoder"), DeepSpeed and all."""
    _alone_in_a_process_group(device)
    if stage != "pretrain":
        encoder = Codec(recipe.model).encoder.state_dict()
        (folder / ENCODER_FILE).write_bytes(save({name: value.contiguous() for name, value in encoder.items()}))
    setup = RankSetup(RankJob(str(folder), "", recipe, None, str(folder)), device, [], load_universal=False)
    made: Any = _KINDS[stage](setup)
    if is_compiled:
        compile_all([engine.module for engine in made.engines.values()], device)
    numbers = itertools.count(_first_step(stage, recipe))
    shown = "loss" if stage == "pretrain" else "total"  # whichever terms the recipe's loss has
    lr = (recipe.pretrain if stage == "pretrain" else recipe.codec).optimizer.lr

    def step(batch: Batch) -> Tensor:
        return torch.tensor(made.train_step(next(numbers), [batch], lr, detailed=False)[shown])

    return step


def _first_step(stage: str, recipe: Recipe) -> int:
    """The first step of its kind: discriminators that are to judge do so from there on."""
    codec = recipe.codec
    if stage == "codec, adversarial":
        return codec.discriminator_start_step + 1
    return codec.bottleneck_steps + codec.vocoder.discriminator_start_step + 1 if stage == "vocoder" else 1


def bare_step(stage: str, recipe: Recipe, device: torch.device, clips: int, samples: int) -> BareStep:
    """The same arithmetic without DeepSpeed."""
    if stage == "pretrain":
        return BareJepa(recipe, device, clips, samples)
    return BareCodec(recipe, device, clips, samples, adversarial=stage == "codec, adversarial")


def _alone_in_a_process_group(device: torch.device) -> None:
    if torch.distributed.is_initialized():
        return
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    os.environ.update(RANK="0", WORLD_SIZE="1", LOCAL_RANK="0", MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    join_process_group(device)
