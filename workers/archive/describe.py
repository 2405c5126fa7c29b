"""Describing an archive: its card and what stands beside it, gathered when its parts are there."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from syllabary.shards.about.files import CARD, publish_about
from syllabary.shards.about.origin import Origin
from syllabary.shards.archive.card import archive_files
from syllabary.shards.archive.reader import ArchiveReader
from syllabary.shards.errors import FormatError
from syllabary.shards.store import Folder
from syllabary.workers.control.log import say

_TOKENIZER_FILES = ("README.md", "config.json")
_WEIGHTS = ("encoder.safetensors", "decoder.safetensors")


def describe(
    stage: str, archive: str, totals: Mapping[str, Any], told: Origin, tokenizer: str, with_weights: bool
) -> None:
    """Write what an archive says of itself; a card edited by hand is kept, and that is said.

    Args:
        stage: verb that says it.
        archive: URI; its parts are there.
        totals: of ``done.json``.
        told: origin and licence of the speech.
        tokenizer: URI of the tokenizer's directory, or of what another archive holds of it.
        with_weights: the weights go along.

    Raises:
        NotFoundError: there is no such tokenizer, or no weights in it.
        FormatError: it has another encoder than the archive.
        StorageError: storage refuses.
    """
    reader = ArchiveReader.open(archive)
    folder = Folder(tokenizer)
    description = folder.read_json("config.json")
    digest = description.get("encoder_digest")
    if digest != reader.format.encoder_digest:
        expected = reader.format.encoder_digest[:16]
        raise FormatError("encoder digest of the tokenizer", value=str(digest)[:16], expected=expected)
    weights = (*_WEIGHTS, *(("mel_head.safetensors",) if "mel_head_digest" in description else ()))
    names = (*_TOKENIZER_FILES, *(weights if with_weights else ()))
    files = {name: folder.read(name) for name in names}
    about = archive_files(reader.format, reader.schema, reader.shards, totals, told, files, tokenizer)
    if publish_about(archive, about):
        say(stage, f"{CARD} has been edited since it was written: it stays as it is")


def holds_weights(archive: str) -> bool:
    """Whether the weights of the tokenizer lie beside an archive's tokens."""
    return (Folder(archive) / "tokenizer").exists(_WEIGHTS[1])


def carry_description(stage: str, source: str, archive: str, totals: Mapping[str, Any]) -> None:
    """Describe an archive made of the archive ``source``, with what that knows of origin and tokenizer.

    Raises:
        NotFoundError, FormatError, StorageError: as for :func:`describe`.
    """
    tokenizer = Folder(source) / "tokenizer"
    if not tokenizer.exists("config.json"):
        say(stage, f"{source} holds no description, so {archive} gets none: `syllabary tokenize` again writes it")
        return
    describe(stage, archive, totals, Origin.read(source), tokenizer.uri, holds_weights(source))
