"""A Kaldi data directory: ``wav.scp``, and where they are there ``segments``, ``utt2spk``, ``text`` and the like."""

from __future__ import annotations

import re
from collections.abc import Iterator

from syllabary.shards.errors import InputError, NotFoundError
from syllabary.shards.ingest.sources.lines import Line, seconds_value
from syllabary.shards.ingest.sources.text import text_lines
from syllabary.shards.store import Folder
from syllabary.shards.words import counted

_ARCHIVED = re.compile(r"\.ark(\.gz)?:\d+$")
_KNOWN = ("utt2spk", "text", "utt2lang", "utt2gender", "utt2dur", "spk2gender", "spk2lang")


def kaldi_lines(folder: str, notes: list[str]) -> Iterator[Line]:
    """The lines of a data directory: its segments, or its whole recordings where it has no ``segments``.

    Args:
        folder: the directory; relative paths in ``wav.scp`` are relative to it.
        notes: gets a line for recordings without a segment.

    Raises:
        InputError: a pipe or an archive in ``wav.scp``, a segment of an unknown recording, a line of too few fields.
        StorageError: it cannot be read.
    """
    recordings = {name: (number, _path(folder, number, rest)) for number, name, rest in _pairs(folder, "wav.scp")}
    tables = {name: {key: value for _, key, value in _pairs(folder, name, optional=True)} for name in _KNOWN}
    segments = list(_segments(folder, recordings))
    if not segments and not Folder(folder).exists("segments"):
        segments = [(number, name, name, None, None) for name, (number, _) in recordings.items()]
    elif unused := len(recordings.keys() - {recording for _, _, recording, _, _ in segments}):
        notes.append(f"{counted(unused, 'recording')} of wav.scp in no segment: left out")
    for number, utterance, recording, start_s, end_s in segments:
        speaker = tables["utt2spk"].get(utterance)
        duration = tables["utt2dur"].get(utterance)
        yield Line(
            number, recordings[recording][1], speaker=speaker or None, text=tables["text"].get(utterance) or None,
            language=tables["utt2lang"].get(utterance) or tables["spk2lang"].get(speaker or "") or None,
            gender=tables["utt2gender"].get(utterance) or tables["spk2gender"].get(speaker or "") or None,
            start_s=start_s, end_s=end_s,
            duration_s=seconds_value(duration, f"{folder}/utt2dur") if start_s is None and end_s is None else None,
            extra={"id": utterance, "recording_id": recording},
        )  # fmt: skip


def _segments(
    folder: str, recordings: dict[str, tuple[int, str]]
) -> Iterator[tuple[int, str, str, float | None, float | None]]:
    for number, name, rest in _pairs(folder, "segments", optional=True):
        where = f"{folder}/segments line {number}"
        fields = rest.split()
        if len(fields) != 3:
            raise InputError(f"{where} is no segment", value=rest[:200], expected="utterance recording start end")
        if fields[0] not in recordings:
            raise InputError(f"{where}: no such recording in wav.scp", value=fields[0], fix="mend that line")
        start_s = seconds_value(fields[1], where)
        end_s = None if fields[2] == "-1" else seconds_value(fields[2], where)  # -1 is the end of the recording
        if end_s is not None and end_s <= (start_s or 0.0):
            raise InputError(f"{where}: end {end_s:g} is not after start {start_s or 0:g}", fix="mend that line")
        yield number, name, fields[0], start_s, end_s


def _pairs(folder: str, name: str, *, optional: bool = False) -> Iterator[tuple[int, str, str]]:
    """(line number, first field, rest) of a table of Kaldi's."""
    try:
        for number, line in text_lines(Folder(folder).join(name)):
            key, _, rest = line.strip().replace("\t", " ").partition(" ")
            yield number, key, rest.strip()
    except NotFoundError:
        if not optional:
            raise


def _path(folder: str, number: int, rest: str) -> str:
    where = f"{folder}/wav.scp line {number}"
    if rest.endswith("|") or rest.startswith("|"):
        what = f"{where} is a command, and commands from data are not run"
        raise InputError(what, value=rest[:200], fix="run it, and name the audio file that it writes")
    if _ARCHIVED.search(rest):
        what = f"{where} is a place in an archive of Kaldi's"
        raise InputError(what, value=rest[:200], fix="unpack the archive with wav-copy, and name the audio files")
    if not rest:
        raise InputError(f"{where} names no audio", fix="mend that line")
    return rest
