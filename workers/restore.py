"""``restore``: audio back from an archive, utterance by utterance or whole recordings, exactly as long as it was."""

from __future__ import annotations

import hashlib
import io
import itertools
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import soundfile
from numpy.typing import NDArray

from shards import audio, outputs, store, token_archive
from shards.archive_reader import ArchiveReader
from shards.errors import ConflictError, DamageError, InputError, NotFoundError, explain
from shards.packing import Packing
from shards.where import Condition, parse_where
from workers.job_main import Progress, run_job, say
from workers.jobs import RestoreJob
from workers.tokenizer import Tokenizer

_COLUMNS = ["utterance_id", "recording_id", "speaker", "start_sample", "num_samples", "sample_rate", "tokens"]


@dataclass(frozen=True)
class Clip:
    """A file to write: its path below the output without extension, and the utterances (rows with tokens [F, G]) in it.

    ``span`` is the first sample and the one after the last of a joined recording, or None for a single utterance.
    """

    name: str
    rows: list[dict[str, Any]]
    span: tuple[int, int] | None = None


def restore(job: RestoreJob) -> dict[str, Any]:
    """Decode the selected utterances to ``job.out``; files that are already there are kept.

    Raises:
        InputError: ``where`` does not parse, or the selection contradicts itself.
        NotFoundError: nothing is selected, or an id does not exist.
        ConflictError: the tokenizer's encoder is not the archive's, or ``out`` holds another selection.
        DamageError: a row group does not pass its checksums.
    """
    reader = ArchiveReader.open(job.archive)
    condition = selection(job, reader.schema)
    tokenizer = _matching_tokenizer(job, reader)
    selected = _select(job, reader, condition)
    _claim(job, tokenizer, selected)
    rows = itertools.islice(_rows(reader, condition), selected.num_utterances)
    clips = _recordings(job, rows, selected) if _joins(job) else (Clip(row["utterance_id"], [row]) for row in rows)
    summary = _write_clips(job, tokenizer, reader.format.packing, clips, selected.num_utterances)
    say("restore", f"read {reader.bytes_read:,} bytes in {reader.num_row_groups_read:,} row groups")
    outputs.mark_done(job.out, summary)
    return {**summary, "bytes_read": reader.bytes_read}


def selection(job: RestoreJob, schema: pa.Schema) -> Condition | None:
    """The condition that a job's ``where``, ``ids``, ``recording`` and time range make together; None selects all."""
    if job.recording is None and (job.start_s is not None or job.end_s is not None):
        raise InputError(explain("a time range without a recording", fix="name the recording_id that it belongs to"))
    texts = [f"({job.where})"] if job.where is not None else []
    if job.where is not None:
        parse_where(job.where, schema)  # so that an error shows the user's own text
    if job.ids:
        texts.append(f"utterance_id in ({', '.join(_quoted(i) for i in job.ids)})")
    if job.recording is not None:
        texts.append(f"recording_id = {_quoted(job.recording)}")
    if job.start_s is not None:
        texts.append(f"end_s > {float(job.start_s)!r}")
    if job.end_s is not None:
        texts.append(f"start_s < {float(job.end_s)!r}")
    return parse_where(" and ".join(texts), schema) if texts else None


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _matching_tokenizer(job: RestoreJob, reader: ArchiveReader) -> Tokenizer:
    tokenizer = Tokenizer.load(job.tokenizer)
    if tokenizer.encoder_digest != reader.format.encoder_digest:
        raise ConflictError(
            explain(
                f"the tokenizer {job.tokenizer} cannot restore {job.archive}, encoder digest",
                value=tokenizer.encoder_digest[:16],
                expected=reader.format.encoder_digest[:16],
                fix="use a tokenizer trained with that encoder",
            )
        )
    return tokenizer


@dataclass(frozen=True)
class Selected:
    """What is to be restored: how many utterances of each recording, and a digest of their ids and checksums."""

    recordings: Counter[str]
    digest: str

    @property
    def num_utterances(self) -> int:
        """Over all recordings."""
        return self.recordings.total()


def _select(job: RestoreJob, reader: ArchiveReader, condition: Condition | None) -> Selected:
    """Look the selection over without reading tokens."""
    recordings: Counter[str] = Counter()
    missing = set(job.ids)
    digest = hashlib.sha256()
    for table in reader.scan(condition, ["utterance_id", "recording_id", "crc32c"]):
        kept = table if job.limit is None else table.slice(0, job.limit - recordings.total())
        ids = kept["utterance_id"].to_pylist()
        missing.difference_update(ids)
        recordings.update(kept["recording_id"].to_pylist())
        digest.update(outputs.canonical_json([ids, kept["crc32c"].to_pylist()]))
        if recordings.total() == job.limit:
            break
    if missing and job.limit is None:
        raise NotFoundError(
            explain(f"{len(missing)} of {len(job.ids)} ids are not in the selection", value=min(missing))
        )
    if not recordings:
        what = job.where or job.recording or "everything"
        raise NotFoundError(explain("no utterance is selected", value=what, fix=f"see what {job.archive} holds"))
    return Selected(recordings, digest.hexdigest())


def _claim(job: RestoreJob, tokenizer: Tokenizer, selected: Selected) -> None:
    inputs = {
        "encoder_digest": tokenizer.encoder_digest,
        "decoder_digest": tokenizer.decoder_digest,
        "selection_digest": selected.digest,
    }
    config = {"join": _joins(job), "start_s": job.start_s, "end_s": job.end_s, "audio_format": job.audio_format}
    outputs.claim(job.out, "restored", inputs=inputs, config=config)


