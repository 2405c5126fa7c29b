"""Encoder and generator as the tokenizer runs them: without gradient, and fused where the processor allows it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

import torch
from torch import Tensor, nn

from model import hifigan
from model.codec import AnyGenerator, make_generator
from model.config import ModelConfig
from model.encoder import Encoder, WaveformFrontEnd
from model.fused import FusedFrontEnd, FusedGenerator

M = TypeVar("M", bound=nn.Module)


def build_encoder(config: ModelConfig, state: Mapping[str, Tensor], device: torch.device) -> Encoder:
    """The encoder with its weights; on a CPU with oneDNN the waveform front end is replaced by its fused form.

    A spectral front end stays as it is: its cost is in matrix products that need no fusing.
    """
    encoder = _ready(Encoder(config.encoder), state, device)
    if isinstance(encoder.front_end, WaveformFrontEnd) and _can_fuse(device):
        dtype = torch.bfloat16 if config.encoder.precision == "bf16" else torch.float32
        encoder.front_end = FusedFrontEnd(encoder.front_end, config.framing.window_samples, dtype)
    return encoder


def build_generator(
    config: ModelConfig, state: Mapping[str, Tensor], device: torch.device
) -> AnyGenerator | FusedGenerator:
    """The generator with its weights; a HiFi-GAN is replaced by its fused form on a CPU with oneDNN."""
    generator = _ready(make_generator(config), state, device)
    if isinstance(generator, hifigan.Generator) and _can_fuse(device):
        return FusedGenerator(generator, config.framing.window_frames)
    return generator


def _ready(module: M, state: Mapping[str, Tensor], device: torch.device) -> M:
    module.load_state_dict(state)
    return module.requires_grad_(False).eval().to(device)


def _can_fuse(device: torch.device) -> bool:
    return device.type == "cpu" and torch.backends.mkldnn.is_available()
