"""Syllabary: speech to language-model-ready tokens and back. The four folders of the house under one import name."""

from __future__ import annotations


def __getattr__(name: str) -> str:
    """``__version__``, looked up when it is asked for: importing the package reads nothing and loads nothing."""
    if name == "__version__":
        from importlib.metadata import version

        return version("syllabary")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
