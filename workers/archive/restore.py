"""``restore``: audio back from an archive, utterance by utterance or whole recordings, exactly as long as it was.

What the job selects is found in rows without tokens, before anything is decoded: which utterances, in which shards, and
their digest. ``clips.py`` makes the sound.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from syllabary.shards import outputs, store
from syllabary.shards.archive.reader import ArchiveReader, Place
from syllabary.shards.archive.where import Condition, parse_where
from syllabary.shards.errors import ConflictError, InputError, NotFoundError
from syllabary.shards.store import Folder
from syllabary.workers.archive.clips import Manifest, Restorer, ShardRestorer
from syllabary.workers.cluster.actors import error_of, through_actors
from syllabary.workers.cluster.session import ray_session
from syllabary.workers.control.jobs import RestoreJob
from syllabary.workers.control.log import Progress, say
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
    if num_workers == 1 or (job.joins_recordings and selected.is_divided):
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
        for result in through_actors(ShardRestorer, (job.model_dump_json(),), rows, num_workers):
            if result["error"]:
                raise error_of(result)
            reader.bytes_read += result["bytes_read"]
            reader.num_row_groups_read += result["num_row_groups_read"]
            manifest += json.loads(result["manifest"])
            progress.add(selected.shards[result["shard"]].total(), result["shard"])
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
    times = {"start_s": job.start_s, "end_s": job.end_s}
    config = {"join": job.joins_recordings, **times, "audio_format": job.audio_format}
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


def selection(job: RestoreJob, schema: pa.Schema) -> Condition | None:
    """The condition that a job's ``where``, ``ids``, ``recording`` and time range make together; None selects all."""
    if job.recording is None and (job.start_s is not None or job.end_s is not None):
        raise InputError("a time range without a recording", fix="name the recording_id that it belongs to")
    if job.start_s is not None and job.end_s is not None and job.start_s >= job.end_s:
        what, fix = "a time range that ends before it begins", "give a later end"
        raise InputError(what, value=f"{job.start_s} to {job.end_s} s", fix=fix)
    asked = parse_where(job.where, schema) if job.where is not None else None
    texts = []
    if job.ids:
        texts.append(f"utterance_id in ({', '.join(_quoted(i) for i in job.ids)})")
    if job.recording is not None:
        texts.append(f"recording_id = {_quoted(job.recording)}")
    if job.start_s is not None:
        texts.append(f"end_s > {float(job.start_s)!r}")
    if job.end_s is not None:
        texts.append(f"start_s < {float(job.end_s)!r}")
    if not texts:
        return asked
    own = parse_where(" and ".join(texts), schema)
    return own if asked is None else asked & own


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


@dataclass(frozen=True)
class Selected:
    """What is to be restored.

    Attributes:
        shards: of each shard that holds any, how many selected utterances each recording has in it.
        places: of each of these shards, where the selected rows are.
        digest: of the ids and checksums of the utterances.
    """

    shards: dict[str, Counter[str]]
    places: dict[str, list[Place]]
    digest: str

    @property
    def recordings(self) -> Counter[str]:
        """How many utterances of each recording are selected."""
        return sum(self.shards.values(), Counter())

    @property
    def num_utterances(self) -> int:
        """How many utterances are selected in all."""
        return sum(own.total() for own in self.shards.values())

    @property
    def is_divided(self) -> bool:
        """Whether some recording lies in more than one shard."""
        return sum(map(len, self.shards.values())) > len(self.recordings)


def select(job: RestoreJob, reader: ArchiveReader, condition: Condition | None) -> Selected:
    """Look the selection over without reading tokens; ``limit`` takes the first in archive order.

    Raises:
        NotFoundError: nothing is selected, or an id does not exist.
    """
    shards: dict[str, Counter[str]] = {}
    places: dict[str, list[Place]] = {}
    missing, digest = set(job.ids), hashlib.sha256()
    left = job.limit
    for shard in reader.shards:
        for (group, rows), table in reader.find(shard, condition, ["utterance_id", "recording_id", "crc32c"]):
            kept = table.slice(0, left)
            ids = kept["utterance_id"].to_pylist()
            missing.difference_update(ids)
            shards.setdefault(shard, Counter()).update(kept["recording_id"].to_pylist())
            places.setdefault(shard, []).append((group, rows[:left]))
            digest.update(outputs.canonical_json([ids, kept["crc32c"].to_pylist()]))
            left = None if left is None else left - len(kept)
            if left == 0:
                return Selected(shards, places, digest.hexdigest())
    if missing:
        raise NotFoundError(f"{len(missing)} of {len(job.ids)} ids are not in the selection", value=min(missing))
    if not shards:
        what = job.where or job.recording or "everything"
        raise NotFoundError("no utterance is selected", value=what, fix=f"see what {job.archive} holds")
    return Selected(shards, places, digest.hexdigest())
