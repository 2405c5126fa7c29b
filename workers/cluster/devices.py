"""Choose the GPUs of a job: those that its Ray has, those that it can grow to, and what Ray gave to a process.

A cluster whose GPU machines start on demand has none at first, and Ray does not report what an autoscaler may add: the
environment of its head does (``SYLLABARY_MAX_GPUS``; infra/kubernetes sets it). Free of torch.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Literal

from syllabary.shards.errors import ConfigError
from syllabary.shards.words import counted

MAX_GPUS_VARIABLE = "SYLLABARY_MAX_GPUS"
Device = Literal["cpu", "cuda"]


@dataclass(frozen=True)
class ClusterGpus:
    """GPUs of the Ray that this process is connected to.

    Attributes:
        present: in it now.
        declared: that it can grow to, as its head's environment says; None where that says nothing.
        is_embedded: whether it is this machine alone, for the length of the job.
    """

    present: int
    declared: int | None = None
    is_embedded: bool = True

    @property
    def at_most(self) -> int:
        """As many as there are or may be."""
        return max(self.present, self.declared or 0)

    @classmethod
    def of_ray(cls) -> ClusterGpus:
        """Those of the Ray session. Raises ConfigError: the environment declares no number."""
        import ray

        present = int(ray.cluster_resources().get("GPU", 0))
        if not os.environ.get("RAY_ADDRESS"):
            return cls(present)
        return cls(present, _declared(), is_embedded=False)


def _declared() -> int | None:
    text = os.environ.get(MAX_GPUS_VARIABLE)
    if not text:
        return None
    if not text.isascii() or not text.isdigit():
        raise ConfigError(MAX_GPUS_VARIABLE, value=text, expected="a whole number of GPUs, 0 or more")
    return int(text)


@dataclass(frozen=True)
class Choice:
    """A job's device, and the line that says why."""

    device: Device
    why: str


def choose_device(asked: Literal["cpu", "cuda", "auto"], wanted: int, gpus: ClusterGpus) -> Choice:
    """The device of a job of ``wanted`` processes with a GPU each; one for all of them.

    Raises:
        ConfigError: GPUs are asked for that are not there and cannot come.
    """
    if asked == "cpu":
        return Choice("cpu", "device cpu, as asked")
    if gpus.at_most >= wanted:
        return Choice("cuda", f"device {asked}: {counted(wanted, 'GPU')}{_to_come(wanted, gpus)}")
    if asked == "cuda":
        return _asked_for(wanted, gpus)
    return Choice("cpu", f"device auto: the CPU, for {_too_few(wanted, gpus)}")


def _asked_for(wanted: int, gpus: ClusterGpus) -> Choice:
    if not gpus.is_embedded and gpus.declared is None:  # an autoscaler may bring them; who asks for them knows
        return Choice("cuda", f"device cuda: waits for {counted(wanted, 'GPU')}; the cluster has {gpus.present} now")
    where = "this machine" if gpus.is_embedded else "the cluster, however it grows,"
    raise ConfigError(
        f"device cuda wants {counted(wanted, 'GPU')}, one per process, and {where} has {gpus.at_most}",
        fix="lower num_workers" if gpus.at_most else "--set STAGE.device=cpu, or run it where there are GPUs",
    )


def _to_come(wanted: int, gpus: ClusterGpus) -> str:
    if gpus.present >= wanted:
        return f" of {gpus.present}"
    return f", for which the cluster grows: it has {gpus.present} now and can have {gpus.at_most}"


def _too_few(wanted: int, gpus: ClusterGpus) -> str:
    if gpus.at_most:
        more = f"set num_workers to {gpus.at_most} or fewer to use them"
        return f"{counted(gpus.at_most, 'GPU')} cannot be shared by {wanted} processes; {more}"
    if gpus.is_embedded or gpus.declared == 0:
        return "there is no GPU"
    return f"the cluster has no GPU now. warning: if it can grow by some, set {MAX_GPUS_VARIABLE} on its head"


def assigned_device() -> Device:
    """What Ray gave this process: a GPU where it assigned one, else the CPU, whatever GPUs the process can see.

    Ray hides no GPU from a process that asked for none; of one that asked, only the assigned ones are visible.
    """
    import ray

    return "cuda" if ray.is_initialized() and ray.get_gpu_ids() else "cpu"
