"""Names that look the same and are not, and the other way round."""

from __future__ import annotations

import unicodedata
from pathlib import Path

import pytest

from syllabary.shards import store
from syllabary.shards.dataset import read_index
from syllabary.shards.errors import InputError
from syllabary.shards.ingest.recordings import unescape
from syllabary.shards.ingest.splits import percentile
from syllabary.workers.archive.restore import require_distinct_names
from tests.helpers.ingest_testing import config, shard, tone, write_audio

NAMES = ["Zoë", "naïve", "Ångström", "Đặng", "한국"]


@pytest.mark.parametrize("name", NAMES)
def test_a_speaker_is_one_in_whatever_normal_form_his_folder_is_named(tmp_path: Path, name: str) -> None:
    forms = {form: unicodedata.normalize(form, name) for form in ("NFC", "NFD")}
    assert len(set(forms.values())) == 2
    for seed, own in enumerate(forms.values()):
        write_audio(tmp_path / "in" / own / f"{seed}.wav", tone(1, seed=seed))
    shard(tmp_path / "in", tmp_path / "out", config(coverage="all", valid_percent=30, test_percent=30))
    rows = read_index(str(tmp_path / "out")).to_pylist()
    assert {row["speaker"] for row in rows} == {forms["NFC"]}
    assert len({row["split"] for row in rows}) == 1
    assert {unescape(row["source"]).partition("/")[0] for row in rows} == set(forms.values()), "ids stay reversible"


def test_two_thousand_pairs_fall_into_one_split_each() -> None:
    for number in range(2000):
        name = f"Renée {number}"
        assert percentile(unicodedata.normalize("NFC", name)) == percentile(unicodedata.normalize("NFD", name))


def test_names_that_differ_by_case_are_two_recordings(tmp_path: Path) -> None:
    write_audio(tmp_path / "in" / "A.wav", tone(1))
    write_audio(tmp_path / "in" / "a.WAV", tone(1, seed=1), format="WAV")
    shard(tmp_path / "in", tmp_path / "out", config(coverage="all"))
    assert {row["recording_id"] for row in read_index(str(tmp_path / "out")).to_pylist()} == {"A.wav", "a.WAV"}


TWINS = [("s/A.wav", "s/a.WAV"), ("s/Zoë", "s/Zoe\u0308"), ("STRASSE", "straße")]


@pytest.mark.parametrize("names", TWINS)
def test_restoring_refuses_both_where_the_file_system_folds_names(
    tmp_path: Path, names: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert store.folded(names[0]) == store.folded(names[1])
    require_distinct_names(str(tmp_path / "out"), names)  # this file system tells them apart
    monkeypatch.setattr(Path, "exists", lambda path: any(store.folded(p.name) == store.folded(path.name)
                                                         for p in path.parent.iterdir()))  # fmt: skip
    with pytest.raises(InputError, match=r"two recordings would be one file here") as error:
        require_distinct_names(str(tmp_path / "out"), [*names, "other"])
    assert all(name in str(error.value) for name in names)
    require_distinct_names("s3://bucket/out", names)
    require_distinct_names(str(tmp_path / "out"), [names[0], "other"])


def test_trying_leaves_nothing_behind(tmp_path: Path) -> None:
    assert store.folds_names(str(tmp_path), "A", "a") is False
    assert not list(tmp_path.iterdir())
