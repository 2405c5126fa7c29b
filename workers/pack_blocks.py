"""``pack``: an archive becomes training blocks (or Megatron files), shuffled by document, split by speaker.

The order is that of a hash of seed and document id. Documents are first dealt into buckets by that hash, on disk, then
each bucket is sorted and written: memory is that of one bucket, whatever the size of the archive. A part's presence is
its commit; a rerun goes on where a killed one stopped.
"""

from __future__ import annotations

import io
import shutil
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from shards import outputs, store, token_archive
from shards.archive_reader import ArchiveReader
from shards.errors import InputError, explain
from shards.lm_packing import LmVocabulary, block_table, cut_blocks, shuffle_key, speaker_split
from shards.megatron import write_megatron
from workers.job_main import Progress, run_job, say
from workers.jobs import PackJob

SPLITS = ("train", "valid", "test")
_KEY_RANGE = 1 << 63
_SPILL = pa.schema(
    [("key", pa.int64()), ("document_id", pa.string()), ("start_sample", pa.int64()), ("tokens", pa.list_(pa.uint16()))]
)
_COLUMNS = ["utterance_id", "recording_id", "speaker", "split", "start_sample", "tokens"]
Document = tuple[str, NDArray[np.integer]]
Bucket = tuple[str, int]  # split and number


def pack(job: PackJob) -> dict[str, Any]:
    """Write the blocks of every split; returns the number of documents, tokens and blocks of each.

    Raises:
        InputError: a speaker is in two splits of the archive.
        NotFoundError, FormatError, DamageError: the archive does not read.
        ConflictError: ``out`` holds blocks of another archive or other settings.
    """
    reader = ArchiveReader.open(job.archive)
    entries = store.list_files(store.join(job.archive, token_archive.PARTS), suffix=".parquet")
    _claim(job, reader, entries)
    done = outputs.read_done(job.out)
    if done is not None:
        say("pack", "is done: nothing to do")
        return done
    num_buckets = 1 + int(sum(entry.size_bytes for entry in entries) / (job.bucket_mb * 1e6))
    with tempfile.TemporaryDirectory(prefix="syllabary-pack-") as folder:
        _deal(job, reader, Path(folder), num_buckets)
        write = _write_parquet if job.output_format == "parquet" else _write_megatron
        vocabulary = LmVocabulary(reader.format.packing)
        metadata = _metadata(job, reader, vocabulary)
        summary: dict[str, Any] = {
            split: write(job, Path(folder), split, num_buckets, vocabulary, metadata) for split in SPLITS
        }
    outputs.mark_done(job.out, summary)
    return summary


def _claim(job: PackJob, reader: ArchiveReader, entries: list[store.FileEntry]) -> None:
    parts = outputs.digest([[entry.name, entry.size_bytes] for entry in entries])
    inputs = {"encoder_digest": reader.format.encoder_digest, "parts_digest": parts}
    outputs.claim(job.out, "packed", inputs=inputs, config=job.model_dump(mode="json", exclude={"archive", "out"}))


def _metadata(job: PackJob, reader: ArchiveReader, vocabulary: LmVocabulary) -> dict[str, Any]:
    """What a training run must know, stored with every part and beside the Megatron files."""
    return {
        **reader.format.to_json(),
        "num_groups": reader.format.packing.num_groups,
        "position_sizes": reader.format.packing.position_sizes,
        "block_size": job.block_size,
        "separator": vocabulary.separator,
        "padding": vocabulary.padding,
        "vocabulary_size": vocabulary.size,
        "document": job.document,
    }


def _deal(job: PackJob, reader: ArchiveReader, folder: Path, num_buckets: int) -> None:
    """Deal every utterance into the bucket of its document, keeping splits apart."""
    progress = Progress("pack", len(reader.shards), "parts read")
    splits: dict[str, str] = {}
    held: dict[Bucket, list[pa.Table]] = defaultdict(list)
    held_bytes = 0
    for shard in reader.shards:
        for table in reader.scan(None, _COLUMNS, [shard]):
            for bucket, rows in _dealt(job, table, splits, num_buckets).items():
                held[bucket].append(rows)
            held_bytes += table.nbytes
            if held_bytes > job.bucket_mb * 1e6:
                _spill(held, folder)
                held_bytes = 0
        progress.add(1)
    _spill(held, folder)
    progress.finish()


def _spill(held: dict[Bucket, list[pa.Table]], folder: Path) -> None:
    """Append what is held to the files of its buckets, an Arrow stream each time: no file stays open."""
    for bucket, tables in held.items():
        with (folder / _bucket_name(*bucket)).open("ab") as sink, pa.ipc.new_stream(sink, _SPILL) as writer:
            writer.write_table(pa.concat_tables(tables))
    held.clear()


