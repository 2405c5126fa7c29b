"""Encoder and generator as the tokenizer runs them: without gradient, and fused where the processor allows it."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import TypeVar, cast

import torch
from torch import Tensor, nn

from syllabary.model.codec import AnyGenerator, make_generator
from syllabary.model.config import ModelConfig
from syllabary.model.cpu.accelerate import FusedGenerator, accelerate_inference
from syllabary.model.encoder import Encoder
from syllabary.shards.errors import ConfigError

M = TypeVar("M", bound=nn.Module)


def build_encoder(config: ModelConfig, state: dict[str, Tensor], device: torch.device) -> Encoder:
    """The encoder with its weights; on a CPU with oneDNN the waveform front end is replaced by its fused form.

    A spectral front end stays as it is: its cost is in matrix products that need no fusing. ``state`` is emptied, so
    that weights are not held beside their packed form.

    Raises:
        ConfigError: the encoder computes in bf16, which this CPU does not.
    """
    if config.encoder.precision == "bf16":
        _require_bf16(device)
    encoder = _ready(lambda: Encoder(config.encoder), state, device)
    dtype = torch.bfloat16 if config.encoder.precision == "bf16" else torch.float32
    accelerated = accelerate_inference(encoder, config.framing, dtype)
    _return_freed_memory()
    return cast(Encoder, accelerated)


def build_generator(
    config: ModelConfig, state: dict[str, Tensor], device: torch.device
) -> AnyGenerator | FusedGenerator:
    """The generator with its weights; a HiFi-GAN is replaced by its fused form on a CPU with oneDNN.

    ``state`` is emptied, so that weights are not held beside their packed form.
    """
    generator = _ready(lambda: make_generator(config), state, device)
    accelerated = accelerate_inference(generator, config.framing, torch.float32)
    _return_freed_memory()
    return cast("AnyGenerator | FusedGenerator", accelerated)


def _ready(make: Callable[[], M], state: dict[str, Tensor], device: torch.device) -> M:
    """The module around the tensors of ``state``, without copies of them."""
    with torch.device("meta"):
        module = make()
    if next(module.buffers(), None) is not None:  # STFT windows, which no state holds, must be real
        module = make()
    module.load_state_dict(state, assign=True)
    state.clear()
    return module.requires_grad_(False).eval().to(device)


def computes_bf16(device: torch.device) -> bool:
    """Whether convolutions can run in bf16 there; a CPU needs instructions for it (AVX-512 BF16 or AVX-NE-CONVERT)."""
    return device.type != "cpu" or bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def _require_bf16(device: torch.device) -> None:
    if not computes_bf16(device):
        raise ConfigError(
            "this CPU does not compute in bf16",
            value="encoder.precision=bf16",
            expected="AVX-512 BF16 or AVX-NE-CONVERT",
            fix="use such a CPU or a GPU; tokens of fp32 would be another encoder's",
        )


def _return_freed_memory() -> None:
    """Give what packing has freed back to the system; glibc keeps it in its heap otherwise."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
