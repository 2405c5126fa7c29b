"""The specification's own readers decode an archive, and the bytes of one part are what they were."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pytest
import torch

from syllabary import shards
from syllabary.workers.archive.pack import pack
from syllabary.workers.control.jobs import PackJob
from tests.helpers.archive_corpus import make_archive

FORMAT_MD = (Path(shards.__file__).parent / "FORMAT.md").read_text()
PYARROW_OF_THE_BYTES = "26.0.1"
PART_SHA256 = "f191ff4565a8b79e19449aefc3a27fce5fffd283c4c8ba1b505ac59895b5c76d"


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, np.ndarray]]:
    folder = tmp_path_factory.mktemp("golden")
    return folder, make_archive(str(folder), num_utterances=6)


def fenced(language: str, section: str = "Token archive") -> str:
    (text,) = re.findall(rf"^## {section}\n(.*?)(?:^## |\Z)", FORMAT_MD, re.DOTALL | re.MULTILINE)
    (block,) = re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)
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
    assert source.strip() in (Path(shards.__file__).parent / "archive/read_tokens.py").read_text()
    scope: dict = {}
    exec(source, scope)
    for part in sorted((folder / "parts").iterdir()):
        found = [u for u in truth if _holds(part, u)]
        assert found
        for name in found:
            assert scope["level_indices"](part, name) == truth[name].tolist()


def test_the_batches_of_the_specification_train_a_decoder_only_model(archive, tmp_path: Path) -> None:
    pack(PackJob(archive=str(archive[0]), out=str(tmp_path), block_size=96, document="utterance"))
    scope: dict = {}
    exec(fenced("python", "Blocks"), scope)
    columns, attend, possible = next(iter(scope["batches"](tmp_path / "train/part-00000.parquet", 4)))
    inputs, targets, place = (columns[name] for name in ("input_ids", "labels", "place"))
    told = targets >= 0
    assert possible.gather(-1, targets.clamp(min=0)[..., None])[..., 0][told].all(), "whatever follows is possible"
    assert set(possible.sum(-1).unique().tolist()) == {16, 16_384, 16_386}
    separator = int(inputs.max())
    begun = (inputs == separator).cumsum(1)  # documents before and at each place; attention is within one, backwards
    same = begun[:, :, None] == begun[:, None, :]
    assert begun.max() > 1 and torch.equal(attend[told], same.tril()[told])

    torch.manual_seed(0)
    width, vocabulary = 16, possible.shape[-1]
    tokens, places = torch.nn.Embedding(vocabulary, width), torch.nn.Embedding(19, width)
    layer = torch.nn.Linear(width, 3 * width)
    optimizer = torch.optim.Adam([*tokens.parameters(), *places.parameters(), *layer.parameters()], lr=0.1)
    losses = []
    for _ in range(12):
        hidden = tokens(inputs) + places(place)
        query, key, value = layer(hidden).chunk(3, dim=-1)
        mixed = hidden + torch.nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=attend)
        logits = (mixed @ tokens.weight.T).masked_fill(~possible, -torch.inf)
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=-100)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 2 and losses[-1] < 0.5 * float(possible.sum(-1)[told].log().mean())


def _holds(part: Path, utterance_id: str) -> bool:
    import pyarrow.parquet as pq

    return utterance_id in pq.read_table(part, columns=["utterance_id"])["utterance_id"].to_pylist()


@pytest.mark.skipif(pa.__version__ != PYARROW_OF_THE_BYTES, reason="the writer's bytes are those of one pyarrow")
def test_the_bytes_of_a_part_are_what_they_were(archive) -> None:
    part = (archive[0] / "parts/train-000000.parquet").read_bytes()
    assert hashlib.sha256(part).hexdigest() == PART_SHA256
