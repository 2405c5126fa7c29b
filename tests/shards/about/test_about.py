"""What a folder says of itself: checked, edited cards kept, events in PREMIS's terms, bags as RFC 8493 has them."""

from __future__ import annotations

import hashlib
import subprocess
from datetime import UTC, datetime
from pathlib import Path

import bagit
import pytest

from syllabary.shards import outputs
from syllabary.shards.about.bag import escaped, unescaped, write_bag
from syllabary.shards.about.events import FIXITY_CHECK, read_events, record_event
from syllabary.shards.about.files import check_about, publish_about
from syllabary.shards.about.origin import Origin
from syllabary.shards.errors import ConflictError, FormatError, InputError, NotFoundError
from syllabary.workers.archive.bag import bag
from syllabary.workers.control.jobs import BagJob

FILES = {"README.md": b"a card\n", "deep/format.md": b"text\n"}


def test_checksums_are_those_that_sha256sum_checks(tmp_path: Path) -> None:
    assert not publish_about(str(tmp_path), FILES)
    subprocess.run(["sha256sum", "--check", "--quiet", "about.sha256"], cwd=tmp_path, check=True)
    assert list(check_about(str(tmp_path))) == [] == list(check_about(str(tmp_path / "deep")))


def test_an_edited_card_is_told_and_kept_and_damage_is_mended(tmp_path: Path) -> None:
    publish_about(str(tmp_path), FILES)
    (tmp_path / "README.md").write_bytes(b"what people know better\n")
    (tmp_path / "deep/format.md").write_bytes(b"tixt\n")
    assert list(check_about(str(tmp_path))) == [
        ("README.md", "has been edited since it was written"),
        ("deep/format.md", "sha256 differs"),
    ]
    for text in (b"a card\n", b"a newer card\n"):
        assert publish_about(str(tmp_path), FILES | {"README.md": text})
        assert (tmp_path / "README.md").read_bytes() == b"what people know better\n"
    assert [name for name, _ in check_about(str(tmp_path))] == ["README.md"]


def test_a_card_that_nobody_edited_follows_the_folder(tmp_path: Path) -> None:
    publish_about(str(tmp_path), FILES)
    assert not publish_about(str(tmp_path), FILES | {"README.md": b"a newer card\n"})
    assert (tmp_path / "README.md").read_bytes() == b"a newer card\n" and not list(check_about(str(tmp_path)))


@pytest.mark.parametrize(
    ("sums", "what"),
    [
        (b"\xff", "do not parse"), (b"garbage\n", "do not parse"), (b"", "do not parse"), (None, "are missing"),
        (b"0" * 64 + b"  ../outside\n", "do not parse"),
    ],
)  # fmt: skip
def test_damaged_checksums_are_told(tmp_path: Path, sums: bytes | None, what: str) -> None:
    publish_about(str(tmp_path), FILES)
    (tmp_path / "about.sha256").unlink()
    if sums is not None:
        (tmp_path / "about.sha256").write_bytes(sums)
    ((name, told),) = check_about(str(tmp_path))
    assert name == "about.sha256" and what in told


def test_what_was_told_later_goes_over_what_was_told_before(tmp_path: Path) -> None:
    before = Origin("Book", "CC0-1.0", "")
    assert before | Origin(licence="CC-BY-4.0") == Origin("Book", "CC-BY-4.0")
    (tmp_path / "origin.json").write_bytes(before.encode())
    assert Origin.read(str(tmp_path)) == before and Origin.read(str(tmp_path / "none")) == Origin()
    (tmp_path / "origin.json").write_bytes(b'{"licence": 4}')
    with pytest.raises(FormatError, match="not a description of an origin"):
        Origin.read(str(tmp_path))


