"""Where speech comes from and under which licence it may be used: stated once, to the ingest, and handed on.

``origin.json`` of shards, archive and blocks. Nothing is made up: what nobody has told is absent, and cards say so.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Self

from syllabary.shards import store
from syllabary.shards.errors import FormatError
from syllabary.shards.store import Folder

NAME = "origin.json"


@dataclass(frozen=True)
class Origin:
    """What the ingest was told of the speech; empty where it was not.

    Attributes:
        title: what the corpus is called.
        licence: an SPDX identifier (``CC-BY-4.0``) or a URL.
        origin: where it comes from: a URL or words.
    """

    title: str = ""
    licence: str = ""
    origin: str = ""

    def __or__(self, other: Origin) -> Origin:
        """This, with what the other tells over it."""
        told = {name: value for name, value in asdict(other).items() if value}
        return Origin(**(asdict(self) | told))

    def encode(self) -> bytes:
        """Encode as ``origin.json``."""
        return store.pretty_json({name: value for name, value in asdict(self).items() if value})

    @classmethod
    def read(cls, uri: str) -> Self:
        """The origin that the folder at ``uri`` states. Raises FormatError."""
        folder = Folder(uri)
        if not folder.exists(NAME):
            return cls()
        stored = folder.read_json(NAME)
        if not {*stored} <= {"title", "licence", "origin"} or not all(isinstance(v, str) for v in stored.values()):
            raise FormatError(
                "not a description of an origin", value=folder.join(NAME), expected="title, licence, origin as texts"
            )
        return cls(**stored)
