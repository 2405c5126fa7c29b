"""A folder of audio or of LibriLight as a source, local or on S3.

:func:`list_recordings` names every input once, in order, without decoding any; what cannot be used is listed too, with
its reason, so that the ledger can account for it.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Literal, TypeVar

from syllabary.shards import outputs, store
from syllabary.shards.errors import InputError, StorageError
from syllabary.shards.ingest.config import IngestConfig
from syllabary.shards.ingest.decoding.decoder import is_audio
from syllabary.shards.ingest.recordings import (
    Recording,
    RecordingError,
    Verdict,
    escape,
    extra_json,
    id_of,
    speaker_name,
)
from syllabary.shards.ingest.sources.files import (
    AUDIO_SUFFIXES,
    UNREADABLE_SUFFIXES,
    SourceFile,
    fingerprint,
    head_of,
    list_source_files,
    read_input,
)
from syllabary.shards.ingest.sources.librilight import Sidecar, parse_sidecar
from syllabary.shards.words import counted

T = TypeVar("T")
R = TypeVar("R")
_READERS = 16
_AT_ONCE = 1024
_NO_AUDIO = frozenset({
    ".txt", ".md", ".csv", ".tsv", ".xml", ".html", ".pdf", ".jpg", ".png", ".zip", ".py", ".log", ".lab", ".textgrid",
    ".sha256", ".md5", ".npy", ".pt", ".yaml", ".yml", ".jsonl", ".parquet",
})  # fmt: skip
Layout = Literal["librilight", "folder"]


def list_recordings(source: str, config: IngestConfig, notes: list[str] | None = None) -> list[Recording]:
    """Every recording of a folder, sorted by id.

    Args:
        source: folder or prefix.
        config: its ``layout`` and ``coverage`` matter here.
        notes: gets a line for what was passed over.

    Raises:
        InputError: no audio there, or two recordings of one id.
        StorageError: the source cannot be listed.
    """
    listed, num_passed_over = list_source_files(source)
    return recordings_of(source, listed, num_passed_over, config, [] if notes is None else notes)


def recordings_of(
    source: str, listed: list[SourceFile], num_passed_over: int, config: IngestConfig, notes: list[str]
) -> list[Recording]:
    """The recordings of the files of a folder; see :func:`list_recordings`."""
    if own := _own_outputs(listed):
        listed = [file for file in listed if not file.name.startswith(tuple(own))]
        notes.append(f"outputs of syllabary below SOURCE are passed over: {len(own):,}, such as {escape(own[0])}")
    wanted = list(_in_threads(_is_input, listed))
    files = [file for file, own in zip(listed, wanted, strict=True) if own]
    layout = _layout(files, config)
    recordings = list(_in_threads(lambda job: job(), _describers(files, layout, config)))
    if not any(file.suffix != ".json" and not file.problem for file in files):
        raise InputError(
            "no audio found",
            value=source,
            expected="a folder with .flac, .wav, .mp3, .ogg or .opus files",
            fix="check SOURCE",
        )
    if num_passed_over:
        notes.append(f"{num_passed_over:,} hidden files and files of the system are passed over")
    if others := [file.name for file, own in zip(listed, wanted, strict=True) if not own]:
        notes.append(f"{counted(len(others), 'file')} passed over as no audio, such as {escape(others[0])}")
    return in_order(recordings)


def _own_outputs(listed: list[SourceFile]) -> list[str]:
    """Folders below the source, each with its slash, that hold an output of ours: what is restored is no new speech."""
    claims = [file for file in listed if file.name.endswith(f"/{outputs.CLAIM}") and not file.problem]
    return [file.name.removesuffix(outputs.CLAIM) for file in claims if _is_claim(file)]


def _is_claim(file: SourceFile) -> bool:
    try:
        claim = json.loads(read_input(file.location))
    except (RecordingError, ValueError):
        return False
    return isinstance(claim, dict) and {"kind", "format_version", "inputs", "config"} <= claim.keys()


def _in_threads(function: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
    """``function`` of each item, in order; a promise of each of a million at once would outweigh what they become."""
    rest = iter(items)
    with ThreadPoolExecutor(_READERS) as pool:
        while batch := list(itertools.islice(rest, _AT_ONCE)):
            yield from pool.map(function, batch)


def in_order(recordings: Iterable[Recording]) -> list[Recording]:
    """Sorted by id. Raises InputError when two share one."""
    ordered = sorted(recordings, key=lambda recording: recording.recording_id)
    for one, other in itertools.pairwise(ordered):
        if one.recording_id == other.recording_id:
            raise InputError(
                "two recordings of one name", value=f"{one.source}, {other.source}", fix="rename one of them"
            )
    return ordered


def _is_input(file: SourceFile) -> bool:
    """By name; a file that is named like nothing known is looked into, where that costs no request."""
    if file.problem or file.suffix in AUDIO_SUFFIXES | UNREADABLE_SUFFIXES | {".json"}:
        return True
    return file.suffix not in _NO_AUDIO and file.size_bytes > 0 and _sounds(file)


def _sounds(file: SourceFile) -> bool:
    if store.is_remote(file.location):
        return False
    try:
        return is_audio(head_of(file.location))
    except StorageError:
        return False


def _layout(files: list[SourceFile], config: IngestConfig) -> Layout:
    if config.layout in ("librilight", "folder"):
        return "librilight" if config.layout == "librilight" else "folder"
    names = {file.name for file in files}
    paired = any(_sidecar_name(file.name) in names for file in files if file.suffix == ".flac")
    return "librilight" if paired else "folder"


def _sidecar_name(name: str) -> str:
    return str(PurePosixPath(name).with_suffix(".json"))


def _describers(files: list[SourceFile], layout: Layout, config: IngestConfig) -> Iterator[_Describer]:
    by_name = {file.name: file for file in files}
    for file in files:
        if file.suffix != ".json" or file.problem:
            sidecar = by_name.get(_sidecar_name(file.name)) if layout == "librilight" else None
            yield _Describer(file, sidecar, layout, config)
        elif layout == "librilight" and str(PurePosixPath(file.name).with_suffix(".flac")) not in by_name:
            orphan = SourceFile(file.name, file.location, file.size_bytes, file.etag, "JSON without its FLAC")
            yield _Describer(orphan, None, layout, config)


@dataclass(frozen=True)
class _Describer:
    """Turns a file (and its JSON) into a recording; called in threads, as it reads a little of each file."""

    file: SourceFile
    sidecar: SourceFile | None
    layout: Layout
    config: IngestConfig

    def __call__(self) -> Recording:
        try:
            said, mark = self._read_sidecar()
            verdict, detail = self._judge(said)
        except RecordingError as error:
            said, mark, verdict, detail = None, "", "quarantined", str(error)
        return Recording(
            recording_id=id_of(self.file.name), source=escape(self.file.name), location=self.file.location,
            size_bytes=self.file.size_bytes, fingerprint=fingerprint(self.file, mark),
            speaker=speaker_name((said and said.speaker) or speaker_of(self.file.name, self.layout)),
            sidecar=self.sidecar.location if self.sidecar else None, language=said.language if said else None,
            snr_db=said.snr_db if said else None, text=said.text if said else None,
            gender=said.gender if said else None, extra=extra_json(said.extra) if said else None,
            verdict=verdict, detail=detail,
        )  # fmt: skip

    def _read_sidecar(self) -> tuple[Sidecar | None, str]:
        if self.sidecar is None:
            return None, ""
        data = read_input(self.sidecar.location)
        return parse_sidecar(data), hashlib.sha256(data).hexdigest()

    def _judge(self, said: Sidecar | None) -> tuple[Verdict, str]:
        if self.file.problem:
            raise RecordingError(self.file.problem)
        if self.file.suffix in UNREADABLE_SUFFIXES and not _sounds(self.file):
            raise RecordingError(f"{self.file.suffix} is not readable here: convert it to FLAC")
        require_sidecar(said, self.layout, self.config)
        return "", ""


def require_sidecar(said: Sidecar | None, layout: Layout, config: IngestConfig) -> None:
    """Refuse a LibriLight recording whose voice activity is needed and not known. Raises RecordingError."""
    if layout == "folder" or config.coverage == "all":
        return
    if said is None:
        raise RecordingError("missing JSON")
    if said.voice_activity is None:
        raise RecordingError("JSON without voice_activity")


def speaker_of(name: str, layout: Layout) -> str:
    """The speaker a path names: LibriLight's SPEAKER/BOOK/FILE; else the first folder below the root, or "unknown"."""
    folders = PurePosixPath(name).parts[:-1]
    if layout == "librilight" and len(folders) >= 2:
        return folders[-2]
    return folders[0] if folders else "unknown"
