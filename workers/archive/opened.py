"""An archive as users import it: rows one after another without loading it, times of a recording, and their sound.

    archive = open_archive("s3://bucket/run/archive")
    for utterance in archive.where("speaker = '19'"):
        print(utterance.utterance_id, utterance.tokens.shape)
    sound = archive["19/book/chapter"].between(60, 90).to_audio()       # float32 samples and their rate

Memory is that of one row group, however long the archive. The columns of a condition are read first, the others only
where a row matches, and a part only while it is asked for.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from syllabary.shards.archive.parts import ArchiveFormat, list_values, row_tokens
from syllabary.shards.archive.reader import ArchiveReader
from syllabary.shards.archive.where import Condition, parse_where
from syllabary.shards.errors import ConflictError, InputError, NotFoundError

if TYPE_CHECKING:
    from syllabary.workers.tokenizer.tokenizer import Tokenizer

_ROWS_AT_ONCE = 256  # as Python objects


class Sound(NamedTuple):
    """``samples`` float32 [num_samples] in -1..1 at ``sample_rate`` Hz."""

    samples: NDArray[np.float32]
    sample_rate: int


@dataclass(frozen=True)
class Utterance:
    """A row of an archive.

    Attributes:
        row: every column by name but the two below; ``speaker``, ``text`` and what else the source knew are among them.
        tokens: uint16 [num_frames, num_groups].
        salience: uint8 [num_frames].
    """

    row: Mapping[str, Any]
    tokens: NDArray[np.uint16]
    salience: NDArray[np.uint8]
    _archive: Archive

    @property
    def utterance_id(self) -> str:
        """The utterance's name, the same in shards and archive."""
        return str(self.row["utterance_id"])

    @property
    def recording_id(self) -> str:
        """The name of the recording that it is cut from."""
        return str(self.row["recording_id"])

    @property
    def start_s(self) -> float:
        """Where it begins in its recording, in seconds."""
        return float(self.row["start_sample"] / self.row["sample_rate"])

    @property
    def end_s(self) -> float:
        """Where it ends in its recording, in seconds."""
        return float((self.row["start_sample"] + self.row["num_samples"]) / self.row["sample_rate"])

    def to_audio(self, tokenizer: Tokenizer | None = None) -> Sound:
        """The sound, exactly as long as the utterance was, at its own rate.

        Args:
            tokenizer: with its decoder; None for :attr:`Archive.tokenizer`.

        Raises:
            ConflictError: the tokenizer's encoder is not the archive's.
            NotFoundError: none was given, and none is at hand.
            DamageError: the tokens do not decode.
        """
        from syllabary.workers.archive.clips import Clip

        return self._archive._sound(Clip(self.utterance_id, [self._decodable()]), tokenizer)

    def _decodable(self) -> dict[str, Any]:
        return {**self.row, "tokens": self.tokens}


@dataclass(frozen=True)
class Recording:
    """A recording of an archive, or the part of it between two times: the utterances that lie in it, in order of time.

    Attributes:
        recording_id: as in the rows.
        start_s: where it begins, in seconds of the recording.
        end_s: where it ends; None for the end of its last utterance.
    """

    recording_id: str
    start_s: float
    end_s: float | None
    _archive: Archive

    def between(self, start_s: float, end_s: float) -> Recording:
        """The part between two times, both in seconds of the whole recording; infinity is its end.

        Raises:
            InputError: a negative time, or an end that is not behind the start.
        """
        start_s, end_s = float(start_s), float(end_s)  # of numpy's too
        if not 0 <= start_s < end_s:
            what, expected = "a time range of a recording", "0 <= start_s < end_s"
            raise InputError(what, value=f"{start_s:g} to {end_s:g} s", expected=expected)
        end = min(end_s, math.inf if self.end_s is None else self.end_s)
        until = None if math.isinf(end) else end
        return Recording(self.recording_id, max(start_s, self.start_s), until, self._archive)

    def __iter__(self) -> Iterator[Utterance]:
        return iter(self._utterances)

    def __len__(self) -> int:
        return len(self._utterances)

    def to_audio(self, tokenizer: Tokenizer | None = None) -> Sound:
        """The sound from start to end: each utterance at its place in time, silence between, cut where the range ends.

        Arguments and errors are those of :meth:`Utterance.to_audio`.

        Raises:
            NotFoundError: nothing of the recording lies in the range.
            InputError: its utterances have several sample rates.
        """
        from syllabary.workers.archive.clips import joined_clip

        if not self._utterances:
            raise NotFoundError("no utterance lies there", value=f"{self.recording_id}, from {self.start_s:g} s")
        rows = [utterance._decodable() for utterance in self._utterances]
        return self._archive._sound(joined_clip(self.recording_id, rows, self.start_s, self.end_s), tokenizer)

    @cached_property
    def _utterances(self) -> list[Utterance]:
        texts = [_is_recording(self.recording_id)]
        texts += [f"end_s > {self.start_s!r}"] if self.start_s else []
        texts += [f"start_s < {self.end_s!r}"] if self.end_s is not None else []
        return sorted(self._archive.where(" and ".join(texts)), key=lambda one: one.row["start_sample"])


