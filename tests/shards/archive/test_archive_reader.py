"""Reading an archive: the right rows, from as few bytes as their row groups need, locally and from S3."""

from __future__ import annotations

from pathlib import Path

import pytest

from syllabary.shards import outputs, store
from syllabary.shards.archive.reader import ArchiveReader
from syllabary.shards.archive.where import parse_where
from syllabary.shards.errors import DamageError, FormatError, NotFoundError
from tests.helpers.archive_corpus import make_archive


@pytest.fixture(params=["local", "s3"])
def archive(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    uri = str(tmp_path / "a") if request.param == "local" else request.getfixturevalue("s3").bucket() + "/a"
    make_archive(uri, num_utterances=400, row_group_size=50)
    return uri


def test_a_condition_reads_only_the_row_groups_that_can_match(archive: str) -> None:
    everything = ArchiveReader.open(archive)
    rows = [row for table in everything.scan() for row in table.to_pylist()]
    assert len(rows) == 1200 and everything.num_row_groups_read == 24
    wanted = rows[777]["utterance_id"]
    reader = ArchiveReader.open(archive)
    found = list(reader.scan(parse_where(f"utterance_id = '{wanted}'", reader.schema)))
    assert [t.to_pylist() for t in found] == [[rows[777]]]
    assert reader.num_row_groups_read <= 2
    assert reader.bytes_read < everything.bytes_read
    size = sum(e.size_bytes for e in store.list_files(store.join(archive, "parts")))
    assert everything.bytes_read >= size


def test_columns_that_no_row_needs_are_not_fetched(archive: str) -> None:
    reader = ArchiveReader.open(archive)
    condition = parse_where("speaker = '101' and snr_db > 1000", reader.schema)
    assert list(reader.scan(condition)) == []
    light = ArchiveReader.open(archive)
    assert sum(map(len, light.scan(None, ["speaker"]))) == 1200
    full = ArchiveReader.open(archive)
    assert sum(map(len, full.scan())) == 1200
    assert light.bytes_read < full.bytes_read


@pytest.mark.parametrize("where", [None, "num_samples > 20000 and speaker = '101'"])
def test_rows_that_were_found_are_taken_without_their_condition(archive: str, where: str | None) -> None:
    reader = ArchiveReader.open(archive)
    condition = parse_where(where, reader.schema) if where else None
    columns = ["utterance_id", "tokens"]
    found = {shard: list(reader.find(shard, condition, columns)) for shard in reader.shards}
    assert any(found.values())
    for shard, own in found.items():
        taken = list(reader.take(shard, [place for place, _ in own], columns))
        assert [table.to_pylist() for table in taken] == [table.to_pylist() for _, table in own]
    (place, _), *_ = next(filter(None, found.values()))
    before = reader.num_row_groups_read
    (some,) = reader.take(next(shard for shard in found if found[shard]), [(place[0], place[1][:2])], ["utterance_id"])
    assert len(some) == 2 and reader.num_row_groups_read == before + 1


def test_a_missing_part_is_refused_once_the_archive_is_complete(tmp_path: Path) -> None:
    make_archive(str(tmp_path))
    outputs.mark_done(str(tmp_path), {"num_parts": 3})
    assert len(ArchiveReader.open(str(tmp_path)).shards) == 3
    (tmp_path / "parts/train-000001.parquet").unlink()
    with pytest.raises(DamageError, match=r"2; expected 3; run `syllabary tokenize` again"):
        ArchiveReader.open(str(tmp_path))


def test_parts_of_a_run_that_is_adding_to_a_complete_archive_are_read(tmp_path: Path) -> None:
    make_archive(str(tmp_path))
    outputs.mark_done(str(tmp_path), {"num_parts": 2})
    assert sum(map(len, ArchiveReader.open(str(tmp_path)).scan())) == 120


def test_a_foreign_part_a_truncated_one_and_no_archive_are_refused(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError):
        ArchiveReader.open(str(tmp_path / "nothing"))
    make_archive(str(tmp_path / "a"))
    make_archive(str(tmp_path / "b"), packing=_other_packing())
    target = tmp_path / "a/parts/train-000001.parquet"
    original = target.read_bytes()
    target.write_bytes((tmp_path / "b/parts/train-000001.parquet").read_bytes())
    with pytest.raises(FormatError, match="foreign part: 'parts/train-000001"):
        list(ArchiveReader.open(str(tmp_path / "a")).scan())
    target.write_bytes(original[: len(original) // 2])
    with pytest.raises(DamageError, match=r"footer does not parse.*parts/train-000001"):
        list(ArchiveReader.open(str(tmp_path / "a")).scan())


def test_a_part_under_another_name_is_refused_and_does_not_come_twice(tmp_path: Path) -> None:
    make_archive(str(tmp_path))
    (tmp_path / "parts/train-000000 (copy).parquet").write_bytes((tmp_path / "parts/train-000000.parquet").read_bytes())
    with pytest.raises(FormatError, match=r"a foreign part: 'parts/train-000000 \(copy\).parquet'; .*; move it away"):
        list(ArchiveReader.open(str(tmp_path)).scan())


@pytest.mark.parametrize("totals", [{}, {"num_parts": "3"}])
def test_totals_without_a_number_of_parts_are_refused(tmp_path: Path, totals: dict) -> None:
    make_archive(str(tmp_path))
    outputs.mark_done(str(tmp_path), totals)
    with pytest.raises(DamageError, match=r"totals without a number of parts: .*done.json"):
        ArchiveReader.open(str(tmp_path))


def test_a_damaged_row_group_is_named_and_the_others_stay_readable(tmp_path: Path) -> None:
    make_archive(str(tmp_path), num_utterances=48)
    part = tmp_path / "parts/train-000000.parquet"
    reader = ArchiveReader.open(str(tmp_path))
    with reader._part("train-000000") as file:
        column = next(c for c in range(file.metadata.num_columns)
                      if file.metadata.row_group(1).column(c).path_in_schema.startswith("tokens"))  # fmt: skip
        offset = file.metadata.row_group(1).column(column).data_page_offset
        last = file.read_row_group(2)
    data = bytearray(part.read_bytes())
    data[offset + 200] ^= 0x10
    part.write_bytes(bytes(data))
    with pytest.raises(DamageError, match="row group 1 of parts/train-000000"):
        list(reader.scan())
    beyond = parse_where(f"utterance_id = '{last['utterance_id'][5].as_py()}'", reader.schema)
    assert sum(map(len, reader.scan(beyond))) == 1


def _other_packing():
    from syllabary.shards.archive.packing import Packing

    return Packing(128, 4, 8)
