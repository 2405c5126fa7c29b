"""The precision that a run trains in: what "auto" means on this machine, settled once and kept for the run's life.

A run resumed in another precision would not end with the weights of an unbroken one, so the choice is a file of the
run, written by rank 0 before the first step and read at every restart.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeVar

import torch

from syllabary.shards.errors import DamageError
from syllabary.shards.store import Folder
from syllabary.workers.recipes.recipe import TrainConfig
from syllabary.workers.training.engine import gather_from_ranks, world

PRECISION_FILE = "precision.json"
Precision = Literal["fp32", "bf16"]
C = TypeVar("C", bound=TrainConfig)

# In words, and as torch.cpu.get_capabilities() calls them; the last is that of 64-bit ARM.
_CPU_UNITS = {"amx_bf16": "AMX", "avx512_bf16": "AVX-512 BF16", "bf16": "BF16 of ARM"}


@dataclass(frozen=True)
class Bf16Unit:
    """What multiplies in bf16 on one device; without a ``name`` nothing does and bf16 is slower than fp32 there."""

    device: str
    name: str | None

    def __str__(self) -> str:
        return f"{self.device} with {self.name}" if self.name else f"{self.device} without instructions for bf16"


def bf16_unit(device: torch.device) -> Bf16Unit:
    """What this machine's ``device`` multiplies bf16 by.

    On a CPU the instruction must be there and oneDNN must use it (``ONEDNN_MAX_CPU_ISA`` may forbid it); without, a
    product in bf16 takes 2 (AVX-512) to 100 times (AVX2) as long as in fp32. A GPU's emulation counts for nothing.
    """
    if device.type == "cuda":
        has_unit = torch.cuda.is_bf16_supported(including_emulation=False)
        return Bf16Unit(torch.cuda.get_device_name(device), "bf16" if has_unit else None)
    capabilities = torch.cpu.get_capabilities()
    usable = torch.backends.mkldnn.is_available() and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    units = [words for name, words in _CPU_UNITS.items() if capabilities.get(name)]
    return Bf16Unit("a CPU", units[0] if units and usable else None)


def settle_alone(train: C, device: torch.device) -> C:
    """``train`` with "auto" replaced by what this process's device is best at: bf16 or fp32."""
    if train.precision != "auto":
        return train
    return train.model_copy(update={"precision": "bf16" if bf16_unit(device).name else "fp32"})


def settle_precision(run_uri: str, train: C, device: torch.device, say: Callable[[str], None]) -> C:
    """``train`` with the precision of the run at ``run_uri``, the same on every rank; collective.

    "auto" is bf16 where every rank's device multiplies in it, else fp32, and stays what it was when the run began. A
    run that goes on in bf16 where a device has no instructions for it says so: it is slow there, and right.

    Raises:
        DamageError, FormatError: the run's record of its precision is not one.
    """
    units: list[Bf16Unit] = gather_from_ranks(bf16_unit(device))
    lacking = sorted({str(unit) for unit in units if not unit.name})
    chosen = train.precision
    if chosen == "auto":
        chosen = gather_from_ranks(_kept_or_chosen(run_uri, units, say) if world()[0] == 0 else None)[0] or "fp32"
    if chosen == "bf16" and lacking:
        say(f"warning: bf16 on {lacking[0]} takes several times as long as fp32; run this where there are some")
    return train.model_copy(update={"precision": chosen})


def _kept_or_chosen(run_uri: str, units: list[Bf16Unit], say: Callable[[str], None]) -> Precision:
    run = Folder(run_uri)
    if run.exists(PRECISION_FILE):
        kept = _read(run)
        say(f"precision {kept}, with which this run began")
        return kept
    chosen: Precision = "bf16" if all(unit.name for unit in units) else "fp32"
    why = "; ".join(sorted({str(unit) for unit in units}))
    run.publish_json(PRECISION_FILE, {"precision": chosen, "chosen_on": why})
    say(f"precision auto: {chosen} ({why}), and so for this run wherever it goes on")
    return chosen


def _read(run: Folder) -> Precision:
    kept: Precision = run.read_json(PRECISION_FILE).get("precision")  # type: ignore[assignment]
    if kept not in ("fp32", "bf16"):
        fix = 'restore it; the log of the run names its precision: {"precision": "bf16"}'
        raise DamageError(
            "not the record of a precision", value=run.join(PRECISION_FILE), expected="fp32 or bf16", fix=fix
        )
    return kept
