"""The arithmetic that the promise of equal tokens needs, whatever the process around has set."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import Any

import torch

from syllabary.model.layers import full_precision

_backends: Any = torch.backends
_Setting = tuple[Any, str, Any]


class _MatmulPrecision:
    """torch's one switch for the precision of matrix products, as an attribute like the others."""

    @property
    def value(self) -> str:
        """Of the process."""
        return torch.get_float32_matmul_precision()

    @value.setter
    def value(self, precision: str) -> None:
        torch.set_float32_matmul_precision(precision)


def _full_fp32_settings() -> tuple[_Setting, ...]:
    """Full fp32: torch.set_float32_matmul_precision lets matrix products round to TF32 or bf16, on a CPU too.

    Which switches there are follows from torch's version; it refuses the older ones beside the newer.
    """
    if hasattr(_backends.mkldnn, "matmul"):  # since 2.9
        owners = (_backends.mkldnn.matmul, _backends.mkldnn.conv, _backends.cuda.matmul, _backends.cudnn.conv)
        return tuple((owner, "fp32_precision", "ieee") for owner in owners)
    return ((_MatmulPrecision(), "value", "highest"), (_backends.cudnn, "allow_tf32", False))


_SETTINGS: tuple[_Setting, ...] = (
    *_full_fp32_settings(),
    (_backends.cudnn, "benchmark", False),
    (_backends.cudnn, "deterministic", True),
)
_lock = threading.Lock()
_users, _before = 0, list[Any]()


@contextlib.contextmanager
def canonical_arithmetic(device: torch.device) -> Iterator[None]:
    """One thread, no gradient, no autocast, full fp32, no algorithm search, for this thread's block."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with _full_fp32(), torch.inference_mode(), full_precision(device):
            yield
    finally:
        torch.set_num_threads(before)


@contextlib.contextmanager
def _full_fp32() -> Iterator[None]:
    """The settings belong to the process: the first of several threads makes them, the last one takes them back."""
    global _users
    with _lock:
        if _users == 0:
            _before[:] = [getattr(owner, name) for owner, name, _ in _SETTINGS]
            for owner, name, value in _SETTINGS:
                setattr(owner, name, value)
        _users += 1
    try:
        yield
    finally:
        with _lock:
            _users -= 1
            if _users == 0:
                for (owner, name, _), value in zip(_SETTINGS, _before, strict=True):
                    setattr(owner, name, value)