class Archive:
    """An archive opened for reading; iterating it gives every :class:`Utterance`, in the archive's order.

    ``archive[recording_id]`` is a :class:`Recording`, and ``recording_id in archive`` whether anything of it is there.

    Attributes:
        uri: of the archive.
        format: what its tokens mean.
    """

    def __init__(self, reader: ArchiveReader, condition: Condition | None = None, whole: Archive | None = None) -> None:
        self.uri: str = reader.uri
        self.format: ArchiveFormat = reader.format
        self._reader, self._condition, self._whole = reader, condition, whole or self

    @property
    def columns(self) -> list[str]:
        """Names of the columns that a row has and a condition may use."""
        return list(self._reader.schema.names)

    def where(self, text: str) -> Archive:
        """The rows that meet a condition as well (``speaker = '19' and duration_s > 3``); nothing is read yet.

        Raises:
            InputError: it does not parse, or names no column.
        """
        condition = parse_where(text, self._reader.schema)
        both = condition if self._condition is None else self._condition & condition
        return Archive(self._reader, both, self._whole)

    def __contains__(self, recording_id: object) -> bool:
        return isinstance(recording_id, str) and next(iter(self.where(_is_recording(recording_id))), None) is not None

    def __getitem__(self, recording_id: str) -> Recording:
        if not isinstance(recording_id, str):
            fix = "iterate the archive for its utterances: next(iter(archive)) is the first"
            raise InputError("a recording of an archive", value=recording_id, expected="its recording_id", fix=fix)
        return Recording(recording_id, 0.0, None, self)

    def __iter__(self) -> Iterator[Utterance]:
        for table in self._reader.scan(self._condition):
            tokens = row_tokens(table, self.format.packing.num_groups)
            salience = list_values(table["salience"])
            rest = table.drop_columns(["tokens", "salience"])
            rows = itertools.chain.from_iterable(batch.to_pylist() for batch in rest.to_batches(_ROWS_AT_ONCE))
            for row, own, salient in zip(rows, tokens, salience, strict=True):
                yield Utterance(row, own, salient, self._whole)

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer that makes sound of the tokens, by their encoder's digest: the archive's own where it holds the
        weights, the run's that it belongs to, or a builtin.

        Raises:
            NotFoundError: there is none.
        """
        from syllabary.workers.tokenizer.directory import at_hand
        from syllabary.workers.tokenizer.tokenizer import Tokenizer

        if self._whole is not self:
            return self._whole.tokenizer
        if uri := at_hand(self.uri, self.format.encoder_digest):
            return Tokenizer.load(uri)
        digest, fix = self.format.encoder_digest[:16], "give to_audio(tokenizer=...) one trained with that encoder"
        raise NotFoundError("no tokenizer at hand has the archive's encoder, digest", value=digest, fix=fix)

    def _sound(self, clip: Any, tokenizer: Tokenizer | None) -> Sound:
        from syllabary.workers.archive.clips import samples_of

        tokenizer = tokenizer or self.tokenizer
        if tokenizer.encoder_digest != self.format.encoder_digest:
            what, expected = f"the tokenizer cannot restore {self.uri}, encoder digest", self.format.encoder_digest[:16]
            raise ConflictError(what, value=tokenizer.encoder_digest[:16], expected=expected)
        return Sound(samples_of(clip, tokenizer, self.format.packing), int(clip.rows[0]["sample_rate"]))


def _is_recording(recording_id: str) -> str:
    return "recording_id = '" + recording_id.replace("'", "''") + "'"


def open_archive(uri: str) -> Archive:
    """Open the archive at ``uri``, reading no rows yet.

    Raises:
        NotFoundError: there is no archive, or no part in it.
        FormatError: it is no archive, or of another version.
        DamageError: parts are missing.
    """
    return Archive(ArchiveReader.open(uri))
