"""``builtin:NAME``: read like any URI, under one name on every host, never written to."""

from __future__ import annotations

from pathlib import Path

import pytest

from syllabary.shards import outputs, store
from syllabary.shards.errors import InputError, NotFoundError


@pytest.fixture
def box(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package that ships two things."""
    for name in ("voice", "accent"):
        (tmp_path / "box" / name).mkdir(parents=True)
        (tmp_path / "box" / name / "config.json").write_text('{"kind": "tokenizer"}\n')
    (tmp_path / "box" / "README.md").write_text("no builtin")
    monkeypatch.setattr(store, "BUILTIN_FOLDER", tmp_path / "box")
    return tmp_path / "box"


@pytest.mark.parametrize("spelling", ["builtin:voice", "builtin:voice/", "builtin://voice", "builtin:/voice"])
def test_a_builtin_is_read_like_any_uri_and_keeps_its_name(box: Path, spelling: str) -> None:
    assert store.normalize(spelling) == "builtin:voice" and not store.is_remote(spelling)
    target = store.join(spelling, "config.json")
    assert store.builtin_name(target) == store.builtin_name(spelling) == "voice"
    assert store.builtin_name("voice") is store.builtin_name("s3://b/voice") is None
    assert target == "builtin:voice/config.json"
    assert store.read_json(target) == {"kind": "tokenizer"}
    assert store.exists(spelling) and store.size_bytes(target) == 22
    assert [(e.uri, e.name) for e in store.list_files(spelling)] == [(target, "config.json")]
    assert store.fetch_to(target, Path("elsewhere")) == box / "voice" / "config.json"
    with pytest.raises(NotFoundError, match="nothing there: 'builtin:voice/absent'"):
        store.read_bytes(store.join(spelling, "absent"))


@pytest.mark.parametrize("name", ["vioce", "", "..", "../box/voice", "README.md", "."])
def test_an_unknown_builtin_lists_what_there_is(box: Path, name: str) -> None:
    with pytest.raises(InputError, match=r"unknown builtin: 'builtin:.*'; expected builtin:accent, builtin:voice; or "):
        store.read_bytes(f"builtin:{name}/config.json")


def test_without_any_it_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "BUILTIN_FOLDER", tmp_path)
    with pytest.raises(InputError, match="expected none: no builtin ships with this version"):
        store.exists("builtin:voice")


def test_nothing_is_written_into_the_package(box: Path) -> None:
    before = sorted(box.rglob("*"))
    for write in (
        lambda: store.publish_bytes("builtin:voice/config.json", b"{}"),
        lambda: store.delete("builtin:voice"),
        lambda: outputs.claim("builtin:voice", "tokenizer", inputs={}, config={}),
        lambda: store.publishing("builtin:voice/x").__enter__(),
    ):
        with pytest.raises(InputError, match="a builtin is read only: 'builtin:voice"):
            write()
    with pytest.raises(InputError, match="unsafe path"):
        store.read_bytes("builtin:voice/../../secret")
    assert store.sweep_temporary("builtin:voice") == 0
    assert sorted(box.rglob("*")) == before and (box / "voice" / "config.json").read_text() == '{"kind": "tokenizer"}\n'
