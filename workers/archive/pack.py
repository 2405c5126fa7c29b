"""``pack``: archives become what language models are trained from, shuffled by document, split by speaker.

The order is that of a hash of seed and document id. Documents are first dealt into buckets by that hash, on disk, then
each bucket is sorted and written, some blocks at a time: memory is that of one bucket, whatever the size of the
archives, and is given back before the next; the disk (``TMPDIR``) holds their tokens once. A part's presence is its
commit; a rerun goes on where a killed one stopped.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from syllabary.shards import outputs
from syllabary.shards.archive.parts import ArchiveFormat
from syllabary.shards.blocks.dealing import Dealer
from syllabary.shards.blocks.layout import require_block_size
from syllabary.shards.blocks.tape import make_tape
from syllabary.shards.blocks.text import TextTokenizer
from syllabary.shards.blocks.vocabulary import LmVocabulary
from syllabary.shards.blocks.writers.datatrove import write_datatrove
from syllabary.shards.blocks.writers.lhotse_shar import write_lhotse
from syllabary.shards.blocks.writers.megatron import megatron_flags, write_megatron
from syllabary.shards.blocks.writers.parquet import write_parquet
from syllabary.shards.blocks.writers.target import SPLITS, Tapes, Target, Totals
from syllabary.shards.blocks.writers.webdataset import write_webdataset
from syllabary.shards.errors import InputError, NotFoundError
from syllabary.shards.words import counted
from syllabary.workers.archive.describe_blocks import describe_blocks
from syllabary.workers.archive.pack_sources import COLUMNS, Source, documents, open_sources, require_one_tokenizer
from syllabary.workers.archive.split_chooser import SplitChooser
from syllabary.workers.control.freed_memory import give_back_freed_memory
from syllabary.workers.control.jobs import PackJob
from syllabary.workers.control.log import Progress, say

Dealers = dict[str, Dealer]  # by split
_WRITERS: dict[str, Callable[[Target, Tapes], Totals]] = {
    "parquet": write_parquet,
    "megatron": write_megatron,
    "datatrove": write_datatrove,
    "webdataset": write_webdataset,
    "lhotse": write_lhotse,
}


def pack(job: PackJob) -> dict[str, Any]:
    """Write every split; returns the number of documents, tokens, ids and, where there are any, blocks of each.

    Raises:
        InputError: a speaker is in two splits, archives have two tokenizers, a block is smaller than a frame, an id
            offset collides with the text's ids, or there is no text where some is asked for.
        NotFoundError: there is no archive, or nothing is selected.
        FormatError, DamageError: an archive does not read.
        ConflictError: ``out`` holds blocks of another archive or other settings.
        StorageError: storage refuses, or there is no space left to sort in.
    """
    sources = open_sources(job)
    form = require_one_tokenizer(sources)
    require_block_size(job.block_size, form.packing.num_groups)
    text = TextTokenizer.load(job.text_tokenizer) if job.text_tokenizer is not None else None
    vocabulary = LmVocabulary(form.packing, _id_offset(job, text))
    is_new = _claim(job, sources, text)
    done = outputs.read_done(job.out)
    if done is not None:
        say("pack", "is done: nothing to do")
        return done
    metadata = _metadata(job, form, vocabulary, text)
    num_buckets = 1 + int(sum(source.size_bytes * source.weight for source in sources) / (job.part_mb * 1e6))
    summary: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="syllabary-pack-") as folder:
        try:
            dealers = _deal(job, sources, Path(folder), num_buckets)
        except (InputError, NotFoundError):
            if is_new:
                outputs.release(job.out)  # settings that are refused must not bind the folder to them
            raise
        for split in SPLITS:
            target = Target(job.out, split, job.seed, job.block_size, job.layout, vocabulary, metadata)
            frame_s = form.hop_length / form.model_sample_rate
            summary[split] = _write(job, target, dealers[split], frame_s, text)
    describe_blocks(job, form, metadata, summary)
    outputs.mark_done(job.out, summary)
    return summary


def _id_offset(job: PackJob, text: TextTokenizer | None) -> int:
    """Where the tokens begin: what the job says, or behind the text's ids. Raises InputError: they collide."""
    if (text is None) != (job.interleave == "none"):
        fix = "give both --interleave and --text-tokenizer, or none"
        raise InputError("text and speech need a tokenizer and an order", value=job.interleave, fix=fix)
    least = 0 if text is None else text.size
    if job.id_offset is not None and job.id_offset < least:
        what = f"an id offset that collides with the {least:,} ids of the text"
        raise InputError(what, value=job.id_offset, expected=f"{least} or more", fix="leave it out, or raise it")
    return least if job.id_offset is None else job.id_offset


