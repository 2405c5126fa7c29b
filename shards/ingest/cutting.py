"""Write one shard: read its recordings one after the other, cut, filter, encode and account for them.

The bytes of a shard depend on its plan, its recordings and the configuration alone. A recording that turns out damaged
leaves nothing in the shard; memory is bounded by the longest utterance.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from syllabary.shards import dataset, store
from syllabary.shards.audio import HEAD_BYTES, Samples, encode_flac, is_decoded, resampled_length
from syllabary.shards.dataset import ShardWriter
from syllabary.shards.ingest import filters
from syllabary.shards.ingest.channels import Mixing, find_mixing
from syllabary.shards.ingest.config import IngestConfig
from syllabary.shards.ingest.decoding.decoder import Decodable, Decoder, count_frames, decodable
from syllabary.shards.ingest.ledger import Row, fill_gaps, publish_ledger
from syllabary.shards.ingest.planning import ShardPlan
from syllabary.shards.ingest.recordings import FilteredError, MiscountedError, Recording, RecordingError, extra_json
from syllabary.shards.ingest.segments import Region, cut_long, limits, speech_regions, tiles
from syllabary.shards.ingest.sources.streamed import VoiceActivity
from syllabary.shards.ingest.streams import Reading, SampleStream
from syllabary.shards.ingest.vad import detect_speech

_MEMBER = ("utterance_id", "recording_id", "speaker", "split", "sample_rate", "num_samples", "start_sample", "source",
           "language", "snr_db", "text", "gender", "extra")  # fmt: skip


@dataclass(frozen=True)
class Inputs:
    """A shard writer's access to its inputs.

    Attributes:
        fetch: (recording, temporary folder) to a local path of its audio. Raises RecordingError.
        voice_activity: a recording's, when its source knows it, else None. Raises RecordingError.
    """

    fetch: Callable[[Recording, Path], Path]
    voice_activity: Callable[[Recording], VoiceActivity | None]


def write_shard(shards_uri: str, plan: ShardPlan, config: IngestConfig, inputs: Inputs) -> dict[str, Any]:
    """Write tar, ledger part and index part of one shard, in this order; the last one commits it.

    Returns:
        The shard's name, its number of utterances, its number of quarantined recordings with the first reason, and
        the seconds of its ledger.

    Raises:
        StorageError: the output refuses, or the store of the source is at fault.
    """
    with store.publishing(dataset.shard_uri(shards_uri, plan.shard)) as path, ShardWriter(path) as tar:
        writing = _Writing(plan, config, inputs, tar)
        writing.run()
    publish_ledger(shards_uri, plan.shard, writing.ledger)
    dataset.publish_index(shards_uri, plan.shard, writing.rows)
    quarantined = {row["recording_id"]: row["detail"] for row in writing.ledger if row["status"] == "quarantined"}
    return {
        "shard": plan.shard,
        "num_utterances": len(writing.rows),
        "num_quarantined": len(quarantined),
        "reason": next(iter(quarantined.values()), ""),
        "duration_s": sum(row["num_samples"] / max(1, row["sample_rate"]) for row in writing.ledger),
    }


class _Writing:
    """One shard being written: the rows of its index and its ledger grow together."""

    def __init__(self, plan: ShardPlan, config: IngestConfig, inputs: Inputs, tar: ShardWriter) -> None:
        self.plan, self.config, self.inputs, self.tar = plan, config, inputs, tar
        self.rows: list[Row] = []
        self.ledger: list[Row] = []

    def run(self) -> None:
        for recording in self.plan.recordings:
            with tempfile.TemporaryDirectory(prefix="syllabary-") as folder:
                self._account(recording, Path(folder))

    def _account(self, recording: Recording, folder: Path) -> None:
        path = None
        try:
            path = self.inputs.fetch(recording, folder)
            if recording.verdict == "duplicate":
                count_frames(path)  # a copy that lost some of its sound is none
            if recording.verdict:
                self.ledger.append(_whole(recording, path, self.config, recording.verdict, recording.detail))
            elif reason := filters.language_reason(recording.language, self.config):
                self.ledger.append(_whole(recording, path, self.config, "filtered", reason))
            else:
                self.ledger.extend(self._mended(recording, path))
        except RecordingError as error:
            status = "filtered" if isinstance(error, FilteredError) else "quarantined"
            if recording.verdict == "quarantined":
                error = RecordingError(recording.detail)
            self.ledger.append(_whole(recording, path, self.config, status, str(error)))

    def _mended(self, recording: Recording, path: Path) -> list[Row]:
        """The ledger rows of a recording that is cut; again with the right length where its header is wrong."""
        reading = replace(Reading.of(recording), max_value=self.config.max_value)
        with Decoder(path, whole=False) as decoder:
            if not recording.is_listed and is_decoded(_head(path)):
                raise FilteredError("decoded from tokens")
            if decoder.rate < self.config.min_sample_rate:
                raise FilteredError(f"sample rate: {decoder.rate} Hz, below {self.config.min_sample_rate} Hz")
            if recording.channel is not None:
                if recording.channel >= decoder.channels:
                    raise RecordingError(f"no channel {recording.channel + 1} in a file of {decoder.channels}")
                reading = replace(reading, mixing=Mixing((recording.channel,)))
            elif decoder.channels > 1:
                reading = replace(reading, mixing=find_mixing(path, self.config))
            if decoder.num_frames is None:
                reading = replace(reading, counted=count_frames(path))
        try:
            return self._whole_or_nothing(recording, path, reading)
        except MiscountedError as error:
            return self._whole_or_nothing(recording, path, replace(reading, counted=error.num_frames))

    def _whole_or_nothing(self, recording: Recording, path: Path, reading: Reading) -> list[Row]:
        mark, num_rows = self.tar.mark(), len(self.rows)
        try:
            return self._cut(recording, path, reading)
        except RecordingError:
            self.tar.rollback(mark)
            del self.rows[num_rows:]
            raise

    def _cut(self, recording: Recording, path: Path, reading: Reading) -> list[Row]:
        with SampleStream(path, reading, max_rate=self.config.max_sample_rate) as stream:
            regions = self._regions(recording, path, stream, reading)
            transcript = _Transcript(recording, _is_one_utterance(regions, limits(self.config, stream.rate)[1]))
            spans = []
            for start, samples in self._utterances(stream, regions):
                if stream.has_no_sound(start, start + len(samples)):
                    outcome = _Outcome("quarantined", "damaged audio (samples that are no sound)")
                else:
                    outcome = self._store(recording, start, samples, stream.rate, transcript)
                spans.append(_row(recording, outcome, start, len(samples), stream.rate))
            stream.finish()
            if stream.is_constant and self.config.constant == "filter":
                raise FilteredError("constant")
            rows = fill_gaps(spans, stream.num_samples, _row(recording, _Outcome("silence"), 0, 0, stream.rate))
            rows[0]["promised_samples"] = stream.promised
            rows[0]["note"] = "; ".join(note for note in [*stream.notes, rows[0]["note"]] if note)
            return rows

    def _regions(self, recording: Recording, path: Path, stream: SampleStream, reading: Reading) -> list[Region]:
        """What of the recording becomes utterances: all of it in pieces that fit, or its speech."""
        max_samples = limits(self.config, stream.rate)[1]
        stays_whole = (
            recording.text is not None and self.config.transcribed == "whole" and stream.num_samples <= max_samples
        )
        if self.config.coverage == "all" or stays_whole:
            return tiles(stream.num_samples, max_samples)
        activity = self.inputs.voice_activity(recording)
        if activity is None:
            activity = tuple(detect_speech(path, self.config.vad_aggressiveness, reading))
        return speech_regions(activity, stream.num_samples, stream.rate, self.config.join_gap_s)

    def _utterances(self, stream: SampleStream, regions: list[Region]) -> Iterator[tuple[int, Samples]]:
        min_samples, max_samples = limits(self.config, stream.rate)
        for region in regions:
            yield from cut_long(region, stream, stream.rate, min_samples, max_samples)

    def _store(
        self, recording: Recording, start: int, samples: Samples, rate: int, transcript: _Transcript
    ) -> _Outcome:
        """Put one utterance into the shard, or say why not."""
        if self.config.coverage == "speech" and len(samples) < limits(self.config, rate)[0]:
            return _Outcome("too_short")
        samples, note = filters.within_full_scale(samples, self.config)
        if reason := filters.reject(samples, rate, recording.snr_db, self.config):
            return _Outcome("filtered", reason)
        flac = encode_flac(samples, rate)
        row = self._index_row(recording, start, len(samples), rate, flac) | transcript.columns()
        row["offset"] = self.tar.add(row["key"], flac, {key: row[key] for key in _MEMBER})
        self.rows.append(row)
        return _Outcome("shard", self.plan.shard, note)

    def _index_row(self, recording: Recording, start: int, num_samples: int, rate: int, flac: bytes) -> Row:
        return {
            "utterance_id": f"{recording.recording_id}@{start:010d}",
            "recording_id": recording.recording_id,
            "speaker": recording.speaker,
            "split": self.plan.split,
            "shard": self.plan.shard,
            "key": f"{self.plan.shard}-{len(self.rows):06d}",
            "size_bytes": len(flac),
            "sample_rate": rate,
            "num_samples": num_samples,
            "start_sample": start,
            "sha256": hashlib.sha256(flac).hexdigest(),
            "source": recording.source,
            "language": recording.language,
            "snr_db": recording.snr_db,
            "gender": recording.gender,
        }


class _Transcript:
    """Assigns the recording's text to an utterance of it.

    An utterance that holds all speech of its recording has the text as its own. Where a recording was cut into
    several, it is unknown which words are where: no utterance claims them, and the first carries them as
    ``recording_text`` of its ``extra``, so that they are not lost.
    """

    def __init__(self, recording: Recording, is_one_utterance: bool) -> None:
        self._recording, self._is_one = recording, is_one_utterance
        self._told = False

    def columns(self) -> Row:
        """``text`` and ``extra`` of the next utterance that is stored."""
        text, extra = self._recording.text, self._recording.extra
        first, self._told = not self._told, True
        if text is None or self._is_one:
            return {"text": text, "extra": extra}
        values = json.loads(extra or "{}") | ({"recording_text": text} if first else {})
        return {"text": None, "extra": extra_json(values)}


def _is_one_utterance(regions: list[Region], max_samples: int) -> bool:
    return len(regions) == 1 and regions[0][1] - regions[0][0] <= max_samples


class _Outcome(NamedTuple):
    """The outcome of a span: the ledger's status, its detail, and a note."""

    status: str
    detail: str = ""
    note: str = ""


