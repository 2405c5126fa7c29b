"""A joined recording whose rows come in any order: time decides where they sound and how they are told."""

from __future__ import annotations

import io
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest
import soundfile

from syllabary.shards.archive.packing import Packing
from syllabary.shards.errors import InputError
from syllabary.workers.archive.clips import Restorer
from syllabary.workers.control.jobs import RestoreJob

RATE = 100
PACKING = Packing(2, 4, 2)
# (recording, start, samples, level): utterances of constant sound, out of order, with a gap and an overlap.
ROWS = [("r", 70, 30, 0.75), ("q", 10, 5, 0.1), ("r", 0, 20, 0.25), ("r", 40, 40, 0.5)]


class Levels:
    """A tokenizer that decodes an utterance to the constant that its first token stands for, in hundredths."""

    packing, comment = PACKING, "decoded by syllabary from tokens of a test"

    def decode(self, tokens: np.ndarray, num_samples: int, sample_rate: int, packing: Packing) -> np.ndarray:
        assert packing == PACKING
        return np.full(num_samples, float(tokens[0, 0]) / 100, np.float32)


def restorer(out: Path, rows: list[tuple[str, int, int, float]], **values: object) -> Restorer:
    table = pa.table(
        {
            "utterance_id": [f"{name}@{start}" for name, start, _, _ in rows],
            "recording_id": [name for name, *_ in rows],
            "speaker": ["s"] * len(rows),
            "start_sample": [start for _, start, _, _ in rows],
            "num_samples": [length for _, _, length, _ in rows],
            "sample_rate": pa.array([RATE] * len(rows), pa.int32()),
            "tokens": pa.array([[round(100 * level)] for *_, level in rows], pa.list_(pa.uint16())),
        }
    )
    reader = SimpleNamespace(
        format=SimpleNamespace(packing=PACKING), take=lambda *_: iter([table.slice(0, 2), table.slice(2)])
    )
    job = RestoreJob(archive="a", tokenizer="t", out=str(out), audio_format="wav", **values)
    return Restorer(job, reader, Levels(), frozenset())


def sound(out: Path, name: str) -> np.ndarray:
    samples, _ = soundfile.read(io.BytesIO((out / "audio" / f"{name}.wav").read_bytes()))
    return samples


def test_joined_utterances_lie_in_their_time_and_a_later_one_covers_an_earlier(tmp_path: Path) -> None:
    manifest = restorer(tmp_path, ROWS, join=True).restore({"s": []}, Counter({"r": 3, "q": 1}))
    expected = np.zeros(100)
    expected[0:20], expected[40:70], expected[70:100] = 0.25, 0.5, 0.75
    np.testing.assert_allclose(sound(tmp_path, "r"), expected, atol=1e-4)
    told = [(row["start_sample"], row["offset_in_file"]) for row in manifest if row["recording_id"] == "r"]
    assert told == [(0, 0), (40, 40), (70, 70)]
    assert len(sound(tmp_path, "q")) == 15 and not sound(tmp_path, "q")[:10].any()


def test_single_utterances_are_told_in_the_archives_order(tmp_path: Path) -> None:
    manifest = restorer(tmp_path, ROWS).restore({"s": []}, Counter({"r": 3, "q": 1}))
    assert [row["utterance_id"] for row in manifest] == ["r@70", "q@10", "r@0", "r@40"]
    assert {row["offset_in_file"] for row in manifest} == {0}
    with soundfile.SoundFile(tmp_path / "audio/r@40.wav") as file:
        assert file.comment == Levels.comment, "so that it is taken for no recording"
    np.testing.assert_allclose(sound(tmp_path, "r@40"), np.full(40, 0.5), atol=1e-4)


def test_utterances_of_two_rates_cannot_be_joined(tmp_path: Path) -> None:
    wanted = restorer(tmp_path, ROWS, join=True)
    table = pa.concat_tables(wanted.reader.take())
    rates = table.set_column(5, table.schema.field("sample_rate"), pa.array([100, 100, 50, 100], pa.int32()))
    wanted.reader.take = lambda *_: iter([rates])
    with pytest.raises(InputError, match="several rates"):
        wanted.restore({"s": []}, Counter({"r": 3, "q": 1}))
