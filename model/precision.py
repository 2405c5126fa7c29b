"""Where fp32 is kept whatever the training precision: DAAM, FSQ, spectra."""

from __future__ import annotations

import contextlib
from contextlib import AbstractContextManager

import torch


def full_precision(device: torch.device) -> AbstractContextManager[object]:
    """Autocast off for the block (devices without autocast, such as meta, have nothing to turn off)."""
    if torch.amp.is_autocast_available(device.type):
        return torch.autocast(device.type, enabled=False)
    return contextlib.nullcontext()
