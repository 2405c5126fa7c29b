"""Two hosts: network namespaces with an address and a temporary folder of their own, joined by a bridge, S3 between.

One host is cut off in the middle, as by a pulled cable. Training goes on from its last checkpoint when the host is
back; tokenization ends without it, with the bytes that one host alone writes.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest

from infra.stack.object_store import ObjectStore, free_port_block, start_object_store
from syllabary.shards import store
from syllabary.workers.control.jobs import Job, PretrainJob, ShardJob, TokenizeJob
from syllabary.workers.training.checkpoints import CheckpointStore
from tests.helpers.archive_corpus import make_shards, make_tokenizer

pytestmark = [pytest.mark.slow, pytest.mark.timeout(2400)]

BRIDGE = "10.213.77.254"
ADDRESS = {"a": "10.213.77.1", "b": "10.213.77.2"}
NUM_SHARDS = 12
TRAINING = (
    "ingest.valid_percent=30", "pretrain.num_steps=24", "pretrain.checkpoint_every=4", "pretrain.validate_every=12",
    "pretrain.num_workers=2", "pretrain.threads_per_worker=1", "pretrain.collective_timeout_s=20",
)  # fmt: skip


def ip(*arguments: str, may_fail: bool = False) -> None:
    ended = subprocess.run(["ip", *arguments], capture_output=True, text=True, check=False)
    assert may_fail or ended.returncode == 0, f"ip {' '.join(arguments)}: {ended.stderr}"


def why_not() -> str:
    """Why this machine cannot make hosts; empty when it can."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    if missing := [tool for tool in ("ip", "unshare", "mount") if shutil.which(tool) is None]:
        return f"no {missing[0]} on this machine (Debian: iproute2, util-linux)"
    name = f"probe-{secrets.token_hex(3)}"
    made = subprocess.run(["ip", "netns", "add", name], capture_output=True, text=True, check=False)
    if made.returncode:
        return f"no network namespaces here: {made.stderr.strip()}"
    ip("netns", "delete", name)
    return ""


