"""Recognize a source by its content, and list every recording of it.

A folder of audio or of LibriLight, a Kaldi directory, a folder of Parquet; or one file: a tar, a manifest, a table.
``layout`` of the configuration overrules.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import PurePosixPath

from syllabary.shards import store
from syllabary.shards.errors import InputError
from syllabary.shards.ingest.config import IngestConfig
from syllabary.shards.ingest.layouts import Layout
from syllabary.shards.ingest.recordings import Recording
from syllabary.shards.ingest.sources import flat, folder, kaldi, lhotse, parquet
from syllabary.shards.ingest.sources.files import AUDIO_SUFFIXES, SourceFile, head_of, is_folder, list_source_files
from syllabary.shards.ingest.sources.lines import Line, recordings_of
from syllabary.shards.ingest.sources.text import GZIP, json_objects, text_lines

_STREAMED = ("tar", "parquet")
_LHOTSE_SETS = ("cuts", "recordings")


@dataclass(frozen=True)
class Source:
    """A recognized source.

    Attributes:
        layout: its kind; "auto" is a folder, of LibriLight or of any audio.
        uri: of the source, or of the list in it.
        listed: the files of a folder and how many were passed over, where they have been listed already.
    """

    layout: Layout
    uri: str
    listed: tuple[list[SourceFile], int] | None = None

    @property
    def is_streamed(self) -> bool:
        """Whether its recordings lie inside something larger and are read in one pass."""
        return self.layout in _STREAMED


@dataclass
class Listing:
    """Every recording of a source, and notes for the user."""

    recordings: list[Recording]
    notes: list[str] = field(default_factory=list)


def tell_source(source: str, config: IngestConfig) -> Source:
    """Recognize the kind of a source.

    Raises:
        NotFoundError: nothing is there.
        InputError: a file that is none of those that are read.
        StorageError: it cannot be read.
    """
    if _is_file(source):
        if config.layout in ("auto", "folder", "librilight"):
            layout = _file_layout(source)
            if config.layout != "auto" and layout != "tar":
                raise InputError(f"a file is no {config.layout}", value=source, expected="a folder, or a tar of one")
            return Source(layout, source)
        return Source(config.layout, source)
    return _tell_folder(source, config)


def list_source(source: Source, config: IngestConfig) -> Listing:
    """List every recording of a source that is not streamed, sorted by id.

    Raises:
        InputError: a line is not understood, two recordings are one, or there is none.
        StorageError: the source is at fault.
    """
    listing = Listing([])
    if source.layout in ("folder", "librilight", "auto"):
        listed = source.listed or list_source_files(source.uri)
        listing.recordings = folder.recordings_of(source.uri, *listed, config, listing.notes)
    else:
        list_uri = store.join(source.uri, "wav.scp") if source.layout == "kaldi" else source.uri
        listing.recordings = recordings_of(list_uri, _lines(source, listing.notes), listing.notes)
    speakers = {recording.speaker for recording in listing.recordings}
    if len(speakers) == 1 and len(listing.recordings) > 1 and config.split_by == "speaker":
        (speaker,) = speakers
        listing.notes.append(f"one speaker, {speaker}, is everything: all goes to one split (see ingest.split_by)")
    return listing


def _lines(source: Source, notes: list[str]) -> Iterator[Line]:
    if source.layout == "kaldi":
        return kaldi.kaldi_lines(source.uri, notes)
    if source.layout == "lhotse":
        return lhotse.lhotse_lines(source.uri, notes)
    if source.layout == "table":
        return flat.table_lines(source.uri)
    return flat.manifest_lines(source.uri)


def _is_file(source: str) -> bool:
    if not store.is_remote(source):
        return not is_folder(source) and store.exists(source)
    return not store.is_folder(source) and store.exists(source)


def _tell_folder(source: str, config: IngestConfig) -> Source:
    if config.layout not in ("auto", "kaldi", "lhotse", "parquet"):
        return Source(config.layout, source)
    if config.layout != "auto":
        return Source(config.layout, _lhotse_set(source) if config.layout == "lhotse" else source)
    if not store.is_remote(source) and not is_folder(source):
        return Source("folder", source)  # listing it says what is wrong
    listed = list_source_files(source)
    suffixes = {file.suffix for file in listed[0]}
    if any(file.name == "wav.scp" for file in listed[0]):
        return Source("kaldi", source)
    if ".parquet" in suffixes and not suffixes & AUDIO_SUFFIXES:
        return Source("parquet", source)
    return Source("auto", source, listed)


def _lhotse_set(source: str) -> str:
    names = [file.name for file in list_source_files(source)[0] if "/" not in file.name]
    for kind in _LHOTSE_SETS:
        for name in names:
            if kind in name and name.removesuffix(".gz").endswith((".jsonl", ".json")):
                return store.join(source, name)
    raise InputError("no manifest of Lhotse's", value=source, expected="cuts.jsonl.gz or recordings.jsonl.gz")


def _file_layout(source: str) -> Layout:
    head = head_of(source)
    if is_tar(head):
        return "tar"
    if head[:4] == parquet.MARK:
        return "parquet"
    inner = _inflated(head) if head[:2] == GZIP else head
    if inner.removeprefix(b"\xef\xbb\xbf").lstrip()[:1] in (b"{", b"["):
        _, first = next(json_objects(source), (0, {}))
        return "lhotse" if lhotse.is_lhotse(first) else "manifest"
    if PurePosixPath(source).name == "wav.scp":
        raise InputError("a wav.scp alone", value=source, fix="name the folder that it lies in")
    if not inner.strip():
        raise InputError("empty manifest", value=source, expected='lines such as {"path": "a.flac"}')
    if b"\0" not in inner and inner:
        return _text_layout(source)
    raise InputError("a file that is no list of audio and no tar", value=source, expected=_EXPECTED)


_EXPECTED = "a folder, a tar (.tar.gz), JSON lines, CSV or TSV with a header, or Parquet; see docs/sources.md"


def _text_layout(source: str) -> Layout:
    try:
        _, first = next(text_lines(source), (0, ""))
    except InputError as error:
        raise InputError("a file that is no list of audio and no tar", value=source, expected=_EXPECTED) from error
    fields = flat.first_fields(first)
    if PurePosixPath(source).name.endswith((".jsonl", ".jsonl.gz", ".json", ".json.gz")):
        return "manifest"
    if flat.path_column(fields) is None and not flat.is_ljspeech(fields):
        raise InputError("a file that is no list of audio and no tar", value=source, expected=_EXPECTED)
    return "table"


def is_tar(head: bytes) -> bool:
    """Whether a file with these first bytes is a tar, packed with gzip, bzip2 or xz or not packed."""
    if head[:3] == b"BZh" or head[:6] == b"\xfd7zXZ\0":
        return True
    if head[:2] == GZIP:
        return _is_tar_block(_inflated(head))
    return _is_tar_block(head)


def _inflated(head: bytes) -> bytes:
    try:
        return zlib.decompressobj(wbits=31).decompress(head, 1 << 16)
    except zlib.error:
        return b""


def _is_tar_block(block: bytes) -> bool:
    """By the checksum of its header: old tars have no other mark."""
    if len(block) < 512 or not any(block[:512]):
        return False
    try:
        told = int(block[148:156].strip(b" \0") or b"x", 8)
    except ValueError:
        return False
    return told == sum(block[:148]) + 8 * 32 + sum(block[156:512])
