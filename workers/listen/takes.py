"""Make the takes of an utterance: as its tokens give it back, and as it was spoken where that is at hand.

A take is a function from a row of the archive to its samples, int16 [num_samples] at the row's own rate.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Executor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import soundfile
from numpy.typing import NDArray

from syllabary.shards import audio, dataset, store
from syllabary.shards.archive.parts import SOURCE_SUFFIX, ArchiveFormat
from syllabary.shards.errors import DamageError, FormatError, InputError, NotFoundError
from syllabary.workers.listen.catalogue import Catalogue, Row
from syllabary.workers.tokenizer.directory import at_hand, stated_encoder_digest
from syllabary.workers.tokenizer.tokenizer import Tokenizer

Sound = NDArray[np.int16]
Take = Callable[[Row], Sound]
RESTORED, ORIGINAL = "restored", "original"
_KEPT_BYTES = 64 << 20


class Kept:
    """A take that keeps the sounds that it made, the newest ``_KEPT_BYTES`` of them, and makes one at a time.

    ``holds`` tells, without making it, whether the sound of a row is at hand.
    """

    def __init__(self, make: Take, holds: Callable[[Row], bool] = lambda _: True) -> None:
        self.holds = holds
        self._make, self._sounds, self._size = make, OrderedDict[Any, Sound](), 0
        self._lock = threading.Lock()

    def __call__(self, row: Row) -> Sound:
        """The sound of a row."""
        key = (row["utterance_id"], row["crc32c"])
        with self._lock:
            if key in self._sounds:
                self._sounds.move_to_end(key)
                return self._sounds[key]
            sound = self._sounds[key] = self._make(row)
            self._size += sound.nbytes
            while self._size > _KEPT_BYTES and len(self._sounds) > 1:
                self._size -= self._sounds.popitem(last=False)[1].nbytes
            return sound


def restored(tokenizer: Tokenizer, catalogue: Catalogue, thread: Executor) -> Take:
    """What the tokenizer makes of a row's tokens, in the one warm ``thread``; a take raises DamageError."""
    packing = catalogue.reader.format.packing

    def decode(row: Row) -> Sound:
        if not row["num_samples"]:
            return np.zeros(0, np.int16)
        tokens = np.asarray(row.get("tokens") or catalogue.tokens([row])[0]["tokens"])
        try:
            samples = thread.submit(tokenizer.decode, tokens, row["num_samples"], row["sample_rate"], packing).result()
        except ValueError as error:
            what = f"utterance {row['utterance_id']} does not decode ({error})"
            raise DamageError(what, fix="run `syllabary verify`") from error
        return audio.to_int16(samples)

    return Kept(decode)


def from_shards(shards: str) -> Take:
    """Originals out of shards, each by one range request.

    Raises:
        NotFoundError, FormatError: there are none; the take itself: it does not hold the utterance, or is damaged.
    """
    names = ["utterance_id", "shard", "offset", "size_bytes", "sha256"]
    rows: pa.Table = dataset.read_index(shards).select(names)

    def place(row: Row) -> int:
        return int(pc.index(rows["utterance_id"], row["utterance_id"]).as_py())

    def read(row: Row) -> Sound:
        at = place(row)
        if at < 0:
            raise NotFoundError("the shards do not hold the utterance", value=row["utterance_id"])
        samples, rate = audio.decode(dataset.read_utterance(shards, rows.slice(at, 1).to_pylist()[0]))
        return _fitting(row, samples, rate)

    return Kept(read, lambda row: place(row) >= 0)


def from_folder(root: str) -> Take:
    """Originals cut out of the recordings in a folder, by the ``source`` of each row.

    Raises:
        NotFoundError: there is no such folder; the take itself: no such file in it, or one of another rate or length.
    """
    if not store.is_folder(root):
        raise NotFoundError("no folder of recordings", value=root, fix="give --audio-root, or leave it out")

    def name_of(row: Row) -> str:
        return row.get("source") or row["recording_id"] + SOURCE_SUFFIX

    def holds(row: Row) -> bool:
        try:
            return store.exists(_below(root, name_of(row)))
        except InputError:
            return False

    def read(row: Row) -> Sound:
        name = name_of(row)
        uri = _below(root, name)
        try:
            with store.open_read(uri) as file, soundfile.SoundFile(file) as recording:
                if recording.samplerate != row["sample_rate"] or recording.frames < row["start_sample"]:
                    raise NotFoundError("the recording is another one than the archive's", value=name)
                recording.seek(row["start_sample"])
                samples = audio.to_mono(recording.read(row["num_samples"], dtype="float32", always_2d=True))
        except soundfile.LibsndfileError as error:
            raise FormatError(f"the recording is not readable audio ({error.error_string})", value=name) from error
        return _fitting(row, samples, row["sample_rate"])

    return Kept(read, holds)


def _below(root: str, name: str) -> str:
    """A file of the folder. Names come from an archive, which anybody may have written: none leads out of it.

    Raises:
        InputError: it would.
    """
    uri = store.join(root, name)
    if not store.is_remote(uri) and not Path(uri).resolve().is_relative_to(store.local_path(root).resolve()):
        raise InputError("unsafe path", value=name, expected="a file below --audio-root")
    return uri


def _fitting(row: Row, samples: audio.Samples, rate: int) -> Sound:
    if rate != row["sample_rate"] or len(samples) != row["num_samples"]:
        what = "the original is another one than the archive's: samples at Hz"
        raise NotFoundError(what, value=(len(samples), rate), expected=f"{row['num_samples']} at {row['sample_rate']}")
    return audio.to_int16(samples)


def tokenizer_of(archive: str, form: ArchiveFormat, given: str | None) -> tuple[str, str]:
    """URI of the tokenizer that an archive's tokens are of, or an empty text and what to do in one line.

    Looked at are what the user gives, what the archive keeps, what its run has made, and what ships with the package.

    Raises:
        InputError: the one given has another encoder.
    """
    if given is not None:
        if (stated := stated_encoder_digest(given)) != form.encoder_digest:
            fix = "give the one that the archive was made with, or leave --tokenizer out"
            raise InputError(
                "the tokenizer is another one", value=stated[:16], expected=form.encoder_digest[:16], fix=fix
            )
        return given, ""
    if uri := at_hand(archive, form.encoder_digest):
        return uri, ""
    want = f"give --tokenizer: the one whose encoder digest begins with {form.encoder_digest[:16]}"
    return "", f"Nothing can be heard: neither the archive, nor its run, nor the package holds its tokenizer; {want}"
