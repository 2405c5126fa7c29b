"""What a bucket of a pack needs beside itself: little on the way to its blocks, and nothing of the one before it."""

from __future__ import annotations

import io
import tarfile
import tracemalloc
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from syllabary.shards.archive.packing import Packing
from syllabary.shards.blocks import tape as tape_module
from syllabary.shards.blocks.blocks import make_blocks
from syllabary.shards.blocks.layout import cut
from syllabary.shards.blocks.tape import ROWS, Tape, make_tape
from syllabary.shards.blocks.vocabulary import LmVocabulary
from syllabary.shards.blocks.writers.datatrove import write_datatrove
from syllabary.shards.blocks.writers.lhotse_shar import write_lhotse
from syllabary.shards.blocks.writers.megatron import write_megatron
from syllabary.shards.blocks.writers.parquet import write_parquet
from syllabary.shards.blocks.writers.target import Tapes, Target, Totals
from syllabary.shards.blocks.writers.tars import npy_bytes, writing_tar
from syllabary.shards.blocks.writers.webdataset import write_webdataset

VOCABULARY = LmVocabulary(Packing(128, 4, 7))
WRITERS = [write_parquet, write_megatron, write_datatrove, write_webdataset, write_lhotse]


def rows_of(num_rows: int, num_frames: int) -> pa.Table:
    """Utterances of random tokens, a document each."""
    rng, num_tokens = np.random.default_rng(0), 19 * num_frames
    tokens = pa.array(rng.integers(0, 16, num_rows * num_tokens).astype(np.uint16))
    names = [f"d{i}" for i in range(num_rows)]
    columns = dict.fromkeys(("copy", "archive", "start_sample"), np.zeros(num_rows, np.int64))
    columns |= dict.fromkeys(("document_id", "utterance_id", "recording_id", "speaker", "text"), names)
    columns |= {
        "key": rng.permutation(num_rows),
        "num_samples": np.full(num_rows, 6_400 * num_frames),
        "sample_rate": np.full(num_rows, 16_000),
        "text_first": pa.nulls(num_rows),
        "tokens": pa.ListArray.from_arrays(np.arange(0, (num_rows + 1) * num_tokens, num_tokens, np.int32), tokens),
    }
    return pa.table({name: columns[name] for name in ROWS.names}).cast(ROWS)


def peak_of(run: Callable[[], object]) -> tuple[int, object]:
    """Most bytes that numpy and Python had at once while ``run`` ran, and what it returned."""
    tracemalloc.start()
    try:
        found = run()
        return tracemalloc.get_traced_memory()[1], found
    finally:
        tracemalloc.stop()


def test_a_tape_is_made_in_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = rows_of(2_000, 25)
    whole = make_tape(rows, VOCABULARY, 0.4)
    monkeypatch.setattr(tape_module, "_TOKENS_AT_ONCE", 1 << 14)
    peak, tape = peak_of(lambda: make_tape(rows, VOCABULARY, 0.4))
    assert isinstance(tape, Tape)
    assert peak < 2 * (tape.ids.nbytes + tape.place.nbytes)
    for name in ("ids", "place", "starts", "firsts", "lengths", "document"):
        assert np.array_equal(getattr(tape, name), getattr(whole, name)), name


def test_a_row_longer_than_a_slice_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = rows_of(7, 3)
    whole = make_tape(rows, VOCABULARY, 0.4)
    for at_once in (1, 57, 58, 100, 10_000):
        monkeypatch.setattr(tape_module, "_TOKENS_AT_ONCE", at_once)
        assert np.array_equal(make_tape(rows, VOCABULARY, 0.4).ids, whole.ids)


def test_blocks_are_made_in_slices() -> None:
    tape = make_tape(rows_of(2_000, 25), VOCABULARY, 0.4)
    blocks, documents = cut(tape, 1_000, "stream"), tape.document_of_id()
    order = np.random.default_rng(0).permutation(blocks.num_blocks)
    peak, made = peak_of(lambda: make_blocks(tape, blocks, order, documents))
    arrays, sources = made  # type: ignore[misc]
    assert peak < 2.5 * sum(values.nbytes for values in arrays.columns().values())
    for first in (0, 131, 500):
        own, own_sources = make_blocks(tape, blocks, order[first : first + 1], documents)
        for name, values in own.columns().items():
            assert np.array_equal(arrays.columns()[name][first], values[0]), name
        here = sources.filter(pa.compute.equal(sources["block"], first)).drop_columns("block")
        assert here.equals(own_sources.drop_columns("block"))


def test_frames_are_cut_without_a_number_for_every_id() -> None:
    tape = make_tape(rows_of(2_000, 25), VOCABULARY, 0.4)
    for layout in ("frames", "whole"):
        peak, _ = peak_of(lambda layout=layout: cut(tape, 300, layout))  # type: ignore[misc]
        assert peak < 4 * len(tape.ids), layout


@pytest.mark.parametrize("write", WRITERS, ids=lambda write: write.__name__)
def test_no_bucket_stands_beside_the_next(tmp_path: Path, write: Callable[[Target, Tapes], Totals]) -> None:
    target = Target(str(tmp_path), "train", 0, 64, "stream", VOCABULARY, {"encoder_digest": "e" * 64})
    left: list[int] = []

    def tapes() -> Iterator[tuple[int, Tape]]:
        for bucket in range(4):
            tape = make_tape(rows_of(5, 2), VOCABULARY, 0.4)
            seen = weakref.ref(tape)
            yield bucket, tape
            del tape
            left.append(bucket) if seen() is not None else None

    assert write(target, tapes())["num_documents"] == 20
    assert not left


def test_a_tar_is_what_tarfile_writes(tmp_path: Path) -> None:
    members = {f"{i}.npy": npy_bytes(np.arange(i * 37)) for i in range(40)} | {"empty": b"", "full": bytes(512)}
    with writing_tar(tmp_path / "ours.tar") as add:
        for name, data in members.items():
            add(name, data)
    with tarfile.open(tmp_path / "theirs.tar", "w", format=tarfile.USTAR_FORMAT) as tar:
        for name, data in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    assert (tmp_path / "ours.tar").read_bytes() == (tmp_path / "theirs.tar").read_bytes()
