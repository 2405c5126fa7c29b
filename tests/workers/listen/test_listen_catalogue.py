"""What is found in an archive, by words, conditions and groups; and an archive that grows or is damaged meanwhile."""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path

import pyarrow as pa
import pytest

from syllabary.shards import dataset
from syllabary.shards.archive.parts import part_name
from syllabary.shards.errors import InputError, NotFoundError
from syllabary.workers.listen import catalogue as catalogue_module
from syllabary.workers.listen.catalogue import Catalogue, Query, Snapshot
from tests.helpers.archive_corpus import FORMAT, make_archive, make_part, utterance_rows

SHARDS = ("train-000000", "train-000001")


@pytest.fixture
def archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Two parts of 40 utterances, speakers 100 and 101, two recordings each; looked at anew at every question."""
    monkeypatch.setattr(catalogue_module, "LISTED_EVERY_S", 0.0)
    make_archive(str(tmp_path / "archive"), SHARDS)
    return str(tmp_path / "archive")


def ids(found: pa.Table) -> list[str]:
    return found["utterance_id"].to_pylist()


def with_texts(snapshot: Snapshot, texts: dict[int, str]) -> Snapshot:
    """The same rows with a text at some places."""
    rows = snapshot.rows
    column = pa.array([texts.get(i) for i in range(len(rows))], pa.string())
    return dataclasses.replace(snapshot, rows=rows.set_column(rows.column_names.index("text"), "text", column))


def test_words_have_to_stand_in_the_row_all_of_them_in_any_column_and_case(archive: str) -> None:
    snapshot = with_texts(Catalogue(archive).newest(), {3: "The Lighthouse keeper", 50: "a light house"})
    everything = ids(snapshot.rows)
    assert ids(snapshot.find(Query(words="lighthouse"))) == [everything[3]]
    assert ids(snapshot.find(Query(words="LIGHT house"))) == [everything[3], everything[50]]
    assert ids(snapshot.find(Query(words="light keeper 101"))) == []
    assert ids(snapshot.find(Query(words="101 chapter_1"))) == everything[60:80]
    assert ids(snapshot.find(Query(words="%' or 1=1"))) == []


def test_a_condition_is_the_one_of_where_and_adds_to_the_words(archive: str) -> None:
    snapshot = Catalogue(archive).newest()
    rows = [row for row in snapshot.rows.to_pylist() if row["num_samples"] > 16_000 and row["speaker"] == "101"]
    found = snapshot.find(Query(words="101", where="duration_s > 1.0"))
    assert ids(found) == [row["utterance_id"] for row in rows] and 0 < len(rows) < 40
    with pytest.raises(InputError, match="there is no column 'nonsense'"):
        snapshot.find(Query(where="nonsense = 1"))
    with pytest.raises(InputError, match="too long"):
        Query(words="a" * 3_000)


def test_recordings_and_speakers_are_counted_with_their_seconds(archive: str) -> None:
    snapshot = Catalogue(archive).newest()
    speakers = snapshot.groups(Query(), "speaker")
    assert speakers["speaker"].to_pylist() == ["100", "101"] and speakers["count"].to_pylist() == [40, 40]
    recordings = snapshot.groups(Query(speaker="101"), "recording_id")
    assert recordings["recording_id"].to_pylist() == ["101/book/chapter_0", "101/book/chapter_1"]
    samples = sum(row["num_samples"] for row in utterance_rows(SHARDS[1], 1, 40)[:20])
    assert recordings["duration_s"].to_pylist()[0] == pytest.approx(samples / 16_000)
    assert len(snapshot.recording("101/book/chapter_1")) == 20
    for missing in ("101/book", "' or 1=1", ""):
        with pytest.raises(NotFoundError, match="no such recording"):
            snapshot.recording(missing)
        with pytest.raises(NotFoundError, match="no such utterance"):
            snapshot.utterance(missing)


def test_tokens_are_those_of_the_archive_for_each_row(tmp_path: Path) -> None:
    truth = make_archive(str(tmp_path / "archive"), SHARDS)
    found = Catalogue(str(tmp_path / "archive"))
    rows = found.newest().rows.to_pylist()
    asked = [rows[70], rows[2]]
    for row in found.tokens(asked):
        assert row["tokens"] == FORMAT.packing.pack(truth[row["utterance_id"]]).reshape(-1).tolist()
        assert len(row["salience"]) == row["num_frames"]
    with pytest.raises(NotFoundError, match="gone"):
        found.tokens([rows[0] | {"utterance_id": "nobody"}])


def add_part(archive: str, shard: str, seed: int) -> None:
    rows = pa.Table.from_pylist(utterance_rows(shard, seed, 4), schema=dataset.INDEX_SCHEMA)
    make_part(archive, rows, FORMAT, shard, seed, row_group_size=16)


def test_an_archive_that_grows_is_seen_to_grow_and_what_was_found_before_stays_as_it_was(archive: str) -> None:
    catalogue = Catalogue(archive)
    before = catalogue.newest()
    assert catalogue.newest().version == before.version
    add_part(archive, "train-000002", 2)
    after = catalogue.newest()
    assert len(before.rows) == 80 and len(after.rows) == 84 and after.version > before.version
    assert after.size_bytes > before.size_bytes
    assert ids(after.find(Query(speaker="102"))) == ids(after.rows)[80:]
    Path(archive, part_name("train-000000")).unlink()
    assert len(catalogue.newest().rows) == 44


def test_a_part_that_is_damaged_is_named_and_the_others_are_shown(archive: str) -> None:
    catalogue = Catalogue(archive)
    Path(archive, part_name("train-000002")).write_bytes(b"PAR1 no such thing PAR1")
    snapshot = catalogue.newest()
    assert len(snapshot.rows) == 80
    (fault,) = snapshot.faults
    assert "train-000002" in fault and "footer does not parse" in fault and "\n" not in fault
    add_part(archive, "train-000002", 2)
    assert catalogue.newest().faults == () and len(catalogue.newest().rows) == 84


def test_a_page_of_ten_thousand_rows_is_a_slice_of_what_was_found_before(tmp_path: Path) -> None:
    make_archive(str(tmp_path / "archive"), ("train-000000",), 10_000, row_group_size=4096)
    snapshot = Catalogue(str(tmp_path / "archive")).newest()
    query = Query(words="100 chapter_1")
    assert len(snapshot.find(query)) == 5_000
    started = time.process_time()
    for offset in range(0, 5_000, 50):
        snapshot.find(query).slice(offset, 50).to_pylist()
    assert snapshot.find(query) is snapshot.find(query)
    assert time.process_time() - started < 10  # a hundred pages; 0.2 s where nothing else runs