def _dealt(job: PackJob, table: pa.Table, splits: dict[str, str], num_buckets: int) -> dict[Bucket, pa.Table]:
    documents = table["recording_id" if job.document == "recording" else "utterance_id"].to_pylist()
    keys = [shuffle_key(job.seed, document) for document in documents]
    chosen = [_split(job, speaker, split, splits) for speaker, split in _speakers(table)]
    rows = pa.table(
        {"key": keys, "document_id": documents, "start_sample": table["start_sample"], "tokens": table["tokens"]},
        schema=None,
    ).cast(_SPILL)
    places: dict[Bucket, list[int]] = {}
    for row, (key, split) in enumerate(zip(keys, chosen, strict=True)):
        places.setdefault((split, key * num_buckets // _KEY_RANGE), []).append(row)
    return {place: rows.take(pa.array(own)) for place, own in places.items()}


def _speakers(table: pa.Table) -> list[tuple[str, str | None]]:
    speakers = zip(table["speaker"].to_pylist(), table["recording_id"].to_pylist(), strict=True)
    names = [recording if speaker is None else speaker for speaker, recording in speakers]
    return list(zip(names, table["split"].to_pylist(), strict=True))


def _split(job: PackJob, speaker: str, split: str | None, splits: dict[str, str]) -> str:
    """The split of a speaker; one speaker has one."""
    own = split if job.splits == "archive" else None
    own = own or speaker_split(job.seed, speaker, job.valid_percent, job.test_percent)
    if splits.setdefault(speaker, own) != own:
        raise InputError(
            explain(
                f"a speaker in two splits of the archive, {splits[speaker]} and {own}",
                value=speaker,
                fix='pack with splits="speaker", which splits anew by speaker',
            )
        )
    return own


def _bucket_name(split: str, bucket: int) -> str:
    return f"{split}-{bucket:05}.arrows"


def _documents(folder: Path, split: str, bucket: int) -> Iterator[Document]:
    """The documents of a bucket in shuffled order, each with its utterances in time."""
    path = folder / _bucket_name(split, bucket)
    if not path.exists():
        return
    streams = []
    with pa.OSFile(str(path)) as source:
        while source.tell() < source.size():
            streams.append(pa.ipc.open_stream(source).read_all())
    table = pa.concat_tables(streams).sort_by(
        [("key", "ascending"), ("document_id", "ascending"), ("start_sample", "ascending")]
    )
    name, tokens = "", list[NDArray[np.integer]]()
    for document, own in zip(table["document_id"].to_pylist(), token_archive.list_values(table["tokens"]), strict=True):
        if tokens and document != name:
            yield name, np.concatenate(tokens)
            tokens = []
        name = document
        tokens.append(own)
    if tokens:
        yield name, np.concatenate(tokens)


def _write_parquet(
    job: PackJob, folder: Path, split: str, num_buckets: int, vocabulary: LmVocabulary, metadata: dict[str, Any]
) -> dict[str, int]:
    totals = {"num_documents": 0, "num_tokens": 0, "num_blocks": 0}
    for bucket in range(num_buckets):
        uri = store.join(job.out, split, f"part-{bucket:05}.parquet")
        documents = list(_documents(folder, split, bucket))
        blocks = list(cut_blocks(documents, vocabulary, job.block_size))
        totals["num_documents"] += len(documents)
        totals["num_tokens"] += sum(len(tokens) for _, tokens in documents)
        totals["num_blocks"] += len(blocks)
        if blocks and not store.exists(uri):
            order = np.random.default_rng([job.seed, bucket, SPLITS.index(split)]).permutation(len(blocks))
            table = block_table(
                [blocks[i] for i in order], vocabulary, job.block_size, outputs.canonical_json(metadata)
            )
            store.publish_bytes(uri, _parquet(table))
    say("pack", f"{split}: {totals['num_documents']:,} documents in {totals['num_blocks']:,} blocks")
    return totals


def _parquet(table: pa.Table) -> bytes:
    sink = io.BytesIO()
    plain = ["document_ids.list.element"]
    pq.write_table(
        table,
        sink,
        compression="zstd",
        use_dictionary=plain,
        column_encoding={"input_ids.list.element": "BYTE_STREAM_SPLIT"},
        write_page_checksum=True,
        row_group_size=1024,
    )
    return sink.getvalue()


def _write_megatron(
    job: PackJob, folder: Path, split: str, num_buckets: int, vocabulary: LmVocabulary, metadata: dict[str, Any]
) -> dict[str, int]:
    totals = {"num_documents": 0, "num_tokens": 0}

    def documents() -> Iterator[NDArray[np.integer]]:
        for bucket in range(num_buckets):
            for _, tokens in _documents(folder, split, bucket):
                totals["num_documents"] += 1
                totals["num_tokens"] += len(tokens)
                yield tokens

    local = folder / split
    write_megatron(local.with_suffix(".bin"), local.with_suffix(".idx"), documents(), vocabulary)
    store.publish_bytes(store.join(job.out, f"{split}.json"), outputs.pretty_json(metadata))
    for suffix in (".bin", ".idx"):  # the index last: it says that the ids are there
        with store.publishing(store.join(job.out, split + suffix)) as target:
            shutil.copyfile(local.with_suffix(suffix), target)
    say("pack", f"{split}: {totals['num_documents']:,} documents, {totals['num_tokens']:,} tokens")
    return totals


if __name__ == "__main__":
    run_job(PackJob, pack)
