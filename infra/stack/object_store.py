"""A real S3 server on loopback: SeaweedFS from its PyPI wheel, one folder, one key pair, ended by its own pid.

Used by the tests and by ``make stack``. Every port binds to 127.0.0.1 and telemetry is off (infra/decisions/0005).
"""

from __future__ import annotations

import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import fsspec

_NUM_PORTS = 16
# Soft. Its buffers alone are near 200 MiB; below that Go collects garbage without end (infra/LOG.md).
MEMORY_LIMIT = "1GiB"


@dataclass
class ObjectStore:
    """A running server: its process, endpoint and keys."""

    process: subprocess.Popen[bytes]
    endpoint: str
    access_key: str
    secret_key: str

    @property
    def env(self) -> dict[str, str]:
        """The standard AWS variables that point at this server."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def filesystem(self) -> fsspec.AbstractFileSystem:
        """An s3fs filesystem of this server."""
        return fsspec.filesystem(
            "s3", key=self.access_key, secret=self.secret_key, endpoint_url=self.endpoint, skip_instance_cache=True
        )

    def bucket(self, name: str | None = None) -> str:
        """Make a bucket; returns its ``s3://`` URI."""
        name = name or f"test-{secrets.token_hex(4)}"
        fs = self.filesystem()
        if not fs.exists(name):
            fs.mkdir(name)
        return f"s3://{name}"

    def stop(self) -> None:
        """End the server: SIGTERM, then SIGKILL after ten seconds."""
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def start_object_store(
    folder: Path,
    *,
    access_key: str = "",
    secret_key: str = "",
    base_port: int = 0,
    wait_s: float = 60.0,
    environment: Mapping[str, str] | None = None,
    host: str = "127.0.0.1",
    memory_limit: str = MEMORY_LIMIT,
) -> ObjectStore:
    """Start SeaweedFS over ``folder`` on ``host`` and wait until a PUT succeeds.

    With an ``environment`` (default: this process's) it runs in a session of its own and outlives this process.

    Raises:
        RuntimeError: the server ended, or answered no PUT within ``wait_s`` seconds.
    """
    folder.mkdir(parents=True, exist_ok=True)
    access_key, secret_key = access_key or secrets.token_hex(8), secret_key or secrets.token_hex(16)
    config = folder / "s3.json"
    config.touch(mode=0o600)
    identity = {
        "name": "admin",
        "credentials": [{"accessKey": access_key, "secretKey": secret_key}],
        "actions": ["Admin", "Read", "Write", "List", "Tagging"],
    }
    config.write_text(json.dumps({"identities": [identity]}))
    port = base_port or free_port_block()
    with (folder / "weed.log").open("ab") as log:
        process = subprocess.Popen(
            _command(folder, config, host, port),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env={**(os.environ if environment is None else environment), "GOMEMLIMIT": memory_limit},
            start_new_session=environment is not None,
        )
    store = ObjectStore(process, f"http://{host}:{port + 3}", access_key, secret_key)
    _wait_for_put(store, folder / "weed.log", wait_s)
    return store


def _command(folder: Path, config: Path, host: str, port: int) -> list[str]:
    ports = {"master": 0, "volume": 1, "filer": 2, "s3": 3, "admin": 4}
    return [
        str(Path(sys.executable).parent / "weed"), "-logtostderr", "mini", f"-ip={host}", f"-ip.bind={host}",
        f"-dir={folder}", "-master.telemetry=false", "-webdav=false", "-admin.ui=false", f"-s3.config={config}",
        "-s3.port.iceberg=0", "-s3.port.lance=0", f"-filer.localSocket={folder / 'filer.sock'}",
        f"-s3.localSocket={folder / 's3.sock'}",
        *(f"-{name}.port={port + offset}" for name, offset in ports.items()),
        *(f"-{name}.port.grpc={port + 10 + offset}" for name, offset in ports.items()),
    ]  # fmt: skip


def _wait_for_put(store: ObjectStore, log: Path, wait_s: float) -> None:
    deadline = time.monotonic() + wait_s
    while time.monotonic() < deadline:
        if store.process.poll() is not None:
            raise RuntimeError(f"the object store ended with {store.process.returncode}: {log.read_text()[-2000:]}")
        try:  # the health page answers before writes do
            store.bucket("probe")
            store.filesystem().pipe_file("probe/probe", b"x")
            return
        except Exception:
            time.sleep(0.3)
    store.stop()
    raise RuntimeError(f"the object store took no PUT within {wait_s:.0f} s: {log.read_text()[-2000:]}")


def free_port_block() -> int:
    """The first port of a block of free ports on loopback."""
    for _ in range(50):
        base = 20_000 + secrets.randbelow(20_000)
        if all(_is_free(base + offset) for offset in range(_NUM_PORTS)):
            return base
    raise RuntimeError("no block of free ports between 20,000 and 40,000")


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0
