"""``restore``: audio back from an archive, utterance by utterance or whole recordings, exactly as long as it was."""

from __future__ import annotations

import io
import json
from collections.abc import Iterable
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from syllabary.shards import outputs, store
from syllabary.shards.archive.reader import ArchiveReader
from syllabary.shards.errors import ConflictError, InputError
from syllabary.shards.store import Folder
from syllabary.workers.archive.clips import Manifest, Restorer, ShardRestorer
from syllabary.workers.archive.selection import Selected, joins, select, selection
from syllabary.workers.cluster.actors import error_of, through_actors
from syllabary.workers.cluster.session import ray_session
from syllabary.workers.control.jobs import RestoreJob
from syllabary.workers.control.log import say
from syllabary.workers.control.progress import Progress
from syllabary.workers.tokenizer.directory import Digests, TokenizerFiles, load_tokenizer
from syllabary.workers.tokenizer.tokenizer import Tokenizer


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
    files = _matching_tokenizer(job, reader)
    selected = select(job, reader, condition)
    require_distinct_names(job.out, selected.recordings)
    _claim(job, files.digests, selected)
    num_workers = min(job.num_workers, len(selected.shards))
    if num_workers == 1 or (joins(job) and selected.is_divided):
        progress = Progress("restore", selected.num_utterances, "utterances")
        restorer = Restorer.open(job, reader, Tokenizer(files))
        manifest = restorer.restore(selected.places, selected.recordings, progress.add)
        progress.finish()
    else:
        manifest = _restore_by_actors(job, reader, selected, num_workers)
    summary = _publish_manifest(job, manifest)
    say("restore", f"read {reader.bytes_read:,} bytes in {reader.num_row_groups_read:,} row groups")
    outputs.mark_done(job.out, summary)
    return {**summary, "bytes_read": reader.bytes_read}


def _restore_by_actors(job: RestoreJob, reader: ArchiveReader, selected: Selected, num_workers: int) -> Manifest:
    """Shard by shard over Ray; what the actors read is counted as the reader's."""
    progress = Progress("restore", selected.num_utterances, "utterances")
    rows = [
        {"shard": shard, "places": json.dumps(selected.places[shard], default=list), "recordings": json.dumps(own)}
        for shard, own in selected.shards.items()
    ]
    manifest: Manifest = []
    with ray_session(num_cpus=num_workers):
        for found in through_actors(ShardRestorer, (job.model_dump_json(),), rows, num_workers):
            if found["error"]:
                raise error_of(found)
            reader.bytes_read += found["bytes_read"]
            reader.num_row_groups_read += found["num_row_groups_read"]
            manifest += json.loads(found["manifest"])
            progress.add(selected.shards[found["shard"]].total(), found["shard"])
    progress.finish()
    return manifest


def require_distinct_names(out: str, recordings: Iterable[str]) -> None:
    """Refuse recordings whose files would be one where the file system of ``out`` does not tell their names apart.

    Raises:
        InputError: names both.
    """
    first: dict[str, str] = {}
    pairs = ((first.setdefault(store.folded(name), name), name) for name in sorted(recordings))
    twins = next(((one, other) for one, other in pairs if one != other), None)
    if twins and store.folds_names(out, *twins):
        raise InputError(
            "two recordings would be one file here, as the file system takes their names for the same",
            value=" and ".join(twins), fix="restore them one by one (--where), or where names are told apart",
        )  # fmt: skip


def _matching_tokenizer(job: RestoreJob, reader: ArchiveReader) -> TokenizerFiles:
    files = load_tokenizer(job.tokenizer)
    if files.digests.encoder != reader.format.encoder_digest:
        raise ConflictError(
            f"the tokenizer {job.tokenizer} cannot restore {job.archive}, encoder digest",
            value=files.digests.encoder[:16],
            expected=reader.format.encoder_digest[:16],
            fix="use a tokenizer trained with that encoder",
        )
    return files


def _claim(job: RestoreJob, digests: Digests, selected: Selected) -> None:
    inputs = {
        "encoder_digest": digests.encoder,
        "decoder_digest": digests.decoder,
        "selection_digest": selected.digest,
    }
    config = {"join": joins(job), "start_s": job.start_s, "end_s": job.end_s, "audio_format": job.audio_format}
    outputs.claim(job.out, "restored", inputs=inputs, config=config)


def _publish_manifest(job: RestoreJob, manifest: Manifest) -> dict[str, Any]:
    """Publish where each utterance is (``file`` is null where there are no samples); returns the totals."""
    rows = sorted(manifest, key=lambda row: row["utterance_id"])
    Folder(job.out).publish("manifest.parquet", _parquet(pa.Table.from_pylist(rows)))
    duration_s = sum(row["num_samples"] / row["sample_rate"] for row in rows)
    num_files = len({row["file"] for row in rows} - {None})
    return {"num_utterances": len(rows), "num_files": num_files, "duration_s": round(duration_s, 3)}


def _parquet(table: pa.Table) -> bytes:
    sink = io.BytesIO()
    pq.write_table(table, sink, compression="zstd", write_page_checksum=True)
    return sink.getvalue()
