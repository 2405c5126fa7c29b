"""Describing blocks: the card and what stands beside it, with what their archives know of their origin."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from syllabary.shards.about.files import CARD, publish_about
from syllabary.shards.about.origin import Origin
from syllabary.shards.archive.parts import ArchiveFormat
from syllabary.shards.blocks.card import blocks_files
from syllabary.shards.errors import NotFoundError
from syllabary.shards.store import Folder
from syllabary.workers.control.jobs import PackJob
from syllabary.workers.control.log import say


def describe_blocks(job: PackJob, form: ArchiveFormat, metadata: Mapping[str, Any], summary: Mapping[str, Any]) -> None:
    """Write what the blocks say of themselves; a card edited by hand is kept, and that is said. Raises StorageError."""
    told = [Origin.read(uri) for uri in job.archive]
    joined = Origin(*(_joined(values) for values in zip(*((o.title, o.licence, o.origin) for o in told), strict=True)))
    tokenizer = {name: data for name in ("README.md", "config.json") if (data := _read(job.archive[0], name))}
    files = blocks_files(
        form, {**metadata, "archives": list(job.archive)}, summary, joined, job.output_format, tokenizer
    )
    if publish_about(job.out, files):
        say("pack", f"{CARD} has been edited since it was written: it stays as it is")


def _joined(values: tuple[str, ...]) -> str:
    return " and ".join(dict.fromkeys(value for value in values if value))


def _read(archive: str, name: str) -> bytes | None:
    try:
        return (Folder(archive) / "tokenizer").read(name)
    except NotFoundError:
        return None
