"""``pack``: an archive becomes training blocks (or Megatron files), shuffled by document, split by speaker.

The order is that of a hash of seed and document id. Documents are first dealt into buckets by that hash, on disk, then
each bucket is sorted and written, some blocks at a time: memory is that of one bucket, whatever the size of the
archive; the disk (``TMPDIR``) holds its tokens once. A part's presence is its commit; a rerun goes on where a killed
one stopped.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from syllabary.shards import outputs, store
from syllabary.shards.archive import parts as token_archive
from syllabary.shards.archive.reader import ArchiveReader
from syllabary.shards.blocks.dealing import BUCKET, Dealer
from syllabary.shards.blocks.documents import (
    KEY_RANGE,
    METADATA_KEY,
    LmVocabulary,
    Tape,
    block_table,
    shuffle_key,
    speaker_split,
)
from syllabary.shards.blocks.megatron import write_index, write_sequences
from syllabary.shards.errors import InputError
from syllabary.workers.control.jobs import PackJob
from syllabary.workers.control.run_verb import Progress, say

SPLITS = ("train", "valid", "test")
_PAIR = ["speaker", "split"]


class SplitChooser:
    """Chooses the split of every row, and remembers on disk, below ``folder``, which speakers it saw in which.

    Args:
        num_buckets: the speakers are looked through in so many heaps.
        held_bytes: of speakers in memory.
    """

    def __init__(self, job: PackJob, folder: Path, num_buckets: int, held_bytes: float) -> None:
        self._job, self._num_buckets = job, num_buckets
        self._seen = Dealer(folder, num_buckets, held_bytes)

    def splits(self, table: pa.Table) -> list[str]:
        """The split of each row of a table with ``speaker``, ``recording_id`` and ``split``."""
        columns = (table[name].to_pylist() for name in ("speaker", "recording_id", "split"))
        pairs = [
            (recording if speaker is None else speaker, own) for speaker, recording, own in zip(*columns, strict=True)
        ]
        chosen = {pair: self._split(*pair) for pair in set(pairs)}
        if self._job.splits == "archive":
            self._remember(sorted({(speaker, split) for (speaker, _), split in chosen.items()}))
        return [chosen[pair] for pair in pairs]

    def require_disjoint(self) -> None:
        """Refuse an archive with a speaker in two splits. Raises InputError."""
        for _, seen in self._seen.buckets():
            pairs = seen.group_by(_PAIR).aggregate([]).group_by("speaker").aggregate([("split", "list")])
            for name, splits in sorted(zip(pairs["speaker"].to_pylist(), pairs["split_list"].to_pylist(), strict=True)):
                if len(splits) > 1:
                    what = f"a speaker in two splits of the archive, {' and '.join(sorted(splits)[:2])}"
                    fix = "pack with --splits speaker, which splits anew by speaker"
                    raise InputError(what, value=name, fix=fix)

    def _split(self, speaker: str, split: str | None) -> str:
        own = split if self._job.splits == "archive" else None
        return own or speaker_split(self._job.seed, speaker, self._job.valid_percent, self._job.test_percent)

    def _remember(self, pairs: list[tuple[str, str]]) -> None:
        speakers, splits = zip(*pairs, strict=True)
        numbers = [shuffle_key(0, speaker) * self._num_buckets // KEY_RANGE for speaker in speakers]
        self._seen.add(pa.table({BUCKET: pa.array(numbers, pa.int32()), "speaker": speakers, "split": splits}))


_SPILL = pa.schema(
    [
        (BUCKET, pa.int32()),
        ("key", pa.int64()),
        ("document_id", pa.string()),
        ("start_sample", pa.int64()),
        ("tokens", pa.list_(pa.uint16())),
    ]
)
_COLUMNS = ["utterance_id", "recording_id", "speaker", "split", "start_sample", "tokens"]
_ROW_GROUP_SIZE = 1024
Dealers = dict[str, Dealer]  # by split


def pack(job: PackJob) -> dict[str, Any]:
    """Write the blocks of every split; returns the number of documents, tokens and blocks of each.

    Raises:
        InputError: a speaker is in two splits of the archive.
        NotFoundError, FormatError, DamageError: the archive does not read.
        ConflictError: ``out`` holds blocks of another archive or other settings.
        StorageError: storage refuses, or there is no space left to sort in.
    """
    reader = ArchiveReader.open(job.archive)
    sizes = _part_sizes(job, reader)
    _claim(job, reader, sizes)
    done = outputs.read_done(job.out)
    if done is not None:
        say("pack", "is done: nothing to do")
        return done
    num_buckets = 1 + int(sum(sizes.values()) / (job.bucket_mb * 1e6))
    with tempfile.TemporaryDirectory(prefix="syllabary-pack-") as folder:
        dealers = _deal(job, reader, Path(folder), num_buckets)
        write = _write_parquet if job.output_format == "parquet" else _write_megatron
        vocabulary = LmVocabulary(reader.format.packing)
        metadata = _metadata(job, reader, vocabulary)
        summary: dict[str, Any] = {
            split: write(job, split, _tapes(dealers[split], vocabulary), vocabulary, metadata) for split in SPLITS
        }
    outputs.mark_done(job.out, summary)
    return summary


def _part_sizes(job: PackJob, reader: ArchiveReader) -> dict[str, int]:
    """Bytes of the parts that the reader knows, by file name; one published since is not among them."""
    known = {f"{shard}.parquet" for shard in reader.shards}
    entries = store.list_files(store.join(job.archive, token_archive.PARTS), suffix=".parquet")
    return {entry.name: entry.size_bytes for entry in entries if entry.name in known}


def _claim(job: PackJob, reader: ArchiveReader, sizes: dict[str, int]) -> None:
    parts = outputs.digest([[name, size] for name, size in sizes.items()])
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


def _deal(job: PackJob, reader: ArchiveReader, folder: Path, num_buckets: int) -> Dealers:
    """Deal every utterance into the bucket of its document, splits apart. Raises InputError: they share a speaker."""
    held_bytes = job.bucket_mb * 1e6 / len(SPLITS)
    dealers = {split: Dealer(folder / split, num_buckets, held_bytes) for split in SPLITS}
    chooser = SplitChooser(job, folder / "speakers", num_buckets, held_bytes)
    progress = Progress("pack", len(reader.shards), "parts read")
    for shard in reader.shards:
        for table in reader.scan(None, _COLUMNS, [shard]):
            splits = pa.array(chooser.splits(table))
            rows = _keyed(job, table, num_buckets)
            for split in pc.unique(splits).to_pylist():
                dealers[split].add(rows.filter(pc.equal(splits, split)))
        progress.add(1)
    chooser.require_disjoint()
    progress.finish()
    return dealers


def _keyed(job: PackJob, table: pa.Table, num_buckets: int) -> pa.Table:
    """The rows with their document, its place in the shuffled order and the bucket of that place."""
    documents = table["recording_id" if job.document == "recording" else "utterance_id"].to_pylist()
    known = {document: shuffle_key(job.seed, document) for document in set(documents)}
    keys = [known[document] for document in documents]
    columns = {
        BUCKET: [key * num_buckets // KEY_RANGE for key in keys],
        "key": keys,
        "document_id": documents,
        "start_sample": table["start_sample"],
        "tokens": table["tokens"],
    }
    return pa.table(columns).cast(_SPILL)


def _tapes(dealer: Dealer, vocabulary: LmVocabulary) -> Iterator[tuple[int, Tape]]:
    """Number and documents of every bucket that has any, in shuffled order, each with its utterances in time."""
    for bucket, rows in dealer.buckets():
        tape = _tape(rows, vocabulary)
        del rows  # not beside the blocks
        yield bucket, tape


def _tape(rows: pa.Table, vocabulary: LmVocabulary) -> Tape:
    order = [("key", "ascending"), ("document_id", "ascending"), ("start_sample", "ascending")]
    rows = rows.sort_by(order)
    names, tokens = (rows[name].combine_chunks() for name in ("document_id", "tokens"))
    is_next = pc.not_equal(names.slice(1), names.slice(0, len(names) - 1)).to_numpy(zero_copy_only=False)
    firsts = np.flatnonzero(np.concatenate([[True], is_next]))
    lengths = np.diff(tokens.offsets.to_numpy().astype(np.int64)[[*firsts, len(names)]])
    return Tape.of(names.take(pa.array(firsts)), lengths, tokens.flatten().to_numpy(), vocabulary)


def _write_parquet(
    job: PackJob, split: str, tapes: Iterator[tuple[int, Tape]], vocabulary: LmVocabulary, metadata: dict[str, Any]
) -> dict[str, int]:
    totals = {"num_documents": 0, "num_tokens": 0, "num_blocks": 0}
    empty = block_table([], vocabulary, job.block_size, outputs.canonical_json(metadata))
    for bucket, tape in tapes:
        num_blocks = tape.num_blocks(job.block_size)
        totals["num_documents"] += len(tape.starts)
        totals["num_tokens"] += len(tape.ids) - len(tape.starts)
        totals["num_blocks"] += num_blocks
        uri = store.join(job.out, split, f"part-{bucket:05}.parquet")
        if not store.exists(uri):
            order = np.random.default_rng([job.seed, bucket, SPLITS.index(split)]).permutation(num_blocks)
            with store.publishing(uri) as path:
                _write_part(path, tape, order, job.block_size, empty.schema)
    say("pack", f"{split}: {totals['num_documents']:,} documents in {totals['num_blocks']:,} blocks")
    return totals


def _write_part(path: Path, tape: Tape, order: NDArray[np.int64], block_size: int, schema: pa.Schema) -> None:
    """The blocks of a tape in that order, a row group in memory at a time."""
    with pq.ParquetWriter(
        path,
        schema,
        compression="zstd",
        use_dictionary=["document_ids.list.element"],
        column_encoding={"input_ids.list.element": "BYTE_STREAM_SPLIT"},
        write_page_checksum=True,
    ) as writer:
        for first in range(0, len(order), _ROW_GROUP_SIZE):
            blocks = [tape.block(int(number), block_size) for number in order[first : first + _ROW_GROUP_SIZE]]
            table = block_table(blocks, tape.vocabulary, block_size, schema.metadata[METADATA_KEY])
            writer.write_table(table, row_group_size=_ROW_GROUP_SIZE)


def _write_megatron(
    job: PackJob, split: str, tapes: Iterator[tuple[int, Tape]], vocabulary: LmVocabulary, metadata: dict[str, Any]
) -> dict[str, int]:
    totals = {"num_documents": 0, "num_tokens": 0}

    def counted() -> Iterator[Tape]:
        for _, tape in tapes:
            totals["num_documents"] += len(tape.starts)
            totals["num_tokens"] += len(tape.ids) - len(tape.starts)
            yield tape

    store.publish_bytes(store.join(job.out, f"{split}.json"), outputs.pretty_json(metadata))
    with tempfile.TemporaryFile() as lengths:
        with store.publishing(store.join(job.out, f"{split}.bin")) as path:
            write_sequences(path, lengths, counted())
        with store.publishing(store.join(job.out, f"{split}.idx")) as path:  # last: it says that the ids are there
            write_index(path, lengths, vocabulary)
    say("pack", f"{split}: {totals['num_documents']:,} documents, {totals['num_tokens']:,} tokens")
    return totals