def test_events_are_in_the_terms_of_premis_and_in_order_of_time(tmp_path: Path) -> None:
    times = [datetime(2026, 11, 26, 12, 0, 0, micros, UTC) for micros in (5, 10)]
    for outcome, when in zip(("fail", "pass"), reversed(times), strict=True):
        record_event(str(tmp_path), FIXITY_CHECK, outcome, "sha256", ("a", "b"), when)
    first, second = read_events(str(tmp_path))
    assert [e["eventOutcomeInformation"][0]["eventOutcome"] for e in (first, second)] == ["pass", "fail"]
    assert first["eventType"] == {
        "value": "fixity check",
        "valueURI": "http://id.loc.gov/vocabulary/preservation/eventType/fix",
    }
    assert datetime.fromisoformat(first["eventDateTime"]) == times[0]
    assert first["linkingAgentIdentifier"][0]["linkingAgentIdentifierValue"].startswith("syllabary ")
    (tmp_path / "events/z.json").write_bytes(b"{")
    with pytest.raises(FormatError, match="an event does not parse"):
        list(read_events(str(tmp_path)))


NAMES = ("plain.txt", "a b/c.txt", "50%.txt", "100%0A.txt", "line\nfeed.txt", "carriage\rreturn.txt", "%25%0D.txt")


@pytest.mark.parametrize("name", NAMES)
def test_names_are_escaped_as_the_rfc_says_and_come_back(name: str) -> None:
    assert not {"\n", "\r"} & {*escaped(name)} and unescaped(escaped(name)) == name
    assert escaped("100%0A\n\r é") == "100%250A%0A%0D é"


def test_a_bag_holds_every_file_and_is_the_same_again(tmp_path: Path) -> None:
    source, out = tmp_path / "folder", tmp_path / "bag"
    for name in NAMES:
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_text(name)
    assert write_bag(str(source), str(out), "a\nfolder") == {"num_files": 7, "size_bytes": sum(map(len, NAMES))}
    lines = [line.split("  ", 1) for line in (out / "manifest-sha256.txt").read_text().splitlines()]
    assert {unescaped(path): digest for digest, path in lines} == {
        f"data/{name}": hashlib.sha256(name.encode()).hexdigest() for name in NAMES
    }
    assert all((out / "data" / name).read_bytes() == name.encode() for name in NAMES)
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    (out / "bagit.txt").unlink()
    write_bag(str(source), str(out), "a folder")
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before
    (source / "b more").write_text("later")
    write_bag(str(source), str(out), "a folder")
    (source / "b more").write_text("other")
    with pytest.raises(ConflictError, match=r"a bag of other bytes is there, .*b more'; use another --out"):
        write_bag(str(source), str(out), "a folder")
    (source / "a new one").write_text("not copied beside what is refused")
    with pytest.raises(ConflictError, match=r"a bag of other bytes is there, .*b more'; use another --out"):
        write_bag(str(source), str(out), "a folder")
    assert (out / "data/b more").read_text() == "later" and not (out / "data/a new one").exists()
    for inside in (source, source / "bag"):
        with pytest.raises(InputError, match="a bag in the folder that goes into it"):
            write_bag(str(source), str(inside), "a folder")
    (out / "data/more").write_text("?")
    with pytest.raises(ConflictError, match="not in the folder"):
        write_bag(str(source), str(out), "")
    with pytest.raises(NotFoundError, match="nothing to put into a bag"):
        write_bag(str(tmp_path / "none"), str(tmp_path / "bag2"), "")


def test_the_library_of_congress_takes_a_bag_of_an_output_and_sees_damage(tmp_path: Path) -> None:
    folder = tmp_path / "archive"
    outputs.claim(str(folder), "archive", inputs={}, config={})
    publish_about(str(folder), FILES)
    bag(BagJob(folder=str(folder), out=str(tmp_path / "bag")))
    found = bagit.Bag(str(tmp_path / "bag"))
    assert found.is_valid() and sorted(found.payload_files()) == [
        "data/README.md", "data/about.sha256", "data/deep/format.md", "data/output.json",
    ]  # fmt: skip
    (tmp_path / "bag/data/deep/format.md").write_bytes(b"tixt\n")
    assert not bagit.Bag(str(tmp_path / "bag")).is_valid()
    for folder, what, fix in (
        (tmp_path / "none", "nothing there", "check the URI"),
        (tmp_path / "bag", "no output of syllabary", "it is a bag, so give .*/bag/data"),
    ):
        with pytest.raises(NotFoundError, match=rf"{what}: '{folder}'; expected a folder with output.json.*; {fix}$"):
            bag(BagJob(folder=str(folder), out=str(tmp_path / "bag2")))
