"""repack loses nothing and costs what it prints; salient lists exactly the frames above its threshold."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from syllabary.shards.archive.audit import audit_archive
from syllabary.shards.archive.packing import Packing
from syllabary.shards.archive.reader import ArchiveReader
from syllabary.shards.errors import ConflictError, DamageError, InputError, NotFoundError
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


def test_repacking_back_gives_the_same_part_bytes(archive, tmp_path: Path) -> None:
    folder, _ = archive
    repack(RepackJob(archive=str(folder), out=str(tmp_path / "there"), group_size=3))
    repack(RepackJob(archive=str(tmp_path / "there"), out=str(tmp_path / "back"), group_size=7))
    repack(RepackJob(archive=str(folder), out=str(tmp_path / "straight"), group_size=7))
    for part in sorted((tmp_path / "straight/parts").iterdir()):
        assert part.read_bytes() == (tmp_path / "back/parts" / part.name).read_bytes()


def test_figures_of_the_choices(archive) -> None:
    result = repack(RepackJob(archive=str(archive[0])))
    by_size = {choice["group_size"]: choice for choice in result["choices"]}
    assert sorted(by_size) == list(range(1, 9))
    assert by_size[7]["tokens_per_s"] == 47.5 and by_size[7]["vocabulary"] == 16_384
    assert by_size[7]["waste_percent"] == pytest.approx(100 * (1 - 256 / (19 * 14)), abs=0.01)
    assert by_size[1]["entropy_bits"] == pytest.approx(2.0, abs=0.05) and by_size[8]["waste_percent"] == 0
    constant = choice_figures(FORMAT.packing, np.zeros((10, 128), np.uint8), FORMAT)
    assert constant["entropy_bits"] == 0


def test_what_cannot_be_repacked_is_refused(archive, tmp_path: Path) -> None:
    folder, _ = archive
    with pytest.raises(InputError, match="use a smaller group_size"):
        repack(RepackJob(archive=str(folder), out=str(tmp_path / "no"), group_size=9))
    repack(RepackJob(archive=str(folder), out=str(tmp_path / "out"), group_size=4))
    with pytest.raises(ConflictError, match="group_size was 4 and is now 5"):
        repack(RepackJob(archive=str(folder), out=str(tmp_path / "out"), group_size=5))
    ledger = folder / "ledger/train-000001.parquet"
    ledger.write_bytes(ledger.read_bytes()[:-1])
    with pytest.raises(DamageError, match="train-000001"):
        repack(RepackJob(archive=str(folder), out=str(tmp_path / "out2"), group_size=4))


def test_salient_spans_are_the_frames_above_the_threshold(archive, tmp_path: Path) -> None:
    folder, _ = archive
    result = salient(SalientJob(archive=str(folder), top_percent=5.0, out=str(tmp_path / "out"), limit=3))
    rows = [row for part in sorted((folder / "parts").iterdir()) for row in pq.read_table(part).to_pylist()]
    values = np.concatenate([row["salience"] for row in rows])
    threshold = result["threshold"]
    assert (values >= threshold).mean() <= 0.05 < (values >= threshold - 1).mean()
    spans = pq.read_table(tmp_path / "out/spans.parquet").to_pylist()
    assert len(spans) == result["num_spans"] and result["spans"] == spans[:3]
    covered = {(s["utterance_id"], round(s["start_s"] / 0.1)): s for s in spans}
    for row in rows:
        above = np.array(row["salience"]) >= threshold
        for frame in np.flatnonzero(above & ~np.concatenate([[False], above[:-1]])):
            start_s = row["start_sample"] / row["sample_rate"] + frame * 0.4
            span = covered[(row["utterance_id"], round(start_s / 0.1))]
            assert span["end_s"] <= (row["start_sample"] + row["num_samples"]) / row["sample_rate"] + 1e-6


def test_threshold_of_ties_and_extremes() -> None:
    counts = np.zeros(256, np.int64)
    counts[[3, 9]] = [90, 10]
    assert salience_threshold(counts, 10) == 4 and salience_threshold(counts, 5) == 9
    assert salience_threshold(counts, 100) == 0


def test_salient_refuses_nothing_and_nonsense(archive, tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="no frame"):
        salient(SalientJob(archive=str(archive[0]), where="speaker = 'x'"))
    with pytest.raises(InputError, match="does not do"):
        salient(SalientJob(archive=str(archive[0]), where="speaker ~ 'x'"))
