"""The layout of a pipeline run: the folders of its stages, and the claim of the run's folder. Free of torch."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from syllabary.shards import outputs, store
from syllabary.shards.errors import InputError, StorageError
from syllabary.workers.recipes import beginning
from syllabary.workers.recipes.recipe import Recipe
from syllabary.workers.recipes.shipped import NOTHING

DEMO = "the demo speech"
POINTER = "promoted.json"  # of a registry, to the tokenizer in use
LM_FIGURES = "lm.json"  # of a language model on held-out speech
_NEEDED_BYTES = 2 << 30


@dataclass(frozen=True)
class PipelineLayout:
    """The folders of a run at ``root`` (a URI)."""

    root: str

    def _below(self, name: str) -> str:
        return store.join(self.root, name)

    @property
    def corpus(self) -> str:
        """The demo speech, when it is the source."""
        return self._below("corpus")

    @property
    def shards(self) -> str:
        """WebDataset shards, index and ledger."""
        return self._below("shards")

    @property
    def pretrain(self) -> str:
        """The stage-1 run."""
        return self._below("pretrain")

    @property
    def codec(self) -> str:
        """The stage-2 run."""
        return self._below("codec")

    @property
    def tokenizer(self) -> str:
        """The tokenizer directory."""
        return self._below("tokenizer")

    @property
    def archive(self) -> str:
        """The Parquet tokens."""
        return self._below("archive")

    @property
    def restored(self) -> str:
        """Some audio given back."""
        return self._below("restored")

    def stages(self) -> dict[str, str]:
        """Every stage's URI by its name."""
        names = ("shards", "pretrain", "codec", "tokenizer", "archive", "restored")
        return {name: self._below(name) for name in names}


def claim_run(layout: PipelineLayout, source: str | None, recipe: Recipe, init: str = NOTHING) -> None:
    """Take the output folder for this source, recipe and beginning, after the checks that need no work.

    Raises:
        InputError: the source is missing or empty, or what to begin with is unknown or unfinished.
        ConfigError: what to begin with is not of this recipe.
        StorageError: too little free disk, or the store refuses.
        ConflictError: the folder belongs to another source, recipe or beginning.
    """
    inputs: dict[str, Any] = {"source": DEMO} if source is None else dict(_fingerprint(source))
    inputs["init"] = NOTHING if init == NOTHING else beginning.claimed(init, recipe)
    if outputs.read_done(layout.root) is None:  # a finished run needs no more space
        _require_free_disk(layout.root)
    outputs.claim(layout.root, "run", inputs=inputs, config=recipe.model_dump(mode="json"))


def is_done(layout: PipelineLayout, source: str | None, recipe: Recipe, init: str = NOTHING) -> bool:
    """Whether this very run is complete; raises as :func:`claim_run` does."""
    if outputs.read_done(layout.root) is None:
        return False
    claim_run(layout, source, recipe, init)
    return True


def _fingerprint(source: str) -> dict[str, str]:
    """What the source holds, by names and sizes: a grown source is another run."""
    source = store.normalize(source)
    files = (
        store.list_files(source) if not _is_file(source) else [store.FileEntry(source, "", store.size_bytes(source))]
    )
    if not files:
        raise InputError(
            "no speech, SOURCE is missing or empty", value=source, expected="a folder or URI with audio files"
        )
    return {"source": source, "files_digest": outputs.digest([[f.name, f.size_bytes] for f in files])}


def _is_file(source: str) -> bool:
    fs, path = store.filesystem(source)
    return store.exists(source) and bool(fs.isfile(path))


def _require_free_disk(root: str) -> None:
    if store.is_remote(root):
        return
    folder = Path(store.normalize(root))
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    if free < _NEEDED_BYTES:
        raise StorageError(
            f"only {free / 2**30:.1f} GiB free at {folder}",
            expected=f"{_NEEDED_BYTES / 2**30:.0f} GiB",
            fix="free some space or give another --out",
        )
