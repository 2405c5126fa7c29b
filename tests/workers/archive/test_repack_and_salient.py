"""repack loses nothing and costs what it prints; salient lists exactly the asked share of the frames."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from syllabary.shards.archive.audit import audit_archive
from syllabary.shards.archive.encoding import encoding_of
from syllabary.shards.archive.ledger import read_archive_digest
from syllabary.shards.archive.packing import Packing
from syllabary.shards.archive.reader import ArchiveReader
from syllabary.shards.errors import ConflictError, DamageError, InputError, NotFoundError
from syllabary.shards.outputs import mark_done
from syllabary.workers.archive import repack as repack_module
from syllabary.workers.archive import salient as salient_module
from syllabary.workers.archive.repack import choice_figures, repack
from syllabary.workers.archive.salient import salience_threshold, salient
from syllabary.workers.control.jobs import RepackJob, SalientJob
from tests.helpers.archive_corpus import FORMAT, make_archive


@pytest.fixture
def archive(tmp_path: Path) -> tuple[Path, dict[str, np.ndarray]]:
    return tmp_path / "archive", make_archive(str(tmp_path / "archive"))


def test_repacking_keeps_every_digit_and_passes_the_scrub(archive, tmp_path: Path) -> None:
    folder, truth = archive
    job = RepackJob(archive=str(folder), out=str(tmp_path / "out"), group_size=4, digit_order="first_least_significant")
    repack(job)
    packing = Packing(128, 4, 4, "first_least_significant")
    reader = ArchiveReader.open(str(tmp_path / "out"))
    assert reader.format.packing == packing and reader.format.encoder_digest == FORMAT.encoder_digest
    rows = [row for table in reader.scan() for row in table.to_pylist()]
    assert len(rows) == len(truth)
    for row in rows:
        assert np.array_equal(packing.unpack(np.array(row["tokens"]).reshape(-1, 32)), truth[row["utterance_id"]])
    assert audit_archive(str(tmp_path / "out")).findings == []


@pytest.mark.parametrize(("before", "after"), [("plain", "compact"), ("compact", "plain")])
def test_repacking_changes_the_encoding_and_nothing_else(tmp_path: Path, before: str, after: str) -> None:
    truth = make_archive(str(tmp_path / "a"), form=replace(FORMAT, encoding=before))
    repack(RepackJob(archive=str(tmp_path / "a"), out=str(tmp_path / "out"), encoding=after))
    part = tmp_path / "out/parts/train-000000.parquet"
    assert encoding_of(pq.ParquetFile(part)) == after and audit_archive(str(tmp_path / "out")).findings == []
    columns = [pq.read_table(tmp_path / name / "parts") for name in ("a", "out")]
    assert columns[0].equals(columns[1]) and len(truth) == len(columns[0])
    repack(RepackJob(archive=str(tmp_path / "out"), out=str(tmp_path / "back"), encoding=before))
    straight = make_archive(str(tmp_path / "b"), form=replace(FORMAT, encoding=before), row_group_size=4096)
    assert len(straight) == len(truth)
    for own in sorted((tmp_path / "b/parts").iterdir()):
        assert own.read_bytes() == (tmp_path / "back/parts" / own.name).read_bytes()


def test_repacking_back_gives_the_same_part_bytes(archive, tmp_path: Path) -> None:
    folder, _ = archive
    repack(RepackJob(archive=str(folder), out=str(tmp_path / "there"), group_size=3))
    repack(RepackJob(archive=str(tmp_path / "there"), out=str(tmp_path / "back"), group_size=7))
    repack(RepackJob(archive=str(folder), out=str(tmp_path / "straight"), group_size=7))
    for part in sorted((tmp_path / "straight/parts").iterdir()):
        assert part.read_bytes() == (tmp_path / "back/parts" / part.name).read_bytes()


def test_an_archive_that_was_repacked_has_a_digest_of_its_own(archive, tmp_path: Path) -> None:
    folder = shutil.copytree(archive[0], tmp_path / "in")
    mark_done(str(folder), {"num_parts": 3, "archive_digest": read_archive_digest(str(folder))})
    repack(RepackJob(archive=str(folder), out=str(tmp_path / "out"), group_size=4))
    done = json.loads((tmp_path / "out/done.json").read_bytes())
    assert done["archive_digest"] == read_archive_digest(str(tmp_path / "out")) != read_archive_digest(str(folder))


def test_figures_of_the_choices(archive) -> None:
    result = repack(RepackJob(archive=str(archive[0])))
    by_size = {choice["group_size"]: choice for choice in result["choices"]}
    assert sorted(by_size) == list(range(1, 9))
    assert by_size[7]["tokens_per_s"] == 47.5 and by_size[7]["vocabulary"] == 16_384
    assert by_size[7]["waste_percent"] == pytest.approx(100 * (1 - 256 / (19 * 14)), abs=0.01)
    assert by_size[1]["entropy_bits"] == pytest.approx(2.0, abs=0.05) and by_size[8]["waste_percent"] == 0
    constant = choice_figures(FORMAT.packing, np.zeros((10, 128), np.uint8), FORMAT)
    assert constant["entropy_bits"] == 0
    thirds = choice_figures(FORMAT.packing, np.repeat([[0], [0], [1]], 128, axis=1).astype(np.uint8), FORMAT)
    assert thirds["entropy_bits"] == 0.918  # log2(3) - 2/3, to three places


@pytest.mark.parametrize(("more", "num_read"), [(0, 1), (1, 2)])
def test_no_more_is_read_for_the_figures_than_has_the_frames_they_need(
    archive, monkeypatch: pytest.MonkeyPatch, more: int, num_read: int
) -> None:
    reader = ArchiveReader.open(str(archive[0]))
    tables = [sum(len(own) for own in table["salience"]) for table in reader.scan(None, ["salience"])]
    monkeypatch.setattr(repack_module, "_SAMPLE_FRAMES", tables[0] + more)
    assert len(tables) > 2
    assert repack_module._sample(reader).shape == (sum(tables[:num_read]), FORMAT.packing.num_dims)


def test_what_cannot_be_repacked_is_refused(archive, tmp_path: Path) -> None:
    folder, _ = archive
    with pytest.raises(InputError, match="use a smaller group_size"):
        repack(RepackJob(archive=str(folder), out=str(tmp_path / "no"), group_size=9))
    repack(RepackJob(archive=str(folder), out=str(tmp_path / "out"), group_size=4))
    with pytest.raises(ConflictError, match="group_size was 4 and is now 5"):
        repack(RepackJob(archive=str(folder), out=str(tmp_path / "out"), group_size=5))
    make_archive(str(tmp_path / "other"), num_utterances=6)
    with pytest.raises(ConflictError, match=r"a part of another shard of that name: .*train-000000.parquet'; use"):
        repack(RepackJob(archive=str(tmp_path / "other"), out=str(tmp_path / "out"), group_size=4))
    make_archive(str(tmp_path / "fewer"), ["train-000000"])
    with pytest.raises(ConflictError, match=r"a part of no shard: .*train-000001.parquet'; expected parts of"):
        repack(RepackJob(archive=str(tmp_path / "fewer"), out=str(tmp_path / "out"), group_size=4))
    ledger = folder / "ledger/train-000001.parquet"
    ledger.write_bytes(ledger.read_bytes()[:-1])
    with pytest.raises(DamageError, match="train-000001"):
        repack(RepackJob(archive=str(folder), out=str(tmp_path / "out2"), group_size=4))


def rows_of(folder: Path) -> list[dict]:
    return [row for part in sorted((folder / "parts").iterdir()) for row in pq.read_table(part).to_pylist()]


@pytest.mark.parametrize("top_percent", [5.0, 0.01, 33.3, 100.0])
def test_the_top_share_is_that_share_by_salience_and_ties_by_time(archive, tmp_path: Path, top_percent: float) -> None:
    folder, _ = archive
    result = salient(SalientJob(archive=str(folder), top_percent=top_percent, out=str(tmp_path / "out"), limit=3))
    frames = [(-value, number, frame) for number, row in enumerate(rows_of(folder))
              for frame, value in enumerate(row["salience"])]  # fmt: skip
    wanted = max(1, int(len(frames) * top_percent / 100))
    expected = {(number, frame) for _, number, frame in sorted(frames)[:wanted]}
    spans = pq.read_table(tmp_path / "out/spans.parquet").to_pylist()
    numbers = {row["utterance_id"]: number for number, row in enumerate(rows_of(folder))}
    found = set()
    for span in spans:
        row = rows_of(folder)[numbers[span["utterance_id"]]] if len(spans) < 3 else None
        number, begin = numbers[span["utterance_id"]], starts(folder)[span["utterance_id"]]
        first, last = round((span["start_s"] - begin) / 0.4), int(np.ceil(round((span["end_s"] - begin) / 0.4, 4)))
        assert row is None or span["salience"] == max(row["salience"][first:last])
        found |= {(number, frame) for frame in range(first, last)}
    assert found == expected and result["num_frames"] == wanted and result["num_spans"] == len(spans)
    assert result["top_percent"] == pytest.approx(100 * wanted / len(frames), abs=1e-3)
    assert [span["rank"] for span in spans] == list(range(len(spans))) and result["spans"] == spans[:3]
    order = [(-span["salience"], numbers[span["utterance_id"]], span["start_s"]) for span in spans]
    assert order == sorted(order)


def starts(folder: Path) -> dict[str, float]:
    return {row["utterance_id"]: row["start_sample"] / row["sample_rate"] for row in rows_of(folder)}


@pytest.mark.parametrize(("limit", "num_read"), [(1, 1), (2, 1), (3, 2), (9, 3)])
def test_no_more_spans_are_gathered_than_are_shown(limit: int, num_read: int) -> None:
    """The others of an archive may be millions."""
    read = []

    def tables() -> Iterator[pa.Table]:
        for number in range(3):
            read.append(number)
            span = {"recording_id": "r", "start_s": 1.0 * number, "end_s": number + 0.4, "salience": 9 - number}
            yield pa.Table.from_pylist([span, span | {"start_s": number + 0.2}])

    shown = salient_module._publish(SalientJob(archive="a", limit=limit), cast(Any, None), tables())
    assert [span["start_s"] for span in shown] == [0.0, 0.2, 1.0, 1.2, 2.0, 2.2][:limit] and len(read) == num_read


def test_threshold_of_ties_and_extremes() -> None:
    counts = np.zeros(256, np.int64)
    counts[[3, 9]] = [90, 10]
    assert salience_threshold(counts, 10) == (9, 10) and salience_threshold(counts, 5) == (9, 5)
    assert salience_threshold(counts, 100) == (3, 90) and salience_threshold(counts, 11) == (3, 1)


def test_the_output_of_another_run_is_refused_before_any_row_is_read(
    archive, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, out = str(archive[0]), str(tmp_path / "out")
    salient(SalientJob(archive=folder, out=out))
    repack(RepackJob(archive=folder, out=str(tmp_path / "packed"), group_size=4))

    def scan(*_: object) -> None:
        raise AssertionError("rows are read")

    monkeypatch.setattr(ArchiveReader, "scan", scan)
    with pytest.raises(
        ConflictError, match=r"config.top_percent was 5.0 and is now 1.0; use another --out, or the same"
    ):
        salient(SalientJob(archive=folder, top_percent=1.0, out=out))
    with pytest.raises(ConflictError, match=r"kind was 'report' and is now 'archive'; use another folder$"):
        repack(RepackJob(archive=folder, out=out))
    with pytest.raises(ConflictError, match=r"config.group_size was 4 and is now 5; use another folder, or the same"):
        repack(RepackJob(archive=folder, out=str(tmp_path / "packed"), group_size=5))


def test_salient_refuses_nothing_and_nonsense(archive, tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="no frame"):
        salient(SalientJob(archive=str(archive[0]), where="speaker = 'x'"))
    with pytest.raises(InputError, match="invalid --where"):
        salient(SalientJob(archive=str(archive[0]), where="speaker ~ 'x'"))
    make_archive(str(tmp_path / "other"), num_utterances=6)
    salient(SalientJob(archive=str(archive[0]), out=str(tmp_path / "spans")))
    with pytest.raises(ConflictError, match=r"parts_digest was .*; use another --out"):
        salient(SalientJob(archive=str(tmp_path / "other"), out=str(tmp_path / "spans")))
