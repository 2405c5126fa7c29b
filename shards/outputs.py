"""Who an output folder belongs to: ``output.json`` claims it, ``done.json`` says it is complete.

``output.json`` is written before anything else and names the kind of output, its format version, the inputs by digest
and the resolved configuration. A later run with other inputs or another configuration is refused (decision 5): it
never mixes two runs in one folder. Neither file holds a timestamp, so equal runs write equal bytes.
"""

from __future__ import annotations

import hashlib
import json
import re
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
_ABSENT = object()
_DIGEST = re.compile(r"\b[0-9a-f]{64}\b")
_DIGITS, _LONGEST = 16, 120
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
    if refuse_other(uri, kind, inputs=inputs, config=config):
        return False
    Folder(uri).publish_json(CLAIM, _claim_of(kind, inputs, config))
    return True


def refuse_other(uri: str, kind: Kind, *, inputs: Mapping[str, Any], config: Mapping[str, Any]) -> bool:
    """Refuse the folder of another run, and write nothing: for a verb that takes its output when its work is done.

    Returns:
        Whether the folder is already that of this run.

    Raises:
        ConflictError: as :func:`claim`.
    """
    if not Folder(uri).exists(CLAIM):
        return False
    _require_equal(uri, read_claim(uri), json.loads(canonical_json(_claim_of(kind, inputs, config))))
    return True


def _claim_of(kind: Kind, inputs: Mapping[str, Any], config: Mapping[str, Any]) -> dict[str, Any]:
    return {"kind": kind, "format_version": FORMAT_VERSION, "inputs": dict(inputs), "config": dict(config)}


def release(uri: str) -> None:
    """Give a folder back that was claimed just now, before anything was written into it."""
    Folder(uri).delete(CLAIM)


def inside_bag(uri: str) -> str:
    """What to do with a folder that is a BagIt bag of an output and none itself; empty where it is no bag."""
    folder = Folder(uri)
    return f"it is a bag, so give {folder.join('data')}" if folder.exists("bagit.txt") else ""


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
        fix = inside_bag(uri) or "check the URI"
        raise NotFoundError(what, value=uri, expected=expected, fix=fix) from error
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


def what_differs(old: Mapping[str, Any], new: Mapping[str, Any]) -> tuple[str, str] | None:
    """The path of the first value that differs between two JSON objects, and a clause that says what of them differs.

    None where they are equal.
    """
    differing = _differences(dict(old), dict(new))
    if not differing:
        return None
    path, before, now = next(
        (d for d in differing if d[0] == "kind"), differing[0]
    )  # of another kind all else differs too
    others = 0 if path == "kind" else len(differing) - 1
    more = f", and {others:,} more differ{'s' if others == 1 else ''}" if others else ""
    return path, f"{path} was {_shown(before)} and is now {_shown(now)}{more}"


def _require_equal(uri: str, found: dict[str, Any], wanted: dict[str, Any]) -> None:
    if (differs := what_differs(found, wanted)) is None:
        return
    path, clause = differs
    elsewhere = (
        "use another folder" if wanted["kind"] == "archive" else "use another --out"
    )  # which some call --archive
    before = {"inputs": ", or the same input as before", "config": ", or the same settings as before"}
    raise ConflictError(
        f"{uri} belongs to another run: {clause}", fix=elsewhere + before.get(path.partition(".")[0], "")
    )


def _differences(old: Any, new: Any, path: str = "") -> list[tuple[str, Any, Any]]:
    if isinstance(old, dict) and isinstance(new, dict):
        keys = sorted({*old, *new})
        return [
            d for k in keys for d in _differences(old.get(k, _ABSENT), new.get(k, _ABSENT), f"{path}.{k}".lstrip("."))
        ]
    if isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        pairs = enumerate(zip(old, new, strict=True))
        return [d for i, (one, other) in pairs for d in _differences(one, other, f"{path}[{i}]")]
    return [] if old == new else [(path or "contents", old, new)]


def _shown(value: Any) -> str:
    """A value in a message: a digest by its first digits, anything long by its beginning."""
    if value is _ABSENT:
        return "not there"
    text = _DIGEST.sub(lambda digest: f"{digest[0][:_DIGITS]}...", repr(value))
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."
