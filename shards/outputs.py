"""Who an output folder belongs to: ``output.json`` claims it, ``done.json`` says it is complete.

``output.json`` is written before anything else and names the kind of output, its format version, the inputs by digest
and the resolved configuration. A later run with other inputs or another configuration is refused (decision 5): it
never mixes two runs in one folder. Neither file holds a timestamp, so equal runs write equal bytes.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any, Literal

from syllabary.shards import store
from syllabary.shards.errors import ConflictError, DamageError, FormatError, NotFoundError, require_version
from syllabary.shards.store import Folder

Kind = Literal[
    "shards",
    "pretrain",
    "codec",
    "tokenizer",
    "archive",
    "restored",
    "packed",
    "report",
    "run",
    "evaluation",
    "language_model",
]
FORMAT_VERSION = 1
CLAIM, DONE = "output.json", "done.json"
_CANONICAL = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def canonical_json(value: object) -> bytes:
    """JSON with sorted keys and no spare space: equal values give equal bytes. NaN is refused."""
    return _CANONICAL.encode(value).encode()


def digest(value: object) -> str:
    """sha256 (hex) of the canonical JSON of a value."""
    return hashlib.sha256(canonical_json(value)).hexdigest()


def claim(uri: str, kind: Kind, *, inputs: Mapping[str, Any], config: Mapping[str, Any]) -> bool:
    """Take an empty folder for one run, or recognize the folder of the same run.

    Returns:
        Whether it was taken just now.

    Raises:
        ConflictError: the folder belongs to another kind of output, other inputs or another configuration.
    """
    wanted = {"kind": kind, "format_version": FORMAT_VERSION, "inputs": dict(inputs), "config": dict(config)}
    folder = Folder(uri)
    if folder.exists(CLAIM):
        _require_equal(uri, read_claim(uri), json.loads(canonical_json(wanted)))
        return False
    folder.publish_json(CLAIM, wanted)
    return True


def release(uri: str) -> None:
    """Give a folder back that was claimed just now, before anything was written into it."""
    Folder(uri).delete(CLAIM)


def read_claim(uri: str, kind: Kind | None = None) -> dict[str, Any]:
    """The claim of an output folder.

    Raises:
        NotFoundError: nothing of ours is there.
        VersionError: a format version this code does not know.
        FormatError: another kind of output.
        DamageError: the claim lacks what every claim has.
    """
    folder = Folder(uri)
    try:
        claimed = folder.read_json(CLAIM)
    except NotFoundError as error:
        what = "no output of syllabary" if store.exists(uri) else "nothing there"
        expected = f"a folder with {CLAIM}, as every output has it"
        raise NotFoundError(what, value=uri, expected=expected, fix="check the URI") from error
    require_version(claimed.get("format_version"), FORMAT_VERSION, f"format version in {uri}")
    if kind is not None and claimed.get("kind") != kind:
        raise FormatError(f"wrong kind of output at {uri}", value=claimed.get("kind"), expected=kind)
    if not (isinstance(claimed.get("inputs"), dict) and isinstance(claimed.get("config"), dict)):
        raise DamageError("a claim without its inputs and configuration", value=folder.join(CLAIM), fix="restore it")
    return claimed


def mark_done(uri: str, summary: Mapping[str, Any]) -> None:
    """Say that the output is complete, with the figures worth repeating."""
    Folder(uri).publish_json(DONE, dict(summary))


def read_done(uri: str) -> dict[str, Any] | None:
    """The summary of a complete output, or None while it is not complete."""
    folder = Folder(uri)
    return folder.read_json(DONE) if folder.exists(DONE) else None


def _require_equal(uri: str, found: dict[str, Any], wanted: dict[str, Any]) -> None:
    for path, old, new in _differences(found, wanted):
        raise ConflictError(
            f"{uri} belongs to another run: {path} was {old!r} and is now {new!r}",
            fix="use another --out, or the same inputs and recipe as before",
        )


def _differences(old: Any, new: Any, path: str = "") -> list[tuple[str, Any, Any]]:
    if isinstance(old, dict) and isinstance(new, dict):
        keys = sorted({*old, *new})
        return [d for k in keys for d in _differences(old.get(k), new.get(k), f"{path}.{k}".lstrip("."))]
    return [] if old == new else [(path or "contents", old, new)]
