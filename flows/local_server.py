"""A Prefect server on loopback for the length of one run, where PREFECT_API_URL names no other.

Prefect's own temporary server outlives a killed client; this one ends with its run. ``python -m flows.local_server
PORT`` is the server process.
"""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator

import httpx

from shards.errors import SyllabaryError, explain
from workers.lifetime import die_with_parent, parent_environment

_PATIENCE_S = 120.0


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
    process = subprocess.Popen(
        [sys.executable, "-m", "flows.local_server", str(port)],
        env=parent_environment() | {"PREFECT_UI_ENABLED": "0", "PREFECT_SERVER_LOGGING_LEVEL": "CRITICAL"},
    )
    try:
        _wait_until_healthy(url, process)
        with temporary_settings({PREFECT_API_URL: url}):
            yield url
    finally:
        process.terminate()
        try:
            process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            process.kill()


def _wait_until_healthy(url: str, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + _PATIENCE_S
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(httpx.HTTPError):
            if httpx.get(f"{url}/health", timeout=2).status_code == 200:
                return
        time.sleep(0.2)
    raise SyllabaryError(
        explain("the local Prefect server did not come up", value=url, fix="set PREFECT_API_URL to one that runs")
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
