"""A folder as a bag (BagIt 1.0, RFC 8493): what archives hand one another, with a checksum of every file.

The manifest has one file per line, so a path's line feed, carriage return and percent sign are written ``%0A``,
``%0D`` and ``%25``, and nothing else is (section 2.1.3). Equal folders give equal bags: there is no date in one.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from syllabary.shards import store
from syllabary.shards.errors import ConflictError, DamageError, InputError, NotFoundError
from syllabary.shards.store import Folder

DECLARATION = b"BagIt-Version: 1.0\nTag-File-Character-Encoding: UTF-8\n"
DATA = "data"
_CHUNK = 1 << 20


def escaped(path: str) -> str:
    """A path as a manifest has it."""
    return path.replace("%", "%25").replace("\n", "%0A").replace("\r", "%0D")


def unescaped(path: str) -> str:
    """The path that :func:`escaped` wrote."""
    return path.replace("%0A", "\n").replace("%0a", "\n").replace("%0D", "\r").replace("%0d", "\r").replace("%25", "%")


def write_bag(uri: str, out: str, description: str) -> dict[str, int]:
    """Copy the folder ``uri`` into the bag ``out``; the declaration comes last and says that the bag is whole.

    Files that are there already are written again, so a bag that was cut short is finished by the same call.

    Returns:
        ``num_files`` and ``size_bytes`` of the payload.

    Raises:
        NotFoundError: there is nothing in the folder.
        InputError: ``out`` lies in the folder, so the bag would hold itself.
        ConflictError: ``out`` holds what is not in the folder, or is a bag in which a file has other bytes.
        StorageError: storage refuses.
    """
    if store.is_within(out, uri):
        raise InputError("a bag in the folder that goes into it", value=out, fix="use another --out")
    files, bag = store.list_files(uri), Folder(out)
    if not files:
        raise NotFoundError("nothing to put into a bag", value=uri, fix="check the URI")
    wanted = {f"{DATA}/{entry.name}" for entry in files}
    tags = ("bag-info.txt", "bagit.txt", "manifest-sha256.txt", "tagmanifest-sha256.txt")
    if foreign := sorted({entry.name for entry in bag.list()} - wanted - {*tags}):
        what, fix = "a file that is not in the folder", "use another --out"
        raise ConflictError(what, value=bag.join(foreign[0]), fix=fix)
    known = _sums(bag)
    for entry in files:
        if entry.name in known:  # before a file is copied: a bag that is refused stays whole
            _require_known(entry.uri, store.sha256_of(entry.uri), known[entry.name])
    sums = {
        entry.name: _copy(entry.uri, (bag / DATA).join(entry.name), entry.size_bytes, known.get(entry.name))
        for entry in files
    }
    size_bytes = sum(entry.size_bytes for entry in files)
    info = f"Bag-Software-Agent: syllabary\nExternal-Description: {_one_line(description)}\n"
    info += f"Payload-Oxum: {size_bytes}.{len(files)}\n"
    manifest = "".join(f"{digest}  {escaped(f'{DATA}/{name}')}\n" for name, digest in sorted(sums.items()))
    texts = {"bag-info.txt": info.encode(), "bagit.txt": DECLARATION, "manifest-sha256.txt": manifest.encode()}
    told = "".join(f"{hashlib.sha256(data).hexdigest()}  {name}\n" for name, data in sorted(texts.items()))
    declaration = texts.pop("bagit.txt")
    for name, data in (*texts.items(), ("tagmanifest-sha256.txt", told.encode()), ("bagit.txt", declaration)):
        bag.publish(name, data)
    return {"num_files": len(files), "size_bytes": size_bytes}


def _sums(bag: Folder) -> dict[str, str]:
    """sha256 of each file of a whole bag, by name; empty where there is none."""
    if not (bag.exists("bagit.txt") and bag.exists("manifest-sha256.txt")):
        return {}
    lines = bag.read("manifest-sha256.txt").decode(errors="replace").splitlines()
    pairs = (line.partition("  ") for line in lines)
    return {unescaped(path).removeprefix(f"{DATA}/"): digest for digest, _, path in pairs}


def _copy(source: str, target: str, size_bytes: int, known: str | None) -> str:
    """Copy a file some bytes at a time; returns its sha256.

    Raises:
        DamageError: its size is not what was listed.
        ConflictError: its sha256 is not the one that is ``known`` of it; nothing is written then.
    """
    digest, copied = hashlib.sha256(), 0
    with store.publishing(target) as path, store.open_read(source) as incoming, Path(path).open("wb") as outgoing:
        while data := incoming.read(_CHUNK):
            digest.update(data)
            outgoing.write(data)
            copied += len(data)
        if copied != size_bytes:
            raise DamageError("a file changed while it was copied", value=source, fix="run again when nobody writes")
        _require_known(source, digest.hexdigest(), known)
    return digest.hexdigest()


def _require_known(source: str, found: str, known: str | None) -> None:
    if known not in (None, found):
        what, fix = "a bag of other bytes is there, they differ in", "use another --out: a bag stays as it was made"
        raise ConflictError(what, value=source, fix=fix)


def _one_line(text: str) -> str:
    return " ".join(text.split())
