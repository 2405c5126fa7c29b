"""A folder at a URI as one value: what is in it, by names relative to it, is read, listed and published through it."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from syllabary.shards import outputs, store
from syllabary.shards.store import FileEntry


@dataclass(frozen=True)
class Folder:
    """A folder of the local disk, of an object store, or of a builtin.

    Names are relative, with ``/`` between parts; one that would leave the folder is refused with InputError. What fails
    raises as the functions of :mod:`syllabary.shards.store` do.
    """

    uri: str

    def __truediv__(self, name: str) -> Folder:
        """The folder of that name below this one."""
        return Folder(self.join(name))

    def join(self, name: str) -> str:
        """The URI of a file."""
        return store.join(self.uri, name)

    def exists(self, name: str) -> bool:
        """Whether a file or a folder of that name is there."""
        return store.exists(self.join(name))

    def list(self, *, suffix: str = "") -> list[FileEntry]:
        """All files below the folder, sorted by name; empty when nothing is there."""
        return store.list_files(self.uri, suffix=suffix)

    def read(self, name: str) -> bytes:
        """A whole file."""
        return store.read_bytes(self.join(name))

    def read_json(self, name: str) -> dict[str, Any]:
        """A file that holds a JSON object. Raises FormatError where it does not."""
        return outputs.read_json(self.join(name))

    def open(self, name: str) -> AbstractContextManager[BinaryIO]:
        """A seekable reader of a file."""
        return store.open_read(self.join(name))

    def publish(self, name: str, data: bytes) -> None:
        """Write a file so that it appears whole or not at all."""
        store.publish_bytes(self.join(name), data)

    def publish_json(self, name: str, value: object) -> None:
        """Write a value as JSON for people: sorted, indented."""
        self.publish(name, outputs.pretty_json(value))

    def publishing(self, name: str) -> AbstractContextManager[Path]:
        """A local path to write to; the file appears under its name when the block ends well."""
        return store.publishing(self.join(name))

    def delete(self, name: str) -> None:
        """Delete a file, or a folder with all that is in it; nothing where there is none."""
        store.delete(self.join(name))
