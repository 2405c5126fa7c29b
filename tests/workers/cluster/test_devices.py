"""Which device a job gets: decided once, by the driver, for all its processes, and never by what one of them sees."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterator

import pytest
import torch

from syllabary.shards.errors import ConfigError
from syllabary.workers.archive import encode_shard, tokenize_shards
from syllabary.workers.cluster.devices import MAX_GPUS_VARIABLE, ClusterGpus, assigned_device, choose_device
from syllabary.workers.control.jobs import PretrainJob, TokenizeJob
from syllabary.workers.evaluation import cost as codec_cost
from syllabary.workers.recipes.recipe import TrainConfig
from syllabary.workers.tokenizer.tokenizer import Tokenizer
from syllabary.workers.training import rank as train_rank
from syllabary.workers.training.driver import RankJob, device_of_all_ranks
from tests.helpers.training_testing import training_recipe, write_training_shards

HERE = ClusterGpus
GROWING = ClusterGpus(0, 8, is_embedded=False)
UNDECLARED = ClusterGpus(0, None, is_embedded=False)


@pytest.mark.parametrize(
    ("asked", "gpus", "device", "why"),
    [
        ("auto", HERE(0), "cpu", "device auto: the CPU, for there is no GPU"),
        ("auto", HERE(1), "cpu", "1 GPU cannot be shared by 2 processes; set num_workers to 1 or fewer to use them"),
        ("auto", HERE(2), "cuda", "device auto: 2 GPUs of 2"),
        ("auto", HERE(8), "cuda", "device auto: 2 GPUs of 8"),
        ("cpu", HERE(8), "cpu", "device cpu, as asked"),
        ("cuda", HERE(2), "cuda", "device cuda: 2 GPUs of 2"),
        ("auto", GROWING, "cuda", "2 GPUs, for which the cluster grows: it has 0 now and can have 8"),
        ("cuda", GROWING, "cuda", "2 GPUs, for which the cluster grows: it has 0 now and can have 8"),
        (
            "auto",
            UNDECLARED,
            "cpu",
            "no GPU now. warning: if it can grow by some, set SYLLABARY_MAX_GPUS",
        ),
        ("auto", ClusterGpus(0, 0, is_embedded=False), "cpu", "there is no GPU"),
        ("cuda", UNDECLARED, "cuda", "device cuda: waits for 2 GPUs; the cluster has 0 now"),
        ("auto", ClusterGpus(4, None, is_embedded=False), "cuda", "2 GPUs of 4"),
    ],
)
def test_the_device_and_why(asked, gpus, device, why, capfd) -> None:
    assert device_of_all_ranks("pretrain", TrainConfig(device=asked, num_workers=2), gpus) == device
    (line,) = capfd.readouterr().err.splitlines()
    assert line.endswith(why) or why in line


@pytest.mark.parametrize(
    ("gpus", "line"),
    [
        (HERE(0), "device cuda wants 2 GPUs, one per process, and this machine has 0; --set STAGE.device=cpu"),
        (HERE(1), "device cuda wants 2 GPUs, one per process, and this machine has 1; lower num_workers"),
        (ClusterGpus(0, 1, is_embedded=False), "the cluster, however it grows, has 1; lower num_workers"),
    ],
)
def test_gpus_that_cannot_come_are_refused_in_one_line(gpus, line) -> None:
    with pytest.raises(ConfigError) as refused:
        choose_device("cuda", 2, gpus)
    assert line in str(refused.value) and "\n" not in str(refused.value)


@pytest.mark.parametrize("text", ["many", "-1", "²"])
def test_a_declaration_that_is_no_number_is_refused(monkeypatch, text) -> None:
    monkeypatch.setattr("ray.cluster_resources", lambda: {"CPU": 4.0})
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    monkeypatch.setenv(MAX_GPUS_VARIABLE, text)
    with pytest.raises(ConfigError, match=r"SYLLABARY_MAX_GPUS.*expected a whole number"):
        ClusterGpus.of_ray()


def test_a_declaration_counts_on_a_cluster_and_not_for_this_machine_alone(monkeypatch) -> None:
    monkeypatch.setattr("ray.cluster_resources", lambda: {"CPU": 4.0, "GPU": 1.0})
    monkeypatch.setenv(MAX_GPUS_VARIABLE, "8")
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    assert ClusterGpus.of_ray() == ClusterGpus(1)
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    assert ClusterGpus.of_ray() == ClusterGpus(1, 8, is_embedded=False)


def test_a_measurement_on_the_cpu_names_no_gpu(monkeypatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda *_: "a GPU that nothing ran on")
    assert codec_cost.machine().accelerator is None


@pytest.mark.parametrize(
    ("is_running", "gpus", "device"), [(True, [3], "cuda"), (True, [], "cpu"), (False, [3], "cpu")]
)
def test_what_ray_assigned_decides_and_not_what_can_be_seen(monkeypatch, is_running, gpus, device) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr("ray.is_initialized", lambda: is_running)
    monkeypatch.setattr("ray.get_gpu_ids", lambda: gpus)
    assert assigned_device() == device


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_an_actor_that_encodes_takes_the_device_that_ray_gave_it(monkeypatch, device) -> None:
    loaded: list[dict[str, object]] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(encode_shard, "assigned_device", lambda: device)
    monkeypatch.setattr(Tokenizer, "load", lambda uri, **how: loaded.append(how))
    encode_shard.ShardEncoder("shards", "tokenizer", "archive", 0.0)
    assert loaded == [{"decoder": False, "device": device}]


@pytest.mark.parametrize(
    ("gpus", "asked", "expected"),
    [
        (ClusterGpus(0), None, (4, 0)),  # an actor a core
        (ClusterGpus(2), None, (2, 1)),  # an actor a GPU, each with its own
        (ClusterGpus(0, 3, is_embedded=False), None, (3, 1)),  # those that the cluster can grow to
        (ClusterGpus(2), 1, (1, 1)),
    ],
)
def test_tokenizing_asks_ray_for_a_gpu_for_each_actor_where_there_are_some(
    monkeypatch, gpus, asked, expected, capfd
) -> None:
    placed: list[tuple[int, int]] = []

    def through(actor: type, arguments: object, rows: object, num_workers: int, *, num_gpus: int) -> Iterator[object]:
        placed.append((num_workers, num_gpus))
        return iter(())

    monkeypatch.setattr(tokenize_shards, "ray_session", lambda **_: contextlib.nullcontext())
    monkeypatch.setattr(ClusterGpus, "of_ray", lambda: gpus)
    monkeypatch.setattr("ray.cluster_resources", lambda: {"CPU": 4.0})
    monkeypatch.setattr(tokenize_shards, "through_actors", through)
    monkeypatch.setattr(tokenize_shards, "Meter", lambda *_: None)
    job = TokenizeJob(shards="shards", tokenizer="tokenizer", archive="archive", num_workers=asked)
    assert list(tokenize_shards._encoded_shards(job, [f"train-{k:06}" for k in range(9)])) == []
    assert placed == [expected]
    assert "device auto: " in capfd.readouterr().err


@pytest.mark.parametrize(("given", "taken"), [("cpu", "cpu"), ("cuda", "cuda"), ("auto", "auto")])
def test_a_rank_trains_on_what_the_driver_chose_for_all(monkeypatch, given, taken) -> None:
    """A rank sees the machine's GPUs whether Ray gave it one or not, so the recipe's "auto" must not reach it."""
    asked: list[str] = []

    def select(train: TrainConfig) -> torch.device:
        asked.append(train.device)
        raise ConfigError("far enough")

    monkeypatch.setattr(train_rank, "select_device", select)
    recipe = training_recipe(pretrain__device="auto")
    with pytest.raises(ConfigError, match="far enough"):
        train_rank.run_rank(RankJob("out", "shards", recipe, None, device=given), recipe.pretrain, None)
    assert asked == [taken]


_ACTORS = """
import functools, torch
from syllabary.workers.cluster import session as ray_session

