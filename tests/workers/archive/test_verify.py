"""verify --new reads what is new, remembers what is intact, and leaves all else to the whole scrub."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from syllabary.shards.about.events import read_events
from syllabary.shards.errors import DamageError, FormatError, InputError, NotFoundError
from syllabary.workers.archive.verify import verify
from syllabary.workers.control.jobs import VerifyJob
from tests.helpers.archive_corpus import make_archive

SHARDS = ("train-000000", "train-000001", "valid-000000")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("verify") / "archive"
    make_archive(str(folder), SHARDS)
    return folder


@pytest.fixture
def archive(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "archive"))


def take(archive: Path, shard: str, to: Path) -> None:
    """Move the files of a shard from one archive to another."""
    for path in [p for p in archive.rglob("*") if p.is_file() and p.stem == shard]:
        target = to / path.relative_to(archive)
        target.parent.mkdir(parents=True, exist_ok=True)
        path.rename(target)


def spoil(part: Path) -> bytes:
    data = part.read_bytes()
    part.write_bytes(data[:600] + bytes([data[600] ^ 1]) + data[601:])
    return data


def test_only_new_parts_are_read_and_a_whole_run_reads_all(archive: Path, tmp_path: Path) -> None:
    job = VerifyJob(archive=str(archive), only_new=True)
    take(archive, "train-000001", tmp_path / "later")
    first = verify(job)
    assert (first["num_parts"], first["num_known_parts"], first["num_utterances"]) == (2, 0, 80)
    assert verify(job)["num_parts"] == 0
    take(tmp_path / "later", "train-000001", archive)
    second = verify(job)
    assert (second["num_parts"], second["num_known_parts"], second["num_utterances"]) == (1, 2, 40)
    assert sorted(json.loads((archive / "verified.json").read_bytes())["parts"]) == list(SHARDS)
    assert verify(VerifyJob(archive=str(archive)))["num_parts"] == 3


def test_a_wrong_folder_of_shards_is_refused_and_logged_nowhere(archive: Path, tmp_path: Path) -> None:
    for shards, error, what in (
        (archive, FormatError, "wrong kind of output"),
        (tmp_path / "absent", NotFoundError, "nothing there"),
    ):
        with pytest.raises(error, match=what):
            verify(VerifyJob(archive=str(archive), shards=str(shards)))
    assert not (archive / "events").exists()


def test_a_digest_that_was_kept_elsewhere_tells_this_archive_from_another(
    archive: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    job = VerifyJob(archive=str(archive))
    digest = verify(job)["archive_digest"]
    assert f"archive digest {digest}\n" in capsys.readouterr().err
    expecting = job.model_copy(update={"expect": digest})
    assert verify(expecting)["archive_digest"] == digest
    assert f"archive digest {digest}, as expected\n" in capsys.readouterr().err
    take(archive, "train-000001", tmp_path / "gone")  # with all its records: nothing in the archive tells of it
    other = verify(job)["archive_digest"]
    told = rf"is another archive than expected: its digest is {other[:16]}\.\.\., not {digest[:16]}\.\.\.; where it was"
    with pytest.raises(DamageError, match=told):
        verify(expecting)
    events = list(read_events(str(archive)))
    outcomes = [event["eventOutcomeInformation"][0]["eventOutcome"] for event in events]
    assert outcomes == ["pass", "pass", "pass", "fail"] and other in json.dumps(events[-1])
    spoil(archive / "parts/train-000000.parquet")
    with pytest.raises(DamageError, match=r"damages in .*, first: parts/train-000000"):
        verify(expecting)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"expect": "abc"}, "no archive digest: 'abc'; expected the 64 hexadecimal digits that `syllabary verify`"),
        ({"expect": "0" * 64, "only_new": True}, "a digest is of all parts, and --new reads some; leave out --new"),
    ],
)
def test_what_is_no_digest_or_of_some_parts_alone_is_refused(archive: Path, values: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        verify(VerifyJob(archive=str(archive), **values))
    assert not (archive / "events").exists()


def test_parts_that_do_not_tell_what_computed_them_are_read_as_before(
    archive: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert verify(VerifyJob(archive=str(archive)))["encoded_on"] == {"": 3}
    assert "3 parts encoded on what is not recorded" in capsys.readouterr().err


def test_damage_of_a_new_part_is_found_every_time_until_it_is_mended(archive: Path) -> None:
    job, part = VerifyJob(archive=str(archive), only_new=True), archive / "parts/train-000001.parquet"
    data = spoil(part)
    for _ in range(2):
        with pytest.raises(DamageError, match=r"first: parts/train-000001"):
            verify(job)
    part.write_bytes(data)
    assert verify(job)["num_parts"] == 1


def test_a_part_of_another_size_or_without_its_ledger_is_not_known(archive: Path) -> None:
    job = VerifyJob(archive=str(archive), only_new=True)
    verify(job)
    part = archive / "parts/train-000000.parquet"
    data = part.read_bytes()
    part.write_bytes(data[:-1])
    with pytest.raises(DamageError, match=r"parts/train-000000.parquet.*unreadable"):
        verify(job)
    part.write_bytes(data)
    (archive / "ledger/valid-000000.parquet").unlink()
    with pytest.raises(DamageError, match=r"ledger/valid-000000.parquet: the ledger is missing"):
        verify(job)
    assert sorted(json.loads((archive / "verified.json").read_bytes())["parts"]) == list(SHARDS[:2])


def test_the_scrub_takes_damaged_parts_out_of_the_record_and_makes_none_of_its_own(archive: Path) -> None:
    verify(VerifyJob(archive=str(archive)))
    assert not (archive / "verified.json").exists()
    verify(VerifyJob(archive=str(archive), only_new=True))
    data = spoil(archive / "parts/valid-000000.parquet")
    assert verify(VerifyJob(archive=str(archive), only_new=True))["num_parts"] == 0, "same size: the scrub's to find"
    with pytest.raises(DamageError, match=r"parts/valid-000000"):
        verify(VerifyJob(archive=str(archive)))
    (archive / "parts/valid-000000.parquet").write_bytes(data)
    assert verify(VerifyJob(archive=str(archive), only_new=True))["num_parts"] == 1


@pytest.mark.parametrize("text", ["not json", "[]", '{"parts": 3}', '{"parts": {"train-000000": "x"}}'])
def test_a_damaged_record_is_refused_by_a_short_run_and_mended_by_a_whole_one(archive: Path, text: str) -> None:
    (archive / "verified.json").write_text(text)
    with pytest.raises(FormatError, match=r"a damaged record of verified parts: .*; verify everything, without --new"):
        verify(VerifyJob(archive=str(archive), only_new=True))
    assert verify(VerifyJob(archive=str(archive)))["num_parts"] == 3
    assert verify(VerifyJob(archive=str(archive), only_new=True))["num_known_parts"] == 3
