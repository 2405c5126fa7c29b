"""What a run leaves, to be looked through: its files wherever they are, Prefect's database, Ray's session logs."""

from __future__ import annotations

import contextlib
import sqlite3
import stat
from collections.abc import Iterator
from pathlib import Path

from syllabary.shards import store


def everything(folders: list[Path], uris: list[str], output: str) -> Iterator[tuple[str, bytes]]:
    """(where, bytes) of every regular file below the folders and URIs, and of the command's own output."""
    yield "the command's output", output.encode()
    for folder in folders:
        for path in folder.rglob("*"):
            with contextlib.suppress(FileNotFoundError):  # journals and rotated logs of servers that run
                if stat.S_ISREG(path.lstat().st_mode):
                    yield str(path), path.read_bytes()
    for uri in uris:
        for file in store.list_files(uri):
            yield file.uri, store.read_bytes(file.uri)


def artifacts(prefect_home: Path) -> dict[str, tuple[str, str]]:
    """Artifacts by key, (type, data), from the database of the Prefect server that the run had."""
    with sqlite3.connect(prefect_home / "prefect.db") as database:
        rows = database.execute("select key, type, data from artifact where key is not null").fetchall()
    return {key: (kind, data) for key, kind, data in rows}
