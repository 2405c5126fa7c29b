"""The tokenizer that ships with the project, and what takes it by default. Free of torch.

:data:`SHIPPED` is the one place that says that there is one. With it, `encode` and `decode` take it unless told
otherwise, and `run` follows the recipe ``<SHIPPED>_demo`` and begins both trainings with it.
"""

from __future__ import annotations

from typing import Any

NOTHING = "none"
SHIPPED: str = "speech16k"  # its name below shards/builtin; empty while none ships


def default_tokenizer(shipped: str = SHIPPED) -> Any:
    """What `encode` and `decode` take by default: the shipped tokenizer; ``...`` (must be given) while none ships."""
    return f"builtin:{shipped}" if shipped else ...


def demo_recipe(shipped: str = SHIPPED) -> str:
    """The recipe that `run` follows by default: a few steps from the shipped weights, or from nothing."""
    return f"{shipped}_demo" if shipped else "tiny"


def beginning_of(recipe: str, shipped: str = SHIPPED) -> str:
    """What both trainings of `run` begin with by default: the shipped weights for its own recipe, else nothing."""
    return f"builtin:{shipped}" if shipped and recipe == demo_recipe(shipped) else NOTHING
