"""The specification's own readers decode an archive, and the bytes of one part are what they were."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pytest

import shards
from tests.archive_corpus import make_archive

FORMAT_MD = (Path(shards.__file__).parent / "FORMAT.md").read_text()
PYARROW_OF_THE_BYTES = "26.0.1"
PART_SHA256 = "c0d026cce781b171b5059e90354c6b3acd6aac3a798df2a9a21df0560c4ce425"


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, np.ndarray]]:
    folder = tmp_path_factory.mktemp("golden")
    return folder, make_archive(str(folder), num_utterances=6)


def fenced(language: str) -> str:
    (block,) = re.findall(rf"```{language}\n(.*?)```", FORMAT_MD.partition("## Token archive")[2], re.DOTALL)
    return block


def test_the_sql_of_the_specification_decodes_level_indices(archive, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, truth = archive
    monkeypatch.chdir(folder)
    for utterance_id in list(truth)[::5]:
        rows = duckdb.execute(fenced("sql"), {"id": utterance_id}).fetchall()
        assert [(frame, dim) for frame, dim, _ in rows] == list(np.ndindex(*truth[utterance_id].shape))
        assert [level for _, _, level in rows] == truth[utterance_id].reshape(-1).tolist()


def test_the_python_of_the_specification_decodes_level_indices_in_thirty_lines(archive) -> None:
    folder, truth = archive
    source = fenced("python")
    assert len(source.splitlines()) <= 30 and "shards" not in source
    scope: dict = {}
    exec(source, scope)
    for part in sorted((folder / "parts").iterdir()):
        found = [u for u in truth if _holds(part, u)]
        assert found
        for name in found:
            assert scope["level_indices"](part, name) == truth[name].tolist()


def _holds(part: Path, utterance_id: str) -> bool:
    import pyarrow.parquet as pq

    return utterance_id in pq.read_table(part, columns=["utterance_id"])["utterance_id"].to_pylist()


@pytest.mark.skipif(pa.__version__ != PYARROW_OF_THE_BYTES, reason="the writer's bytes are those of one pyarrow")
def test_the_bytes_of_a_part_are_what_they_were(archive) -> None:
    part = (archive[0] / "parts/train-000000.parquet").read_bytes()
    assert hashlib.sha256(part).hexdigest() == PART_SHA256
