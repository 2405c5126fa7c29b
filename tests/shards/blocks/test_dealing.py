"""Dealing: every row in its bucket, in the order it came, in memory that more rows and more buckets leave as it is."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from syllabary.shards.blocks.dealing import FAN_OUT, Dealer
from syllabary.shards.errors import StorageError


def tables(num_tables: int, num_rows: int, num_buckets: int) -> Iterator[pa.Table]:
    rng = np.random.default_rng(num_buckets)
    for number in range(num_tables):
        buckets = rng.integers(0, num_buckets, num_rows).astype(np.int32)
        rows = np.arange(number * num_rows, (number + 1) * num_rows)
        yield pa.table({"bucket": buckets, "row": rows, "values": [[row] * (row % 5) for row in rows.tolist()]})


@pytest.mark.parametrize("num_buckets", [1, 3, FAN_OUT, FAN_OUT + 1, 5 * FAN_OUT, FAN_OUT**2 + 7])
def test_every_row_is_in_its_bucket_in_the_order_it_came(tmp_path: Path, num_buckets: int) -> None:
    dealer = Dealer(tmp_path / "dealt", num_buckets, held_bytes=3_000)
    for table in tables(40, 100, num_buckets):
        dealer.add(table)
    files = list((tmp_path / "dealt").iterdir())
    assert 0 < len(files) <= FAN_OUT
    expected = pa.concat_tables(tables(40, 100, num_buckets)).to_pylist()
    expected.sort(key=lambda row: row["bucket"])
    found = list(dealer.buckets())
    assert [number for number, _ in found] == sorted({row["bucket"] for row in expected})
    assert [row for _, table in found for row in table.to_pylist()] == expected
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_nothing_dealt_is_nothing_found(tmp_path: Path) -> None:
    assert list(Dealer(tmp_path, 5, held_bytes=1e6).buckets()) == []


def test_memory_is_what_is_held_and_one_bucket(tmp_path: Path) -> None:
    def peak(num_tables: int, num_buckets: int) -> int:
        dealer = Dealer(tmp_path / f"{num_tables}", num_buckets, held_bytes=40_000)
        before, most = pa.total_allocated_bytes(), 0
        for table in tables(num_tables, 100, num_buckets):
            dealer.add(table)
            most = max(most, pa.total_allocated_bytes() - before)
        for _, table in dealer.buckets():
            most = max(most, pa.total_allocated_bytes() - before)
            del table
        return most

    small, large = peak(100, 30), peak(3_000, 900)
    assert small and large < 2 * small


def test_a_full_disk_is_one_line_that_names_the_folder(tmp_path: Path) -> None:
    dealer = Dealer(tmp_path, 1, held_bytes=1)
    (tmp_path / "00000000.arrows").symlink_to("/dev/full")
    with pytest.raises(StorageError, match=r"no space left to sort in: '/.*; free some space, or set TMPDIR to"):
        for table in tables(1, 10_000, 1):
            dealer.add(table)