@dataclass
class Hosts:
    """Two hosts that see each other and the S3 server on the bridge, and nothing else."""

    folder: Path  # a short path: Ray makes sockets below it
    tag: str = field(default_factory=lambda: secrets.token_hex(2))
    store: ObjectStore | None = None
    port: int = field(default_factory=free_port_block)
    token: str = field(default_factory=lambda: secrets.token_hex(32))
    rays: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def namespace(self, host: str) -> str:
        return f"syl-{self.tag}-{host}"

    def make(self) -> None:
        """Bridge, namespaces, addresses, S3."""
        bridge = f"sylbr-{self.tag}"
        ip("link", "add", bridge, "type", "bridge")
        ip("addr", "add", f"{BRIDGE}/24", "dev", bridge)
        ip("link", "set", bridge, "up")
        for host, address in ADDRESS.items():
            space, cable = self.namespace(host), f"syl{self.tag}{host}"
            ip("netns", "add", space)
            ip("link", "add", cable, "type", "veth", "peer", "name", "eth0", "netns", space)
            ip("link", "set", cable, "master", bridge, "up")
            ip("-n", space, "addr", "add", f"{address}/24", "dev", "eth0")
            ip("-n", space, "link", "set", "eth0", "up")
            ip("-n", space, "link", "set", "lo", "up")
        self.store = start_object_store(self.folder / "s3", host=BRIDGE)

    def environment(self) -> dict[str, str]:
        """What every process of both hosts gets. Gloo would take the loopback interface without its variable."""
        assert self.store is not None
        clean = {k: v for k, v in os.environ.items() if not k.startswith(("RAY_", "AWS_"))}
        own = {
            "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": self.token, "RAY_USAGE_STATS_ENABLED": "0",
            "GLOO_SOCKET_IFNAME": "eth0", "OMP_NUM_THREADS": "1", "TMPDIR": str(self.folder / "tmp"),
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": str(Path(__file__).parent.parent.parent), "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "300",
        }  # fmt: skip
        return clean | self.store.env | own

    def start_ray(self, host: str) -> None:
        """Ray on a host, one CPU, with a temporary folder that no other host sees."""
        temporary = self.folder / "tmp"
        temporary.mkdir(exist_ok=True)
        where = (
            ["--head", f"--port={self.port}", "--include-dashboard=false", f"--temp-dir={temporary}/ray"]
            if host == "a"
            else [f"--address={ADDRESS['a']}:{self.port}"]
        )
        ray = ["ray", "start", "--block", "--num-cpus=1", f"--node-ip-address={ADDRESS[host]}", *where]
        mount = 'mount -t tmpfs none "$TMPDIR" && ' if host == "b" else ""
        command = ["sh", "-c", f'{mount}exec "$@"', "sh", *ray]
        log = (self.folder / f"ray-{host}.log").open("ab")
        self.rays[host] = subprocess.Popen(
            ["ip", "netns", "exec", self.namespace(host), "unshare", "-m", *command],
            env=self.environment(), stdout=log, stderr=log, start_new_session=True,
        )  # fmt: skip

    def stop_ray(self, host: str) -> None:
        """End a host's Ray and what it started, with SIGKILL to what stays."""
        process = self.rays.pop(host, None)
        if process is None:
            return
        family = self._processes(host)
        process.terminate()
        for member in family:
            with suppress(psutil.NoSuchProcess):
                if "ray" in member.name():
                    member.terminate()
        psutil.wait_procs(family, timeout=20)
        for left in {*family, *self._processes(host)}:
            with suppress(psutil.NoSuchProcess):
                left.kill()
        process.wait(timeout=30)

    def revive(self) -> None:
        """Ray gives a node 30 s to start, whatever the machine has to do: on a busy one it is asked again.

        What the late one left (its GCS, say, on the very port) is ended first.
        """
        for host in [host for host, process in self.rays.items() if process.poll() is not None]:
            self.stop_ray(host)
            self.start_ray(host)

    def _processes(self, host: str) -> list[psutil.Process]:
        pids = subprocess.run(
            ["ip", "netns", "pids", self.namespace(host)], capture_output=True, text=True, check=False
        ).stdout.split()
        return [psutil.Process(int(pid)) for pid in pids if psutil.pid_exists(int(pid))]

    def submit(self, job: Job) -> subprocess.Popen[str]:
        """A job's driver on host a."""
        environment = self.environment() | {"RAY_ADDRESS": f"{ADDRESS['a']}:{self.port}"}
        return subprocess.Popen(
            ["ip", "netns", "exec", self.namespace("a"), sys.executable, "-m", "syllabary.workers", job.verb,
             job.model_dump_json()],
            env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip

    def plug(self, host: str, how: str) -> None:
        """Pull ("down") or plug in ("up") a host's cable."""
        ip("link", "set", f"syl{self.tag}{host}", how)

    def unmake(self) -> None:
        """Leave nothing: processes, namespaces, bridge."""
        for host in ("b", "a"):
            self.stop_ray(host)
            for left in self._processes(host):
                left.kill()
            ip("netns", "delete", self.namespace(host), may_fail=True)
            ip("link", "delete", f"syl{self.tag}{host}", may_fail=True)
        if self.store is not None:
            self.store.stop()
        ip("link", "delete", f"sylbr-{self.tag}", may_fail=True)


@pytest.fixture
def hosts(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hosts]:
    """Two hosts with a Ray cluster over both, and this process pointed at their S3."""
    if reason := why_not():
        pytest.skip(reason)
    folder = tempfile.mkdtemp(prefix="syl-hosts-")
    made = Hosts(Path(folder))
    try:
        made.make()
        assert made.store is not None
        for name, value in made.store.env.items():
            monkeypatch.setenv(name, value)
        import s3fs

        s3fs.S3FileSystem.clear_instance_cache()
        made.start_ray("a")
        wait_for_nodes(made, 1)
        made.start_ray("b")
        wait_for_nodes(made, 2)
        yield made
    finally:
        made.unmake()
        shutil.rmtree(folder)


def wait_for_nodes(hosts: Hosts, count: int, patience_s: float = 900.0) -> None:
    """Until so many hosts are in the cluster."""
    code = (
        "import logging, ray; ray.init(logging_level=logging.ERROR, log_to_driver=False); "
        "print(sum(node['Alive'] for node in ray.nodes()))"
    )
    environment = hosts.environment() | {"RAY_ADDRESS": f"{ADDRESS['a']}:{hosts.port}"}
    command = ["ip", "netns", "exec", hosts.namespace("a"), sys.executable, "-c", code]
    deadline, seen = time.monotonic() + patience_s, ""
    while time.monotonic() < deadline:
        hosts.revive()
        with suppress(subprocess.TimeoutExpired):
            asked = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
            seen = asked.stdout.strip().rpartition("\n")[2] + asked.stderr[-300:]
            if asked.stdout.strip().endswith(str(count)):
                return
        time.sleep(1)
    logs = {host: (hosts.folder / f"ray-{host}.log").read_text()[-1500:] for host in hosts.rays}
    raise AssertionError(f"{count} hosts did not come together: {seen} {logs}")


def finish(driver: subprocess.Popen[str], patience_s: float = 900.0) -> str:
    """What a job said; it must succeed."""
    said, _ = driver.communicate(timeout=patience_s)
    assert driver.returncode == 0, said[-4000:]
    return said


def alone(job: Job) -> None:
    """The same job on one host: a Ray of its own on this machine."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")} | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "syllabary.workers", job.verb, job.model_dump_json()]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=900, check=False)
    assert ended.returncode == 0, ended.stderr[-3000:]


def contents(uri: str) -> dict[str, str]:
    return {file.name: hashlib.sha256(store.read_bytes(file.uri)).hexdigest() for file in store.list_files(uri)}


def wait_for(found: Callable[[], object], what: str, driver: subprocess.Popen[str], patience_s: float = 600.0) -> None:
    """Until something is ``found``; the driver must still be at work then."""
    deadline = time.monotonic() + patience_s
    while not found():
        assert driver.poll() is None, driver.communicate()[0][-3000:]
        assert time.monotonic() < deadline, f"no {what} within {patience_s:.0f} s"
        time.sleep(0.1)
    assert driver.poll() is None, f"the job was over before the host could be cut off ({what})"


def test_tokenization_loses_a_host_and_nothing_else(hosts: Hosts) -> None:
    assert hosts.store is not None
    bucket = hosts.store.bucket()
    shards = make_shards(f"{bucket}/shards", [f"train-{n:06}" for n in range(NUM_SHARDS)], num_utterances=40)
    tokenizer = make_tokenizer(f"{bucket}/tokenizer")
    driver = hosts.submit(TokenizeJob(shards=shards, tokenizer=tokenizer, archive=f"{bucket}/two"))
    wait_for(lambda: store.list_files(f"{bucket}/two/parts"), "part", driver)
    hosts.plug("b", "down")
    finish(driver)
    alone(TokenizeJob(shards=shards, tokenizer=tokenizer, archive=f"{bucket}/one"))
    two, one = contents(f"{bucket}/two"), contents(f"{bucket}/one")
    assert len([name for name in one if name.startswith("parts/")]) == NUM_SHARDS
    assert two == one


def test_training_over_both_goes_on_when_a_host_comes_back(hosts: Hosts, corpus: Path) -> None:
    assert hosts.store is not None
    bucket = hosts.store.bucket()
    shards = f"{bucket}/shards"
    alone(ShardJob(source=str(corpus), out=shards, overrides=TRAINING[:1]))
    driver = hosts.submit(PretrainJob(shards=shards, out=f"{bucket}/two", overrides=TRAINING))
    wait_for(CheckpointStore(f"{bucket}/two").steps, "checkpoint", driver)  # a whole one: the last file is its manifest
    hosts.plug("b", "down")
    time.sleep(30)  # longer than a collective may take: the ranks give up, and the head its node
    hosts.stop_ray("b")
    hosts.plug("b", "up")
    hosts.start_ray("b")
    wait_for_nodes(hosts, 2)
    said = finish(driver)
    assert "a rank failed" in said and "resumes from the checkpoint of step" in said, said[-3000:]
    alone(PretrainJob(shards=shards, out=f"{bucket}/one", overrides=TRAINING))
    two, one = contents(f"{bucket}/two"), contents(f"{bucket}/one")
    assert two["encoder.safetensors"] == one["encoder.safetensors"]
    assert two["done.json"] == one["done.json"]
