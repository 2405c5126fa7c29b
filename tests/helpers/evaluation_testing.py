"""Held-out shards of synthesized voices and an evaluation without Ray, for the tests of the report card."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from syllabary.shards import audio, dataset, outputs, store
from syllabary.shards.dataset import ShardWriter
from syllabary.workers.control.jobs import EvaluateJob
from syllabary.workers.evaluation import evaluate as evaluate_module
from syllabary.workers.evaluation.evaluate import Evaluation, evaluate
from syllabary.workers.evaluation.utterance import Item, UtteranceEvaluator
from tests.conftest import voiced
from tests.helpers.archive_corpus import make_tokenizer

RATE = 16_000
CHEAP = ("stoi", "estoi", "mel_distance")


def make_speech_shards(uri: str, *, num_speakers: int = 3, num_each: int = 2, seconds: float = 1.6) -> str:
    """Shards ``valid-000000`` and ``test-000000`` of voices; the same arguments give the same bytes."""
    outputs.claim(uri, "shards", inputs={"source": "synthesized"}, config={"split_by": "speaker"})
    for place, split in enumerate(("valid", "test")):
        waves = {
            (f"{100 + s}", number): voiced(np.random.default_rng(100 * s + number), seconds + 0.2 * number, 90 + 25 * s)
            for s in range(place, num_speakers, 2)
            for number in range(num_each)
        }
        write_shard(uri, f"{split}-000000", waves)
    return uri


def write_shard(uri: str, shard: str, waves: Mapping[tuple[str, int], np.ndarray]) -> None:
    """One shard of the waves [num_samples] by (speaker, number)."""
    rows: list[dict[str, Any]] = []
    with store.publishing(dataset.shard_uri(uri, shard)) as path, ShardWriter(path) as writer:
        for place, ((speaker, number), wave) in enumerate(waves.items()):
            flac, name = audio.encode_flac(wave.astype(np.float32), RATE), f"{speaker}/book/chapter_{number}"
            offset = writer.add(f"{place:06}", flac, {"utterance_id": name})
            rows.append(
                {
                    "utterance_id": name, "recording_id": name, "speaker": speaker, "split": shard.partition("-")[0],
                    "shard": shard, "key": f"{place:06}", "offset": offset, "size_bytes": len(flac),
                    "sample_rate": RATE, "num_samples": len(wave), "start_sample": 0,
                    "sha256": hashlib.sha256(flac).hexdigest(), "source": f"{name}.flac", "language": "en",
                    "snr_db": None,
                }
            )  # fmt: skip
    dataset.publish_index(uri, shard, rows)


def make_job(folder: Path, **changes: Any) -> EvaluateJob:
    """A job on shards and a random tokenizer below ``folder``, of cheap metrics only; both are made when missing."""
    shards, tokenizer = folder / "shards", folder / "tokenizer"
    if not (shards / "output.json").exists():
        make_speech_shards(str(shards))
    if not tokenizer.exists():
        make_tokenizer(str(tokenizer))
    values: dict[str, Any] = {"tokenizer": str(tokenizer), "shards": str(shards), "out": str(folder / "report")}
    values |= {"metrics": CHEAP, "num_probes": 1, "num_samples": 2, "measure_cost": False, "num_workers": 1}
    return EvaluateJob.model_validate(values | changes)


def scored_here(evaluation: Evaluation, todo: list[Item]) -> Iterator[dict[str, Any]]:
    """What the actors do, in this process."""
    job = evaluation.job.model_dump_json()
    evaluator = UtteranceEvaluator(job, evaluation.metrics, evaluation.title)
    for item in todo:
        yield evaluator.publish(item.to_json())


def evaluate_here(job: EvaluateJob) -> dict[str, Any]:
    """``evaluate`` without Ray."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(evaluate_module, "_scored", scored_here)
        return evaluate(job)
