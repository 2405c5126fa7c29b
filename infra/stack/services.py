"""The stack's services: how each is started, when it is ready, and what it needs before.

SeaweedFS, the Prefect server, and a Ray head with its dashboard come up side by side; then the work pool, the
deployments of prefect.yaml and the automation that fails lost runs; then the Prefect worker, and where the stack has a
host the gateway.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import httpx
import psutil

from infra.stack import gateway, processes
from infra.stack.object_store import start_object_store
from infra.stack.stack_files import HOST, POOL, RAY_NODE, ROOT, Stack
from syllabary.shards.errors import SyllabaryError

SERVICES = ("object-store", "prefect-server", "ray-head", "prefect-worker")
GATEWAY = "gateway"
HEARTBEAT_S, LOST_AFTER_S = 30, 90
_READY_S = 180.0
_RAY_TRIES = 3
_MAX_RUNS = 8


def start_missing(stack: Stack, say: Callable[[str], None]) -> list[str]:
    """Start the services that do not run, wait until each answers, and deploy; returns the names of those started.

    Raises:
        SyllabaryError: a service ended or did not become ready; its log is named.
    """
    missing = [name for name in services_of(stack) if not is_running(stack, name)]
    if "ray-head" in missing:
        _end_ray_leftovers(stack)
    for name in [name for name in missing if name not in _NEED_THE_OTHERS]:
        _start_and_save(stack, name, say)
    for name in missing:
        if name == "prefect-worker":
            say("deploys the flows")
            _deploy(stack)
        if name in _NEED_THE_OTHERS:
            _start_and_save(stack, name, say)
        if name == "ray-head":
            _ask_ray_again(stack, say)
        _wait_until_ready(stack, name)
    return missing


def _start_and_save(stack: Stack, name: str, say: Callable[[str], None]) -> None:
    say(f"starts {name}")
    _STARTERS[name](stack)
    stack.save()


def services_of(stack: Stack) -> tuple[str, ...]:
    """The services that this stack has when it is up."""
    return (*SERVICES, GATEWAY) if stack.host else SERVICES


def give_host(stack: Stack, host: str) -> None:
    """Let other machines reach the stack at ``host``, an address of this one, or with loopback no more.

    An earlier gateway is ended.

    Raises:
        InputError: a service would answer there without a key.
    """
    host = "" if host == HOST else host
    if host:
        gateway.refuse_without_keys(stack, host)
    if host != stack.host:
        _end(stack, GATEWAY, patience_s=5)
        stack.host = host
        stack.save()


def _ask_ray_again(stack: Stack, say: Callable[[str], None]) -> None:
    """Ray gives its raylet 30 s to start and then ends: on a machine that is busy it is asked again."""
    for _ in range(_RAY_TRIES - 1):
        while is_running(stack, "ray-head") and not answers(stack, "ray-head"):
            time.sleep(0.3)
        if is_running(stack, "ray-head"):
            return
        say("starts ray-head again: this machine is busy")
        _end_ray_leftovers(stack)
        _start_ray_head(stack)
        stack.save()


def is_running(stack: Stack, name: str) -> bool:
    """Whether the very process that was started runs."""
    return name in stack.services and stack.services[name].is_running()


def answers(stack: Stack, name: str) -> bool:
    """Whether a service does its work."""
    with suppress(httpx.HTTPError):
        return _PROBES[name](stack)
    return False


def end_all(stack: Stack, say: Callable[[str], None]) -> None:
    """End what this stack started and nothing else: flow runs first, while their jobs can still be stopped."""
    _end(stack, GATEWAY, patience_s=5)
    _end(stack, "prefect-worker", patience_s=1)
    runs = processes.marked(stack.mark, lambda environment: "PREFECT__FLOW_RUN_ID" in environment)
    if runs:
        say(f"ends {len(runs)} processes of flow runs")
    processes.end(runs, patience_s=40)
    everything = processes.marked(stack.mark)  # before parents go: some are known only by whose children they are
    for name in ("ray-head", "prefect-server", "object-store"):
        if is_running(stack, name):
            say(f"ends {name}")
        _end(stack, name, patience_s=20)
    processes.end(everything, patience_s=10)
    processes.end_marked(stack.mark, patience_s=10)


def _end(stack: Stack, name: str, patience_s: float) -> None:
    if is_running(stack, name):
        with suppress(psutil.NoSuchProcess):
            processes.end([psutil.Process(stack.services[name].pid)], patience_s)


def _end_ray_leftovers(stack: Stack) -> None:
    """What a killed head left behind would keep its ports: its raylet, its workers, and the drivers of its jobs."""
    folder = str(stack.ray_folder)
    left = processes.marked(stack.mark, lambda environment: environment.get("RAY_TMPDIR") == folder)
    processes.end(left, patience_s=10)


def _start_object_store(stack: Stack) -> None:
    store = start_object_store(
        stack.folder / "s3",
        access_key=stack.keys["s3_access"],
        secret_key=stack.keys["s3_secret"],
        base_port=stack.ports["object-store"],
        environment=stack.service_environment(),
    )
    stack.services["object-store"] = processes.record(store.process.pid)
    store.bucket("syllabary")


def _start_prefect_server(stack: Stack) -> None:
    command = _prefect("server", "start", "--host", HOST, "--port", str(stack.ports["prefect"]))
    auth = stack.variables().get("PREFECT_API_AUTH_STRING")
    own = {
        **({"PREFECT_SERVER_API_AUTH_STRING": auth} if auth else {}),
        # leases on disk: those in memory are lost with the server, and their slots stay taken for ever
        "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": "prefect.server.concurrency.lease_storage.filesystem",
        "PREFECT_UI_API_URL": "/api",  # of whatever address the browser has: loopback, the gateway's, a tunnel's
    }
    _start(stack, "prefect-server", command, own)


def _start_ray_head(stack: Stack) -> None:
    port = {name.removeprefix("ray-"): str(number) for name, number in stack.ports.items()}
    command = [
        str(Path(sys.executable).parent / "ray"), "start", "--head", "--block", "--disable-usage-stats",
        f"--node-ip-address={RAY_NODE}", f"--dashboard-host={HOST}", "--include-dashboard=true",
        f"--dashboard-port={port['dashboard']}", f"--temp-dir={stack.ray_folder}", f"--num-cpus={os.cpu_count()}",
        f"--port={port['gcs']}", f"--ray-client-server-port={port['client']}",
        f"--dashboard-agent-listen-port={port['agent']}", f"--dashboard-agent-grpc-port={port['agent-grpc']}",
        f"--runtime-env-agent-port={port['runtime-env']}", f"--metrics-export-port={port['metrics']}",
        f"--node-manager-port={port['node-manager']}", f"--object-manager-port={port['object-manager']}",
    ]  # fmt: skip
    _start(stack, "ray-head", command, {"RAY_TMPDIR": str(stack.ray_folder)})


def _start_worker(stack: Stack) -> None:
    command = _prefect("worker", "start", "--pool", POOL, "--name", "stack", "--limit", str(_MAX_RUNS))
    own = {"PREFECT_FLOWS_HEARTBEAT_FREQUENCY": str(HEARTBEAT_S), "PREFECT_WORKER_QUERY_SECONDS": "2"}
    _start(stack, "prefect-worker", command, own)


def _start_gateway(stack: Stack) -> None:
    _start(stack, GATEWAY, [sys.executable, "-m", "infra.stack.gateway", str(stack.folder)], {})


_NEED_THE_OTHERS = ("prefect-worker", GATEWAY)
_STARTERS: dict[str, Callable[[Stack], None]] = {
    "object-store": _start_object_store,
    "prefect-server": _start_prefect_server,
    "ray-head": _start_ray_head,
    "prefect-worker": _start_worker,
    GATEWAY: _start_gateway,
}


def _start(stack: Stack, name: str, command: list[str], own: dict[str, str]) -> None:
    process = processes.start(command, stack.service_environment() | own, stack.log(name))
    stack.services[name] = processes.record(process.pid)


def _prefect(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "prefect", *arguments]


def _deploy(stack: Stack) -> None:
    """The work pool, every deployment of prefect.yaml, and the automation; again is the same."""
    _wait_until_ready(stack, "prefect-server")
    for command in (
        _prefect("work-pool", "create", POOL, "--type", "process", "--overwrite"),
        [sys.executable, "-m", "infra.stack.deploy"],
        [sys.executable, "-m", "infra.stack.lost_runs", str(LOST_AFTER_S)],
    ):
        ended = subprocess.run(
            command, cwd=ROOT, env=stack.service_environment(), capture_output=True, text=True, check=False
        )
        with stack.log("deploy").open("a") as log:
            log.write(ended.stdout + ended.stderr)
        if ended.returncode:
            raise SyllabaryError(f"`{' '.join(command[2:])}` failed", fix=f"see {stack.log('deploy')}")


def _object_store_answers(stack: Stack) -> bool:
    return httpx.get(stack.s3_url, timeout=2).status_code in (200, 403)


def _prefect_answers(stack: Stack) -> bool:
    return httpx.get(f"{stack.prefect_url}/api/health", timeout=2).status_code == 200


def _ray_answers(stack: Stack) -> bool:
    token = {"Authorization": f"Bearer {stack.keys['ray_token']}"}
    return httpx.get(f"{stack.dashboard_url}/api/jobs/", headers=token, timeout=5).status_code == 200


def _worker_answers(stack: Stack) -> bool:
    url = f"{stack.prefect_url}/api/work_pools/{POOL}/workers/filter"
    answer = httpx.post(url, json={}, auth=("operator", stack.keys["prefect_password"]), timeout=5)
    return answer.status_code == 200 and any(worker["status"] == "ONLINE" for worker in answer.json())


def _gateway_answers(stack: Stack) -> bool:
    ports = stack.exposed_ports()
    asked = [httpx.get(f"http://{stack.host}:{p}", timeout=5, trust_env=False).status_code for p in ports.values()]
    return all(status < httpx.codes.INTERNAL_SERVER_ERROR for status in asked)


_PROBES: dict[str, Callable[[Stack], bool]] = {
    "object-store": _object_store_answers,
    "prefect-server": _prefect_answers,
    "ray-head": _ray_answers,
    "prefect-worker": _worker_answers,
    GATEWAY: _gateway_answers,
}


def _wait_until_ready(stack: Stack, name: str) -> None:
    deadline = time.monotonic() + _READY_S
    while time.monotonic() < deadline:
        if not is_running(stack, name):
            break
        if answers(stack, name):
            return
        time.sleep(0.3)
    lines = [line for line in stack.log(name).read_text(errors="replace").splitlines() if line.strip()]
    last = lines[-1] if lines else "it said nothing"
    raise SyllabaryError(f"{name} did not come up ({last[:300]})", fix=f"see {stack.log(name)}")