torch.cuda.is_available = lambda: True  # every process sees a GPU
ray_session._start_embedded = functools.partial(ray_session._start_embedded, num_gpus=1)
with ray_session.ray_session(num_cpus=2):
    import ray
    from syllabary.workers.cluster.devices import ClusterGpus, assigned_device
    ask = ray.remote(assigned_device)
    print(ClusterGpus.of_ray().present, ray.get(ask.options(num_gpus=1).remote()), ray.get(ask.remote()))
"""


@pytest.mark.long
def test_a_process_uses_the_gpu_that_ray_gave_it_and_no_other() -> None:
    """Ray is told of a GPU that is not there: which process it gives it to is all that is asked."""
    command = [sys.executable, "-c", _ACTORS]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, check=False)
    assert done.stdout.split() == ["1", "cuda", "cpu"], done.stderr[-2000:]


@pytest.mark.long
@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_training_on_a_gpu_that_is_not_there_ends_at_once_in_one_line(tmp_path) -> None:
    shards = write_training_shards(str(tmp_path / "shards"))
    job = PretrainJob(shards=shards, out=str(tmp_path / "out"), overrides=("pretrain.device=cuda",))
    command = [sys.executable, "-m", "syllabary.workers", "pretrain", job.model_dump_json()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 2
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert errors == [
        "error: device cuda wants 2 GPUs, one per process, and this machine has 0; "
        "--set STAGE.device=cpu, or run it where there are GPUs"
    ]
