"""The one door to the CPU's faster forms: same values up to rounding, same state, same call.

The modules of ``syllabary.model`` are the plain forms and know nothing of these. Whoever trains or encodes asks for
the faster ones here; on a GPU, in bf16 training and where they would lose, the plain forms stay.
"""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import nn

from syllabary.model import hifigan
from syllabary.model.cpu.front_end import FusedFrontEnd
from syllabary.model.cpu.generator import FusedGenerator
from syllabary.model.cpu.winograd_training import run_residual_blocks
from syllabary.model.encoder import Encoder, WaveformFrontEnd
from syllabary.model.framing import Framing
from syllabary.model.layers import ResidualStage

M = TypeVar("M", bound=nn.Module)


def accelerate(module: M) -> M:
    """The same module, whose residual stages learn and compute by Winograd's form where that is faster."""
    for part in module.modules():
        if isinstance(part, ResidualStage):
            part.form = run_residual_blocks
    return module


def accelerate_inference(module: nn.Module, framing: Framing, dtype: torch.dtype) -> nn.Module:
    """An encoder with a fused front end or a fused HiFi-GAN, for one clip at a time of at most a window, on the CPU.

    Its weights are given up as they are packed. What has no fused form (a spectral front end, whose cost is in matrix
    products, or an inverse-STFT decoder) comes back as :func:`accelerate` leaves it.
    """
    module = accelerate(module)
    if not _can_fuse(module):
        return module
    if isinstance(module, Encoder) and isinstance(module.front_end, WaveformFrontEnd):
        module.front_end = FusedFrontEnd(module.front_end, framing.window_samples, dtype, keep_weights=False)
    if isinstance(module, hifigan.Generator):
        return FusedGenerator(module, framing.window_frames, keep_weights=False)
    return module


def _can_fuse(module: nn.Module) -> bool:
    return next(module.parameters()).device.type == "cpu" and torch.backends.mkldnn.is_available()
