"""A folder as one value, on a local folder and on a real S3 server."""

from __future__ import annotations

from pathlib import Path

import pytest

from syllabary.shards import store
from syllabary.shards.errors import FormatError, InputError, NotFoundError
from syllabary.shards.store import Folder


@pytest.fixture(params=["local", "s3"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Folder:
    if request.param == "local":
        return Folder(str(tmp_path / "out"))
    return Folder(request.getfixturevalue("s3").bucket() + "/out")


def test_what_is_published_is_there_and_nothing_else_is(folder: Folder) -> None:
    assert folder.list() == [] and not folder.exists("a.txt")
    folder.publish("a.txt", b"one")
    (folder / "deep").publish_json("b.json", {"b": 1, "a": "ä"})
    with folder.publishing("deep/c.bin") as path:
        path.write_bytes(b"12345")
    assert [(entry.name, entry.size_bytes) for entry in folder.list()][::2] == [("a.txt", 3), ("deep/c.bin", 5)]
    assert [entry.name for entry in (folder / "deep").list(suffix=".json")] == ["b.json"]
    assert folder.read("deep/b.json") == '{\n  "a": "ä",\n  "b": 1\n}\n'.encode()
    assert folder.read_json("deep/b.json") == {"a": "ä", "b": 1}
    with folder.open("deep/c.bin") as file:
        file.seek(3)
        assert file.read() == b"45"
    assert store.read_bytes(folder.join("a.txt")) == b"one" and folder.exists("deep")
    folder.delete("deep")
    folder.delete("deep")
    assert [entry.name for entry in folder.list()] == ["a.txt"]


@pytest.mark.parametrize("name", ["../a", "/etc/passwd", "a/../../b", "a\x00"])
def test_a_name_that_leaves_the_folder_is_refused(name: str, tmp_path: Path) -> None:
    folder = Folder(str(tmp_path))
    for use in (folder.join, folder.read, folder.exists, folder.delete, folder.__truediv__):
        with pytest.raises(InputError, match="unsafe path"):
            use(name)


def test_what_is_missing_or_no_json_is_told_by_its_uri(tmp_path: Path) -> None:
    folder = Folder(str(tmp_path))
    with pytest.raises(NotFoundError, match=rf"nothing there: '?{tmp_path}/a.json"):
        folder.read_json("a.json")
    folder.publish("a.json", b"[1]")
    with pytest.raises(FormatError, match="not a JSON object"):
        folder.read_json("a.json")
