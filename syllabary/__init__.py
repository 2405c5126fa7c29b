"""Syllabary: speech to language-model-ready tokens and back. The four folders of the house under one import name.

from syllabary import Tokenizer, open_archive

tokenizer = Tokenizer.from_pretrained("speech16k")
archive = open_archive("s3://bucket/run/archive")
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from syllabary.workers.archive.opened import Archive, Recording, Sound, Utterance, open_archive
    from syllabary.workers.tokenizer.tokenizer import Encoded, Tokenizer, save_tokenizer

    __version__: str

_TOKENIZER, _ARCHIVE = "syllabary.workers.tokenizer.tokenizer", "syllabary.workers.archive.opened"
_PLACES = dict.fromkeys(("Encoded", "Tokenizer", "save_tokenizer"), _TOKENIZER)
_PLACES |= dict.fromkeys(("Archive", "Recording", "Sound", "Utterance", "open_archive"), _ARCHIVE)

__all__ = [
    "Archive",
    "Encoded",
    "Recording",
    "Sound",
    "Tokenizer",
    "Utterance",
    "__version__",
    "open_archive",
    "save_tokenizer",
]


def __getattr__(name: str) -> Any:
    """What is offered here, loaded when it is asked for: importing the package reads nothing and loads no torch."""
    if name == "__version__":
        from importlib.metadata import version

        return version("syllabary")
    if name in _PLACES:
        from importlib import import_module

        if _PLACES[name] == _ARCHIVE:  # read with no torch, or any
            return getattr(import_module(_ARCHIVE), name)
        from syllabary.workers.control.extras import torch_told

        with torch_told():
            return getattr(import_module(_TOKENIZER), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    """What is offered, for completion."""
    return sorted({*globals(), *__all__})