def _joins(job: RestoreJob) -> bool:
    return job.join or job.recording is not None


def _recordings(job: RestoreJob, rows: Iterable[dict[str, Any]], selected: Selected) -> Iterator[Clip]:
    """Whole recordings, each as soon as its last selected utterance has been read: only open ones are in memory."""
    missing = selected.recordings.copy()
    open_rows: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        recording = row["recording_id"]
        open_rows[recording].append(row)
        missing[recording] -= 1
        if not missing[recording]:
            yield _joined(job, recording, open_rows.pop(recording))


def _joined(job: RestoreJob, recording: str, rows: list[dict[str, Any]]) -> Clip:
    rows.sort(key=lambda row: row["start_sample"])
    rates = {row["sample_rate"] for row in rows}
    if len(rates) > 1:
        raise InputError(explain(f"recording {recording} has utterances of several rates", value=sorted(rates)))
    start = 0 if job.start_s is None else round(job.start_s * rows[0]["sample_rate"])
    stop = max(row["start_sample"] + row["num_samples"] for row in rows)
    if job.end_s is not None:
        stop = min(stop, round(job.end_s * rows[0]["sample_rate"]))
    return Clip(recording, rows, (start, stop))


def _rows(reader: ArchiveReader, condition: Condition | None) -> Iterator[dict[str, Any]]:
    groups = reader.format.packing.num_groups
    for table in reader.scan(condition, _COLUMNS):
        tokens = token_archive.row_tokens(table, groups)
        for row, own in zip(table.drop_columns("tokens").to_pylist(), tokens, strict=True):
            yield {**row, "tokens": own}


def _write_clips(
    job: RestoreJob, tokenizer: Tokenizer, packing: Packing, clips: Iterator[Clip], num_utterances: int
) -> dict[str, Any]:
    progress = Progress("restore", num_utterances, "utterances")
    present = {entry.name for entry in store.list_files(store.join(job.out, "audio"))}
    manifest = []
    for clip in clips:
        name = f"{clip.name}.{job.audio_format}"
        if name not in present:
            samples = _samples(clip, tokenizer, packing)
            data = _encoded(samples, clip.rows[0]["sample_rate"], job.audio_format)
            store.publish_bytes(store.join(job.out, "audio", name), data)
        manifest += _manifest_rows(clip, f"audio/{name}")
        progress.add(len(clip.rows))
    progress.finish()
    table = pa.Table.from_pylist(sorted(manifest, key=lambda row: row["utterance_id"]))
    store.publish_bytes(store.join(job.out, "manifest.parquet"), _parquet(table))
    duration_s = sum(row["num_samples"] / row["sample_rate"] for row in manifest)
    num_files = len({row["file"] for row in manifest})
    return {"num_utterances": len(manifest), "num_files": num_files, "duration_s": round(duration_s, 3)}


def _samples(clip: Clip, tokenizer: Tokenizer, packing: Packing) -> NDArray[np.float32]:
    """The waveform float32 of a clip, at its own rate, with exactly as many samples as it had."""
    if clip.span is None:
        return _decoded(clip.rows[0], tokenizer, packing)
    start, stop = clip.span
    joined = np.zeros(stop - start, np.float32)
    for row in clip.rows:
        samples = _decoded(row, tokenizer, packing)
        first, last = max(row["start_sample"], start), min(row["start_sample"] + row["num_samples"], stop)
        joined[first - start : last - start] = samples[first - row["start_sample"] : last - row["start_sample"]]
    return joined


def _decoded(row: dict[str, Any], tokenizer: Tokenizer, packing: Packing) -> NDArray[np.float32]:
    if not row["num_samples"]:
        return np.zeros(0, np.float32)
    tokens = row["tokens"]
    try:
        if packing != tokenizer.packing:
            tokens = tokenizer.packing.pack(packing.unpack(tokens))
        return tokenizer.decode(tokens, row["num_samples"], row["sample_rate"])
    except ValueError as error:
        raise DamageError(
            explain(f"utterance {row['utterance_id']} does not decode ({error})", fix="run `syllabary verify`")
        ) from error


def _encoded(samples: NDArray[np.float32], rate: int, audio_format: str) -> bytes:
    if audio_format == "flac" and len(samples):
        return audio.encode_flac(samples, rate)
    buffer = io.BytesIO()
    soundfile.write(buffer, audio.to_int16(samples), rate, format=audio_format.upper(), subtype="PCM_16")
    return buffer.getvalue()


def _manifest_rows(clip: Clip, file: str) -> list[dict[str, Any]]:
    start = clip.rows[0]["start_sample"] if clip.span is None else clip.span[0]
    names = ("utterance_id", "recording_id", "speaker", "start_sample", "num_samples", "sample_rate")
    return [
        {**{name: row[name] for name in names}, "file": file, "offset_in_file": row["start_sample"] - start}
        for row in clip.rows
    ]


def _parquet(table: pa.Table) -> bytes:
    import pyarrow.parquet as pq

    sink = io.BytesIO()
    pq.write_table(table, sink, compression="zstd", write_page_checksum=True)
    return sink.getvalue()


if __name__ == "__main__":
    run_job(RestoreJob, restore)
