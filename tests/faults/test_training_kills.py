"""Real Ray Train jobs whose ranks, or whose whole driver, are killed: the finished weights are those of a quiet run."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from syllabary.shards import store
from syllabary.shards.store import pretty_json
from syllabary.workers.control.jobs import RESULT_PREFIX
from tests.helpers.training_testing import (
    Gang,
    prepare_encoder,
    train_here,
    trained,
    training_recipe,
    write_training_shards,
)

NUM_STEPS = 40
# Each starts Ray several times, which takes minutes on a busy machine.
pytestmark = [pytest.mark.long, pytest.mark.timeout(1800)]


@pytest.fixture(scope="module")
def quiet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    """Shards, and the sha256 of the weights that an undisturbed run of two ranks ends with."""
    folder = tmp_path_factory.mktemp("quiet")
    shards = write_training_shards(str(folder / "shards"))
    with Gang(2) as gang:
        gang.run(train_here, "pretrain", _recipe(), str(folder / "out"), shards)
    yield shards, trained(str(folder / "out")).weights


def _recipe() -> Any:
    asked = {
        "num_steps": NUM_STEPS, "num_workers": 2, "checkpoint_every": 4, "device": "cpu", "collective_timeout_s": 30,
    }  # fmt: skip
    changes = {f"{stage}__{key}": value for stage in ("pretrain", "codec") for key, value in asked.items()}
    return training_recipe(**changes, codec__discriminator_start_step=8)


class Training:
    """The job `pretrain`, or with ``encoder`` `train-codec`, in a session of its own, with its progress."""

    def __init__(self, out: str, shards: str, config: Path, encoder: str | None = None) -> None:
        config.write_bytes(pretty_json({k: v for k, v in _recipe().model_dump(mode="json").items() if k != "name"}))
        job = {"shards": shards, "out": out, "config": str(config)} | ({"encoder": encoder} if encoder else {})
        verb = "train-codec" if encoder else "pretrain"
        self.log = config.with_suffix(".log")
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "syllabary.workers", verb, json.dumps(job)], stdout=subprocess.PIPE, stderr=log,
                start_new_session=True, env=os.environ | {"OMP_NUM_THREADS": "1"},
            )  # fmt: skip

    def wait_for(self, seen: Callable[[str], bool], limit_s: float = 900) -> None:
        """Until a progress line satisfies ``seen``."""
        deadline = time.monotonic() + limit_s
        while not any(map(seen, self.log.read_text().splitlines())):
            assert self.process.poll() is None, self.log.read_text()[-3000:]
            assert time.monotonic() < deadline, self.log.read_text()[-3000:]
            time.sleep(0.05)

    def ranks(self) -> list[psutil.Process]:
        """The processes of the ranks."""
        children = psutil.Process(self.process.pid).children(recursive=True)
        return [child for child in children if "RayTrainWorker" in _title(child)]

    def result(self) -> dict[str, Any]:
        """Its result line, after it ended well."""
        out, _ = self.process.communicate(timeout=900)
        assert self.process.returncode == 0, self.log.read_text()[-3000:]
        return dict(json.loads(out.decode().removeprefix(RESULT_PREFIX)))

    def kill(self) -> None:
        """SIGKILL the driver. Its ranks must end by themselves; Ray's idle agents take longer and are ended here."""
        started = psutil.Process(self.process.pid).children(recursive=True)
        os.kill(self.process.pid, signal.SIGKILL)
        self.process.communicate()
        _, alive = psutil.wait_procs(started, timeout=10)
        assert not [child for child in alive if "RayTrainWorker" in _title(child)]
        for child in alive:
            child.kill()


def _title(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def _at_step(step: int, stage: str = "pretrain") -> Callable[[str], bool]:
    return lambda line: line.startswith(f"{stage}  {step}/{NUM_STEPS} steps")


def test_a_killed_rank_is_restarted_and_the_weights_are_the_same(quiet, tmp_path):
    shards, weights = quiet
    training = Training(str(tmp_path / "out"), shards, tmp_path / "recipe.yaml")
    training.wait_for(_at_step(10))
    training.ranks()[1].kill()
    result = training.result()
    assert "restarting from step" in training.log.read_text()
    assert result["steps"] == NUM_STEPS
    assert trained(str(tmp_path / "out")).weights == weights


@pytest.mark.slow
def test_a_killed_job_on_s3_goes_on_and_a_finished_one_does_nothing(quiet, tmp_path, s3):
    shards, weights = quiet
    bucket = s3.bucket()
    for entry in store.list_files(shards):
        store.publish_bytes(store.join(bucket, "shards", entry.name), store.read_bytes(entry.uri))
    out, config = f"{bucket}/run", tmp_path / "recipe.yaml"
    first = Training(out, f"{bucket}/shards", config)
    first.wait_for(_at_step(13))
    first.kill()
    assert store.list_files(out, suffix="done.json") == []
    second = Training(out, f"{bucket}/shards", config)
    result = second.result()
    assert "resumes from the checkpoint of step" in second.log.read_text()
    assert trained(out).weights == weights
    before = [(f.name, f.size_bytes) for f in store.list_files(out)]
    third = Training(out, f"{bucket}/shards", config)
    assert third.result() == result
    assert "already complete" in third.log.read_text()
    assert [(f.name, f.size_bytes) for f in store.list_files(out)] == before


@pytest.mark.slow
def test_a_hung_rank_ends_in_a_timeout_and_the_run_goes_on(quiet, tmp_path):
    shards, weights = quiet
    training = Training(str(tmp_path / "out"), shards, tmp_path / "recipe.yaml")
    training.wait_for(_at_step(10))
    hung = training.ranks()[1]
    hung.suspend()
    training.result()
    assert "a rank failed" in training.log.read_text()
    assert trained(str(tmp_path / "out")).weights == weights


@pytest.mark.slow
def test_a_killed_rank_and_then_a_killed_job_of_stage_2_end_with_the_same_weights(quiet, tmp_path):
    shards, _ = quiet
    encoder = prepare_encoder(tmp_path / "encoder", _recipe())
    with Gang(2) as gang:
        gang.run(train_here, "codec", _recipe(), str(tmp_path / "quiet"), shards, encoder)
    out, config = str(tmp_path / "out"), tmp_path / "recipe.yaml"
    first = Training(out, shards, config, encoder)
    first.wait_for(_at_step(6, "train-codec"))  # before the discriminators start
    first.ranks()[0].kill()
    first.wait_for(_at_step(18, "train-codec"))  # and after
    first.kill()
    second = Training(out, shards, config, encoder)
    assert second.result()["steps"] == NUM_STEPS
    assert "restarting from step" in second.log.read_text()
    assert "resumes from the checkpoint of step" in second.log.read_text()
    assert trained(out).weights == trained(str(tmp_path / "quiet")).weights