def _claim(job: PackJob, sources: list[Source], text: TextTokenizer | None) -> bool:
    """Take the output; returns whether it was free until now."""
    archives = [
        {"encoder_digest": own.reader.format.encoder_digest, "parts_digest": own.reader.parts_digest} for own in sources
    ]
    inputs = {"archives": archives} | ({"text_tokenizer": text.digest} if text else {})
    config = job.model_dump(mode="json", exclude={"archive", "out", "text_tokenizer"})
    return outputs.claim(job.out, "packed", inputs=inputs, config=config)


def _metadata(
    job: PackJob, form: ArchiveFormat, vocabulary: LmVocabulary, text: TextTokenizer | None
) -> dict[str, Any]:
    """What a training run must know, stored with every part and as ``blocks.json``."""
    own = {key: value for key, value in form.to_json().items() if key != "encoding"}
    return own | {
        "num_groups": form.packing.num_groups,
        "position_sizes": form.packing.position_sizes,
        "block_size": job.block_size,
        "layout": job.layout,
        "ends": job.ends,
        "interleave": job.interleave,
        "id_offset": vocabulary.id_offset,
        "text_vocabulary_size": text.size if text else 0,
        **vocabulary.ids(),
        "vocabulary_size": vocabulary.size,
        "end_of_document": vocabulary.separator,
        "megatron_flags": megatron_flags(vocabulary),
        "document": job.document,
    }


def _deal(job: PackJob, sources: list[Source], folder: Path, num_buckets: int) -> Dealers:
    """Deal every utterance into the bucket of its document, splits apart.

    Raises:
        InputError: splits share a speaker, or no utterance has the text that is asked for.
        NotFoundError: nothing is selected.
    """
    held_bytes = job.part_mb * 1e6 / len(SPLITS)
    dealers = {split: Dealer(folder / split, num_buckets, held_bytes) for split in SPLITS}
    chooser = SplitChooser(job, folder / "speakers", num_buckets, held_bytes)
    progress = Progress("pack", sum(len(source.reader.shards) for source in sources), "parts read")
    num_rows = num_textless = 0
    for source in sources:
        for shard in source.reader.shards:
            for table in source.reader.scan(source.condition, [*COLUMNS, *source.text_columns], [shard]):
                num_rows += len(table)
                with_text = source.with_text(table, job.interleave)
                num_textless += len(table) - len(with_text)
                for rows, splits in documents(job, source, with_text, chooser, num_buckets):
                    for split in pc.unique(splits).to_pylist():
                        dealers[split].add(rows.filter(pc.equal(splits, split)))
            progress.add(1)
    if not num_rows:
        raise NotFoundError("no utterance is selected", value=job.where or job.archive[0])
    if num_textless == num_rows:
        what, fix = "text and speech of an archive where none has a text", "pack without --interleave"
        raise InputError(what, value=job.archive[0], fix=fix)
    if num_textless:
        say("pack", f"{num_textless:,} of {counted(num_rows, 'utterance')} without text: left out")
    chooser.require_disjoint()
    progress.finish()
    return dealers


def _write(job: PackJob, target: Target, dealer: Dealer, frame_s: float, text: TextTokenizer | None) -> dict[str, int]:
    def tapes() -> Tapes:
        for bucket, rows in dealer.buckets():
            _give_back()
            tape = make_tape(rows, target.vocabulary, frame_s, job.ends, job.mark_gaps_s, text)
            del rows  # not beside the blocks
            _give_back()
            yield bucket, tape
            del tape  # not beside the next rows

    totals = dict(_WRITERS[job.output_format](target, tapes()))
    blocks = f", {counted(totals['num_blocks'], 'block')}" if "num_blocks" in totals else ""
    what = f"{counted(totals['num_documents'], 'document')}, {totals['num_tokens']:,} tokens{blocks}"
    say("pack", f"{target.split}: {what if totals['num_documents'] else 'no documents, so nothing is written of it'}")
    return totals


def _give_back() -> None:
    """Memory then follows from what a bucket needs at once, not from what those before it needed in which order."""
    pa.default_memory_pool().release_unused()
    give_back_freed_memory()
