"""Resumable checkpoints, one folder per step, valid once the manifest exists.

    checkpoints/step-00000100/generator/...      what DeepSpeed writes, one or more files per rank
                              metrics.parquet    every metric so far
                              manifest.json      step, position, world_size, state, sha256 of every file

The manifest is published last, after every rank's files: its presence is the commit. The newest checkpoint whose files
all have their digest is used; damaged ones are skipped and named. Folders without a manifest are what a killed run
left, and are swept when the run starts again. Ray Train's own checkpoint tracking is not used: after a kill it resumes
from an older checkpoint than the last one stored.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from syllabary.shards import store
from syllabary.shards.errors import FormatError, NotFoundError, StorageError, SyllabaryError
from syllabary.shards.store import Folder, pretty_json

MANIFEST = "manifest.json"
_FORMAT_VERSION = 1


@dataclass(frozen=True)
class StoredFile:
    """One file of a checkpoint: name below the step's folder (posix), sha256 (hex), size."""

    name: str
    sha256: str
    size_bytes: int


@dataclass(frozen=True)
class Manifest:
    """The manifest of a checkpoint.

    Attributes:
        step: optimizer steps done.
        world_size: ranks that wrote it.
        state: what the run needs beside engine files: loader position, best validation, quarantine.
        files: every file but the manifest.
    """

    step: int
    world_size: int
    state: Mapping[str, Any]
    files: tuple[StoredFile, ...] = field(default=())

    def to_json(self) -> bytes:
        """The manifest's bytes."""
        return pretty_json(
            {
                "format_version": _FORMAT_VERSION,
                "step": self.step,
                "world_size": self.world_size,
                "state": dict(self.state),
                "files": [vars(f) for f in self.files],
            }
        )

    @classmethod
    def read(cls, checkpoint: Folder) -> Manifest:
        """The manifest of one checkpoint. Raises NotFoundError, FormatError."""
        value = checkpoint.read_json(MANIFEST)
        try:
            if value["format_version"] != _FORMAT_VERSION:
                raise FormatError(
                    "unknown checkpoint version", value=value["format_version"], expected=str(_FORMAT_VERSION)
                )
            files = tuple(StoredFile(**f) for f in value["files"])
            return cls(int(value["step"]), int(value["world_size"]), dict(value["state"]), files)
        except (KeyError, TypeError, ValueError) as error:
            if isinstance(error, SyllabaryError):
                raise
            raise FormatError(f"manifest does not read ({error!r})", value=checkpoint.uri) from error


@dataclass(frozen=True)
class CheckpointStore:
    """The checkpoints of the run at ``run_uri``."""

    run_uri: str

    @property
    def folder(self) -> Folder:
        """The folder of all checkpoints."""
        return Folder(self.run_uri) / "checkpoints"

    def of_step(self, step: int) -> Folder:
        """The folder of one checkpoint."""
        return self.folder / f"step-{step:08d}"

    def steps(self) -> list[int]:
        """Steps with a manifest, ascending, without verifying them."""
        names = [f.name.split("/") for f in self.folder.list(suffix=MANIFEST)]
        return sorted(step for n in names if len(n) == 2 and (step := _step_of(n[0])) is not None)

    def put_file(self, step: int, name: str, local: Path) -> StoredFile:
        """Store one file of a checkpoint that is not yet committed; ``local`` may be moved away."""
        stored = StoredFile(name, store.sha256_of(str(local)), local.stat().st_size)
        with self.of_step(step).publishing(name) as target:
            shutil.move(local, target)
        return stored

    def commit(self, manifest: Manifest) -> None:
        """Commit the checkpoint by its manifest. Every file must be stored before."""
        self.of_step(manifest.step).publish(MANIFEST, manifest.to_json())

    def discard(self, step: int) -> None:
        """Delete a checkpoint, its manifest first, so that a half-deleted one is an orphan and not a damaged one."""
        self.of_step(step).delete(MANIFEST)
        self.folder.delete(f"step-{step:08d}")

    def damage(self, step: int) -> str | None:
        """What is wrong with a checkpoint, or None: every file is read and its digest compared.

        Raises:
            StorageError: an object store is away or refuses. That says nothing of the checkpoint, and what is held to
                be damaged is swept.
        """
        try:
            checkpoint = self.of_step(step)
            for stored in Manifest.read(checkpoint).files:
                if store.sha256_of(checkpoint.join(stored.name)) != stored.sha256:
                    return f"{stored.name} changed since it was written"
        except (FormatError, NotFoundError) as error:
            return str(error)
        except StorageError as error:
            if store.is_remote(self.run_uri):
                raise
            return str(error)
        return None

    def newest_whole(self) -> tuple[int | None, list[str]]:
        """The newest step that verifies (None when there is none), and a line for each newer one that does not.

        Raises:
            StorageError: as for :meth:`damage`.
        """
        reports: list[str] = []
        for step in reversed(self.steps()):
            wrong = self.damage(step)
            if wrong is None:
                return step, reports
            reports.append(f"skipped the damaged checkpoint of step {step}: {wrong}")
        return None, reports

    def sweep(self, *, keep: int | None) -> int:
        """Delete what no run will use: temporaries of dead writers, folders without manifest, and every checkpoint
        newer than ``keep`` (those were found damaged, and their steps will be written again). Returns how many.
        """
        store.sweep_temporary(self.folder.uri)
        committed = set(self.steps())
        folders = {f.name.split("/")[0] for f in self.folder.list()}
        steps = sorted(step for f in folders if (step := _step_of(f)) is not None)
        doomed = [step for step in steps if step not in committed or keep is None or step > keep]
        for step in doomed:
            self.discard(step)
        return len(doomed)

    def retain(self, *, last: int, best: int | None) -> None:
        """Keep the newest ``last`` checkpoints and the one of step ``best``; delete the others."""
        for step in self.steps()[:-last]:
            if step != best:
                self.discard(step)

    @contextmanager
    def fetched(self, step: int) -> Iterator[Path]:
        """A local folder with the checkpoint's files (the folder itself when it is local)."""
        checkpoint = self.of_step(step)
        if not store.is_remote(checkpoint.uri):
            yield Path(checkpoint.uri)
            return
        with tempfile.TemporaryDirectory(prefix="syllabary-") as folder:
            for stored in Manifest.read(checkpoint).files:
                target = Path(folder, stored.name)
                target.parent.mkdir(parents=True, exist_ok=True)
                store.fetch_to(checkpoint.join(stored.name), target.parent)
            yield Path(folder)


def _step_of(folder: str) -> int | None:
    """The step that a checkpoint's folder is named after; None for a folder that is no checkpoint."""
    digits = folder.removeprefix("step-")
    return int(digits) if folder.startswith("step-") and digits.isdigit() else None
