"""``bag``: any output folder as a BagIt bag (shards/about/bag.py), to hand to an archive."""

from __future__ import annotations

from typing import Any

from syllabary.shards import outputs
from syllabary.shards.about.bag import write_bag
from syllabary.shards.errors import NotFoundError
from syllabary.shards.store import Folder
from syllabary.shards.words import counted
from syllabary.workers.control.jobs import BagJob
from syllabary.workers.control.log import say


def bag(job: BagJob) -> dict[str, Any]:
    """Write the bag; returns ``num_files`` and ``size_bytes`` of its payload.

    Raises:
        NotFoundError: there is no output folder.
        InputError: ``out`` lies in the folder.
        ConflictError: ``out`` holds something else.
    """
    folder = Folder(job.folder)
    try:
        kind = outputs.read_claim(job.folder)["kind"]
    except NotFoundError:
        if not folder.exists("config.json"):  # which a tokenizer directory has
            raise
        kind = folder.read_json("config.json").get("kind", "folder")
    written = write_bag(job.folder, job.out, f"syllabary {kind}")
    say("bag", f"{counted(written['num_files'], 'file')}, {written['size_bytes']:,} bytes")
    return dict(written)
