"""A Prefect server on loopback for the length of one run, where PREFECT_API_URL names no other.

Prefect's own temporary server outlives a killed client; this one ends with its run. ``python -m
syllabary.flows.local_server PORT`` is the server process.
"""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from typing import IO

import httpx

from syllabary.flows.output_lock import PRIVATE_SERVER_VARIABLE
from syllabary.shards.errors import SyllabaryError
from syllabary.workers.control.processes import die_with_parent, parent_environment

_PATIENCE_S = 300.0


@contextlib.contextmanager
def prefect_server() -> Iterator[str]:
    """Give the URL of the Prefect API: the configured one, or a server that lives as long as the block.

    Raises:
        SyllabaryError: the server does not come up.
    """
    from prefect.settings import PREFECT_API_URL, temporary_settings

    if configured := PREFECT_API_URL.value():
        yield configured
        return
    port = _free_port()
    url = f"http://127.0.0.1:{port}/api"
    with tempfile.TemporaryFile() as log:
        process = _start(port, log)
        try:
            _wait_until_healthy(url, process, log)
            os.environ[PRIVATE_SERVER_VARIABLE] = "1"
            with temporary_settings({PREFECT_API_URL: url}):
                try:
                    yield url
                finally:
                    _flush_logs()  # also of a run that failed: its last lines tell why
        finally:
            os.environ.pop(PRIVATE_SERVER_VARIABLE, None)
            process.terminate()
            try:
                process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                process.kill()


def _start(port: int, log: IO[bytes]) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "syllabary.flows.local_server", str(port)]
    quiet = {"PREFECT_UI_ENABLED": "0", "PREFECT_SERVER_ANALYTICS_ENABLED": "false", "DO_NOT_TRACK": "1"}
    return subprocess.Popen(command, env=parent_environment() | quiet, stdout=log, stderr=log)


def _flush_logs() -> None:
    """Send what the flow runs have logged while there is still a server to take it."""
    from prefect.events.worker import EventsWorker
    from prefect.logging.handlers import APILogWorker

    APILogWorker.drain_all(timeout=10)
    EventsWorker.drain_all(timeout=10)


def _wait_until_healthy(url: str, process: subprocess.Popen[bytes], log: IO[bytes]) -> None:
    deadline = time.monotonic() + _PATIENCE_S
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(httpx.HTTPError):
            if httpx.get(f"{url}/health", timeout=2).status_code == 200:
                return
        time.sleep(0.2)
    log.seek(0)
    last = log.read().decode(errors="replace").strip().rpartition("\n")[2]
    raise SyllabaryError(
        f"the local Prefect server did not come up ({last})", fix="set PREFECT_API_URL to one that runs"
    )


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _serve(port: int) -> None:
    import uvicorn

    die_with_parent()
    os.environ["PREFECT__SERVER_EPHEMERAL"] = "1"
    from prefect.server.api.server import create_app

    uvicorn.run(create_app(ephemeral=True), host="127.0.0.1", port=port, log_level="error", lifespan="on")


if __name__ == "__main__":
    _serve(int(sys.argv[1]))
