"""Which device a job gets: decided once, by the driver, for all its processes, and never by what one of them sees."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from syllabary.shards.errors import ConfigError
from syllabary.workers.cluster.devices import MAX_GPUS_VARIABLE, ClusterGpus, choose_device
from syllabary.workers.control.jobs import PretrainJob
from syllabary.workers.evaluation import cost as codec_cost
from syllabary.workers.recipes.recipe import TrainConfig
from syllabary.workers.training.driver import device_of_all_ranks
from tests.helpers.training_testing import write_training_shards

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
