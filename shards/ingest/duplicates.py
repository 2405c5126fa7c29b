"""Find recordings with identical samples, before decoding where the format allows.

The mark of a recording is the md5 of its interleaved PCM: a FLAC file carries it in its header, other files are decoded
for it. A FLAC header may promise samples that the file has lost, so of several recordings with one mark the first that
decodes completely is the original; the others are its duplicates.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import soundfile

from syllabary.shards.ingest.decoding.decoder import Sound, parts_of
from syllabary.shards.ingest.decoding.pieces import Part, PiecedFile
from syllabary.shards.ingest.recordings import Recording, RecordingError
from syllabary.shards.ingest.streams import SampleStream

Fetch = Callable[[Recording, Path], Path]
_BLOCK_FRAMES = 1 << 16
_READERS = 8


def mark_duplicates(recordings: Iterable[Recording], originals: Iterable[Recording], fetch: Fetch) -> list[Recording]:
    """The recordings, in order, with the verdict "duplicate" on those that repeat another.

    Args:
        recordings: to be judged; an earlier one goes before a later one. Parts of files (start_s, end_s) and recordings
            that already have a verdict are left as they are.
        originals: recordings of earlier generations; they are originals to all others and are not judged again.
        fetch: (recording, temporary folder) to a local path.
    """
    judged, old = list(recordings), list(originals)
    with ThreadPoolExecutor(_READERS) as pool:
        marks = list(pool.map(lambda recording: mark_of(recording, fetch), [*old, *judged]))
    groups: dict[str, list[Recording]] = {}
    for recording, mark in zip([*old, *judged], marks, strict=True):
        if mark:
            groups.setdefault(mark, []).append(recording)
    original_of = {
        copy.recording_id: original.recording_id
        for group in groups.values()
        if len(group) > 1
        for original, copy in _pairs(group, fetch)
    }
    return [_judge(recording, original_of) for recording in judged]


def _judge(recording: Recording, original_of: dict[str, str]) -> Recording:
    original = original_of.get(recording.recording_id)
    return replace(recording, verdict="duplicate", detail=original) if original else recording


def _pairs(group: list[Recording], fetch: Fetch) -> Iterator[tuple[Recording, Recording]]:
    """(original, copy) of a group of one mark; damaged ones in front of the original are neither."""
    original = next((recording for recording in group if _decodes(recording, fetch)), None)
    if original is None:
        return
    for recording in group[group.index(original) + 1 :]:
        yield original, recording


def mark_of(recording: Recording, fetch: Fetch) -> str:
    """md5 (hex) of the samples the recording promises; empty when it has none or is only a part of a file."""
    if recording.verdict or recording.start_s is not None or recording.end_s is not None:
        return ""
    with tempfile.TemporaryDirectory(prefix="syllabary-") as folder:
        try:
            path = fetch(recording, Path(folder))
            parts = parts_of(path)
            if len(parts) > 1:
                return ""  # no copy of a single file
            return parts[0].md5.hex() or _pcm_mark(path, parts[0])
        except (RecordingError, OSError):
            return ""  # it will be quarantined when its turn comes


def _pcm_mark(path: Path, part: Part) -> str:
    """md5 of the samples as FLAC would count it: little-endian, in the width of the source."""
    digest = hashlib.md5(usedforsecurity=False)
    try:
        with PiecedFile(path, part.pieces) as file, Sound(file) as audio:
            width = 3 if audio.subtype == "PCM_24" else 2
            while len(block := audio.read(_BLOCK_FRAMES, dtype="int16" if width == 2 else "int32", always_2d=True)):
                digest.update(block.astype("<i2").tobytes() if width == 2 else _low_three_bytes(block))
    except soundfile.LibsndfileError as error:
        raise RecordingError("damaged audio") from error
    return digest.hexdigest()


def _low_three_bytes(block: np.ndarray) -> bytes:
    # libsndfile left-justifies 24-bit samples in 32 bits: the lowest byte is padding.
    return block.astype("<i4").reshape(-1, 1).view(np.uint8)[:, 1:].tobytes()


def _decodes(recording: Recording, fetch: Fetch) -> bool:
    with tempfile.TemporaryDirectory(prefix="syllabary-") as folder:
        try:
            with SampleStream(fetch(recording, Path(folder))) as stream:
                stream.finish()
        except RecordingError:
            return False
    return True