def _head(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(HEAD_BYTES)


def _row(recording: Recording, outcome: _Outcome, start: int, num_samples: int, rate: int) -> Row:
    return {"recording_id": recording.recording_id, "source": recording.source, "speaker": recording.speaker,
            "status": outcome.status, "detail": outcome.detail, "start_sample": start, "num_samples": num_samples,
            "sample_rate": rate, "promised_samples": None, "note": outcome.note}  # fmt: skip


def _whole(recording: Recording, path: Path | None, config: IngestConfig, status: str, detail: str) -> Row:
    """The ledger row of a recording that is not cut: its length is what of it decodes."""
    decoded = Decodable() if path is None else decodable(path)
    if not decoded.rate:
        return _row(recording, _Outcome(status, detail), 0, 0, 0)
    start = round((recording.start_s or 0.0) * decoded.rate)
    stop = (
        decoded.num_frames
        if recording.end_s is None
        else min(decoded.num_frames, round(recording.end_s * decoded.rate))
    )
    rate = min(decoded.rate, config.max_sample_rate)
    row = _row(recording, _Outcome(status, detail), 0, resampled_length(max(0, stop - start), decoded.rate, rate), rate)
    if Reading.of(recording).is_whole and decoded.promised is not None:
        row["promised_samples"] = resampled_length(decoded.promised, decoded.rate, rate)
    return row
