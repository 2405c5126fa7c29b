"""Ids of texts by somebody's own tokenizer: a ``tokenizer.json`` as Hugging Face's ``tokenizers`` writes it."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

from syllabary.shards import store
from syllabary.shards.errors import FormatError


@dataclass(frozen=True)
class TextTokenizer:
    """A text tokenizer in memory.

    Attributes:
        content: of ``tokenizer.json``.
    """

    content: bytes

    @classmethod
    def load(cls, uri: str) -> Self:
        """Read and check the file at ``uri``. Raises NotFoundError, FormatError."""
        found = cls(store.read_bytes(uri))
        try:
            found._tokenizer  # noqa: B018 - read now, so that it is refused now
        except Exception as error:  # the library raises plain Exception
            raise FormatError("not a tokenizer.json", value=uri, fix="give the file that `tokenizers` saves") from error
        return found

    @cached_property
    def _tokenizer(self) -> Any:
        from tokenizers import Tokenizer

        return Tokenizer.from_str(self.content.decode())

    @property
    def size(self) -> int:
        """One more than its highest id, added tokens among them."""
        return max(self._tokenizer.get_vocab(with_added_tokens=True).values(), default=-1) + 1

    @property
    def digest(self) -> str:
        """sha256 of the file."""
        return hashlib.sha256(self.content).hexdigest()

    def __call__(self, texts: list[str]) -> list[list[int]]:
        """Ids of each text, without what the tokenizer would put around it."""
        return [encoded.ids for encoded in self._tokenizer.encode_batch(texts, add_special_tokens=False)]
