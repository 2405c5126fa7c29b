"""Writing one shard: its recordings are read one after the other, cut, filtered, encoded and accounted for.

The bytes of a shard depend on its plan, its recordings and the configuration alone. A recording that turns out damaged
leaves nothing in the shard; memory is bounded by the longest utterance.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from syllabary.shards import store
from syllabary.shards.audio import Samples, encode_flac
from syllabary.shards.dataset import index
from syllabary.shards.dataset.wds import ShardWriter
from syllabary.shards.ingest import filters
from syllabary.shards.ingest.config import IngestConfig
from syllabary.shards.ingest.ledger import Row, fill_gaps, publish_ledger
from syllabary.shards.ingest.planning import ShardPlan
from syllabary.shards.ingest.recordings import Recording, RecordingError, extra_json
from syllabary.shards.ingest.segments import Region, cut_long, limits, speech_regions, tiles
from syllabary.shards.ingest.streams import SampleStream
from syllabary.shards.ingest.vad import detect_speech

VoiceActivity = tuple[tuple[float, float], ...]
_MEMBER = ("utterance_id", "recording_id", "speaker", "split", "sample_rate", "num_samples", "start_sample", "source",
           "language", "snr_db", "text", "gender", "extra")  # fmt: skip
_MAX_SAMPLES_PER_BYTE = 4096  # more than any real file has: a header that promises more is not believed


@dataclass(frozen=True)
class Inputs:
    """How a shard writer gets at its inputs.

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
    with store.publishing(index.shard_uri(shards_uri, plan.shard)) as path, ShardWriter(path) as tar:
        writing = _Writing(plan, config, inputs, tar)
        writing.run()
    publish_ledger(shards_uri, plan.shard, writing.ledger)
    index.publish_index(shards_uri, plan.shard, writing.rows)
    quarantined = [row["detail"] for row in writing.ledger if row["status"] == "quarantined"]
    return {
        "shard": plan.shard,
        "num_utterances": len(writing.rows),
        "num_quarantined": len(quarantined),
        "reason": quarantined[0] if quarantined else "",
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
        mark, num_rows = self.tar.mark(), len(self.rows)
        path = None
        try:
            path = self.inputs.fetch(recording, folder)
            if recording.verdict:
                self.ledger.append(_whole(recording, path, self.config, recording.verdict, recording.detail))
            elif reason := filters.language_reason(recording.language, self.config):
                self.ledger.append(_whole(recording, path, self.config, "filtered", reason))
            else:
                self.ledger.extend(self._cut(recording, path))
        except RecordingError as error:
            self.tar.rollback(mark)
            del self.rows[num_rows:]
            verdict, detail = recording.verdict or "quarantined", recording.detail or str(error)
            self.ledger.append(_whole(recording, path, self.config, verdict, detail))

    def _cut(self, recording: Recording, path: Path) -> list[Row]:
        with SampleStream(
            path, max_rate=self.config.max_sample_rate, start_s=recording.start_s, end_s=recording.end_s
        ) as stream:
            regions = self._regions(recording, path, stream)
            transcript = _Transcript(recording, _is_one_utterance(regions, limits(self.config, stream.rate)[1]))
            spans = []
            for start, samples in self._utterances(stream, regions):
                status, detail = self._store(recording, start, samples, stream.rate, transcript)
                spans.append(_row(recording, status, detail, start, len(samples), stream.rate))
            stream.finish()
            return fill_gaps(spans, stream.num_samples, _row(recording, "silence", "", 0, 0, stream.rate))

    def _regions(self, recording: Recording, path: Path, stream: SampleStream) -> list[Region]:
        """What of the recording becomes utterances: all of it in pieces that fit, or its speech."""
        max_samples = limits(self.config, stream.rate)[1]
        stays_whole = (
            recording.text is not None and self.config.transcribed == "whole" and stream.num_samples <= max_samples
        )
        if self.config.coverage == "all" or stays_whole:
            return tiles(stream.num_samples, max_samples)
        activity = self.inputs.voice_activity(recording)
        if activity is None:
            activity = tuple(
                detect_speech(path, self.config.vad_aggressiveness, start_s=recording.start_s, end_s=recording.end_s)
            )
        return speech_regions(activity, stream.num_samples, stream.rate, self.config.join_gap_s)

    def _utterances(self, stream: SampleStream, regions: list[Region]) -> Iterator[tuple[int, Samples]]:
        min_samples, max_samples = limits(self.config, stream.rate)
        for region in regions:
            yield from cut_long(region, stream, stream.rate, min_samples, max_samples)

    def _store(
        self, recording: Recording, start: int, samples: Samples, rate: int, transcript: _Transcript
    ) -> tuple[str, str]:
        """Put one utterance into the shard, or say why not: its status and detail in the ledger."""
        if self.config.coverage == "speech" and len(samples) < limits(self.config, rate)[0]:
            return "too_short", ""
        if reason := filters.reject(samples, rate, recording.snr_db, self.config):
            return "filtered", reason
        flac = encode_flac(samples, rate)
        row = self._index_row(recording, start, len(samples), rate, flac) | transcript.columns()
        row["offset"] = self.tar.add(row["key"], flac, {key: row[key] for key in _MEMBER})
        self.rows.append(row)
        return "shard", self.plan.shard

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
    """Which utterance of a recording the recording's text belongs to.

    An utterance that holds all speech of its recording has the text as its own. Of a recording that was cut into
    several nobody knows which words are where: no utterance claims them, and the first carries them as
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


def _row(recording: Recording, status: str, detail: str, start: int, num_samples: int, rate: int) -> Row:
    return {"recording_id": recording.recording_id, "source": recording.source, "speaker": recording.speaker,
            "status": status, "detail": detail, "start_sample": start, "num_samples": num_samples,
            "sample_rate": rate}  # fmt: skip


def _whole(recording: Recording, path: Path | None, config: IngestConfig, status: str, detail: str) -> Row:
    """The ledger row of a recording that is not cut: its length is what its header promises, 0 when it has none."""
    num_samples, rate = 0, 0
    if path is not None:
        try:
            with SampleStream(
                path, max_rate=config.max_sample_rate, start_s=recording.start_s, end_s=recording.end_s
            ) as stream:
                num_samples, rate = stream.num_samples, stream.rate
        except RecordingError:
            num_samples, rate = 0, 0
    if num_samples > _MAX_SAMPLES_PER_BYTE * recording.size_bytes:
        num_samples, rate = 0, 0
    return _row(recording, status, detail, 0, num_samples, rate)
