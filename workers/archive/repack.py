"""``repack``: another group size, digit order or encoding for the same digits, without running the tokenizer again."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from syllabary.model.measures.usage import entropy_bits
from syllabary.shards import store
from syllabary.shards.archive import parts as token_archive
from syllabary.shards.archive.encoding import encode_part
from syllabary.shards.archive.ledger import (
    intact_ledger,
    part_sizes,
    publish_part,
    read_archive_digest,
    read_ledger,
    sha256,
    shards_in,
)
from syllabary.shards.archive.packing import Packing
from syllabary.shards.archive.parts import ArchiveFormat, PartMetadata, open_part, part_name
from syllabary.shards.archive.reader import ArchiveReader
from syllabary.shards.errors import ConflictError, DamageError, InputError, NotFoundError
from syllabary.shards.outputs import mark_done, read_done
from syllabary.workers.archive.describe import carry_description
from syllabary.workers.control.jobs import RepackJob
from syllabary.workers.control.log import Progress, say

_SAMPLE_FRAMES = 20_000


def repack(job: RepackJob) -> dict[str, Any]:
    """Print what each group size costs; with ``out``, write the archive under the wanted packing.

    Raises:
        InputError: a group size whose tokens do not fit into uint16.
        DamageError: a part is damaged; nothing is copied from it.
        ConflictError: ``out`` holds another archive.
    """
    reader = ArchiveReader.open(job.archive)
    form = _wanted(job, reader.format)
    present = _claim(reader, form, job.out) if job.out is not None else set()
    digits = _sample(reader)
    choices = [choice_figures(option, digits, reader.format) for option in _choices(reader.format.packing)]
    for choice in choices:
        say("repack", _line(choice))
    say("repack", f"entropy of a token over {len(digits):,} frames: too low where they are few beside the vocabulary")
    if job.out is not None:
        _write(job, reader, form, job.out, present)
    own = {"group_size": form.packing.group_size, "digit_order": form.packing.digit_order, "encoding": form.encoding}
    return {"choices": choices, **own}


def choice_figures(packing: Packing, digits: NDArray[np.uint8], form: ArchiveFormat) -> dict[str, float]:
    """What a packing costs: tokens per second, vocabulary, the share of token bits that carry nothing, and the entropy.

    ``entropy_bits`` is the mean over positions of the empirical entropy of a token in ``digits`` [F, D]; with few
    frames and a large vocabulary it is an underestimate.
    """
    tokens = packing.pack(digits)
    frames_per_s = form.model_sample_rate / form.hop_length
    token_bits = np.log2(packing.vocabulary)
    used = packing.num_dims * np.log2(packing.levels)
    return {
        "group_size": packing.group_size,
        "tokens_per_s": packing.num_groups * frames_per_s,
        "vocabulary": packing.vocabulary,
        "waste_percent": round(100 * (1 - used / (packing.num_groups * token_bits)), 2),
        "entropy_bits": round(float(np.mean([_entropy_bits(column) for column in tokens.T])), 3),
    }


def _entropy_bits(column: NDArray[np.uint16]) -> float:
    return float(entropy_bits(torch.from_numpy(np.bincount(column, minlength=1))))


def _wanted(job: RepackJob, form: ArchiveFormat) -> ArchiveFormat:
    try:
        packing = replace(form.packing, group_size=job.group_size, digit_order=job.digit_order)
        return replace(form, packing=packing, encoding=job.encoding)
    except ValueError as error:
        raise InputError(str(error)) from error


def _choices(packing: Packing) -> Iterator[Packing]:
    for group_size in range(1, 17):
        if packing.levels**group_size <= 1 << 16 and group_size <= packing.num_dims:
            yield replace(packing, group_size=group_size)


def _sample(reader: ArchiveReader) -> NDArray[np.uint8]:
    """Digits of the first frames of the archive, [F, D]."""
    digits, num_frames = [], 0
    for table in reader.scan(None, ["tokens"]):
        for tokens in token_archive.row_tokens(table, reader.format.packing.num_groups):
            digits.append(reader.format.packing.unpack(tokens))
            num_frames += len(tokens)
        if num_frames >= _SAMPLE_FRAMES:
            break
    return np.concatenate(digits) if digits else np.empty((0, reader.format.packing.num_dims), np.uint8)


def _line(choice: dict[str, float]) -> str:
    return (
        f"group size {choice['group_size']:>2}: {choice['tokens_per_s']:>6g} tokens/s, vocabulary "
        f"{choice['vocabulary']:>6,}, waste {choice['waste_percent']:>5.2f} %, entropy {choice['entropy_bits']:.2f} bit"
    )


def _claim(reader: ArchiveReader, form: ArchiveFormat, out: str) -> set[str]:
    """Take ``out``, before any part is read; returns the shards that it has. Raises ConflictError."""
    form.claim(out)
    present = set(shards_in(out))
    _require_same_shards(reader, present, out)
    return present


def _write(job: RepackJob, reader: ArchiveReader, form: ArchiveFormat, out: str, present: set[str]) -> None:
    progress = Progress("repack", len(reader.shards), "parts")
    for shard in reader.shards:
        if shard not in present or intact_ledger(out, shard, form) is None:
            _write_part(reader, shard, form, out)
        progress.add(1)
    progress.finish()
    done = read_done(job.archive)
    if done is not None:
        sizes = {"size_bytes": sum(part_sizes(out).values())}
        done = done | sizes | {"archive_digest": read_archive_digest(out)}
        carry_description("repack", job.archive, out, done)
        mark_done(out, done)


def _require_same_shards(reader: ArchiveReader, present: set[str], out: str) -> None:
    """Refuse an output with parts of another archive: they would be taken for this one's. Raises ConflictError."""
    for shard in sorted(present):
        uri, fix = store.join(out, part_name(shard)), "use another --out"
        if shard not in reader.part_sizes:
            raise ConflictError("a part of no shard", value=uri, expected=f"parts of {reader.uri}", fix=fix)
        with contextlib.suppress(NotFoundError, DamageError):  # which is made again
            if read_ledger(out, shard).shard_digest != read_ledger(reader.uri, shard).shard_digest:
                raise ConflictError("a part of another shard of that name", value=uri, fix=fix)


def _write_part(reader: ArchiveReader, shard: str, form: ArchiveFormat, out: str) -> None:
    ledger = intact_ledger(reader.uri, shard, reader.format)
    if ledger is None:
        raise DamageError("a damaged part is not repacked", value=shard, fix=token_archive.REBUILD)
    file = open_part(store.as_buffer(store.join(reader.uri, part_name(shard))), part_name(shard))
    metadata = replace(PartMetadata.of_file(file, shard), format=form)
    old, packing = reader.format.packing, form.packing
    table = file.read()
    tokens = [packing.pack(old.unpack(row)) for row in token_archive.row_tokens(table, old.num_groups)]
    salience = token_archive.list_values(table["salience"])
    index = table.drop_columns(["tokens", "salience", "crc32c", "num_frames", "packing"])
    part = encode_part(token_archive.part_table(index, tokens, salience, metadata))
    publish_part(out, part, replace(ledger, part_sha256=sha256(part), part_size_bytes=len(part)))
