"""Syllabary: speech to language-model-ready tokens and back. The four folders of the house under one import name.

from syllabary import Tokenizer

tokenizer = Tokenizer.load("s3://bucket/tokenizer")
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from syllabary.workers.tokenizer.tokenizer import Encoded, Tokenizer, save_tokenizer

    __version__: str

__all__ = ["Encoded", "Tokenizer", "__version__", "save_tokenizer"]


def __getattr__(name: str) -> Any:
    """What is offered here, loaded when it is asked for: importing the package reads nothing and loads no torch."""
    if name == "__version__":
        from importlib.metadata import version

        return version("syllabary")
    if name in __all__:
        from importlib import import_module

        return getattr(import_module("syllabary.workers.tokenizer.tokenizer"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    """What is offered, for completion."""
    return sorted({*globals(), *__all__})
