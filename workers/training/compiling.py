"""Compiling the large blocks of a stage's networks, on a GPU.

A step there is dozens of small kernels a block, and starting them takes longer than computing them; a compiled block
has a few. On a CPU the same costs minutes and gains nothing, so it stays as it is written there. Weights, names and
checkpoints are those of the plain blocks; values are equal up to rounding.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sysconfig
from collections.abc import Callable, Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import nn

from syllabary.model.conformer import ConformerStack
from syllabary.model.encoder import DownBlock
from syllabary.model.spectral.front_end import ConvNeXtStage
from syllabary.workers.recipes.recipe import TrainConfig

# They hold nearly all of the work and ask nothing of the CPU on the way.
_BLOCKS = (ConvNeXtStage, ConformerStack, DownBlock)
# Blocks of a kind share one limit, 8 unless it is raised, and those after it stay plain. Each has a form or two for
# training (of one width, then of any) and one without gradient in a moving average.
_MOST_FORMS = 128
_OLDEST_GPU = (7, 0)
_C_COMPILERS = ("cc", "gcc", "clang")


def compile_blocks(module: nn.Module, backend: str = "inductor") -> int:
    """Let torch.compile take the large blocks of ``module`` at their first call; returns how many there are."""
    blocks = [part for part in module.modules() if isinstance(part, _BLOCKS)]
    if blocks:
        import torch._dynamo as dynamo  # over a second, and most runs compile nothing

        dynamo.config.recompile_limit = max(dynamo.config.recompile_limit, _MOST_FORMS)
    for block in blocks:
        block.compile(backend=backend)
    return len(blocks)


def compile_engines(
    engines: Mapping[str, Any], train: TrainConfig, device: torch.device, say: Callable[[str], None]
) -> bool:
    """Compile the blocks of a stage's engines where its configuration and this machine allow it; tells ``say`` of it.

    Returns whether any is compiled. Blocks outside the engines stay plain: a frozen encoder must give the digits that
    tokenizing will give.
    """
    if train.compile == "never" or device.type != "cuda":
        return False
    if lacking := _lacking(device):
        say(f"steps are not compiled, and slower by what starting their kernels takes: {lacking}")
        return False
    count = sum(compile_blocks(engine.module) for engine in engines.values())
    if count:
        say(f"compiles {count} blocks for {device.type}: the first steps take a minute or more")
    return count > 0


@contextlib.contextmanager
def as_written(is_compiled: bool) -> Iterator[None]:
    """Within the block compiled modules compute as they are written.

    Held-out clips are of many lengths, for each of which a block would be compiled again.
    """
    if not is_compiled:
        yield
        return
    with torch.compiler.set_stance("force_eager"):
        yield


def _lacking(device: torch.device) -> str | None:
    """What inductor needs for a GPU and this machine has not, in words."""
    if not hasattr(torch.compiler, "set_stance"):
        return f"torch {torch.__version__} cannot leave held-out clips out of it, 2.6 can"
    if find_spec("triton") is None:
        return "the package triton is not installed"
    capability = torch.cuda.get_device_capability(device)
    if capability < _OLDEST_GPU:
        return f"triton needs compute capability {_dotted(_OLDEST_GPU)}, and this GPU has {_dotted(capability)}"
    compilers = [os.environ["CC"]] if os.environ.get("CC") else list(_C_COMPILERS)
    if not any(map(shutil.which, compilers)):
        return f"triton needs a C compiler, and none of {', '.join(compilers)} is here"
    header = Path(sysconfig.get_paths()["include"], "Python.h")
    return None if header.exists() else f"triton needs the headers of Python, and {header} is not here"


def _dotted(version: tuple[int, int]) -> str:
    return ".".join(map(str, version))
