"""The stack's folder: ports, keys and processes, so that a second command finds what a first one started.

FOLDER/stack.json    ports, the stack's mark, its processes
FOLDER/keys.json     generated keys (mode 0600), FOLDER/ray-token the token that Ray reads (0600)
FOLDER/env.sh        the variables that point a shell at the stack (0600): `. runs/stack/env.sh`
FOLDER/env-remote.sh the same for a shell on another machine, while the stack has a host (0600)
FOLDER/s3, prefect   what the object store and the Prefect server keep; FOLDER/logs one file a service
"""

from __future__ import annotations

import json
import os
import secrets
import shlex
import socket
import sys
import tempfile
from dataclasses import asdict, dataclass, field
from pathlib import Path

from infra.stack.object_store import free_port_block
from infra.stack.processes import MARK_VARIABLE, Recorded

ROOT = Path(__file__).parent.parent.parent
HOST = "127.0.0.1"
RAY_NODE = "127.0.0.2"  # loopback as well; Ray replaces 127.0.0.1 by the address of the host's network
POOL = "syllabary"
LOCAL_ADDRESSES = ("AWS_ENDPOINT_URL", "PREFECT_API_URL", "RAY_API_SERVER_ADDRESS")
_ELSEWHERE = (*LOCAL_ADDRESSES, "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_DEFAULT_REGION",
              "AWS_EC2_METADATA_DISABLED", "PREFECT_API_AUTH_STRING", "RAY_AUTH_MODE")  # fmt: skip
_PREFERRED = {"prefect": 4200, "dashboard": 8265}
_RAY_PORTS = ("gcs", "client", "agent", "agent-grpc", "runtime-env", "metrics", "node-manager", "object-manager")


@dataclass
class Stack:
    """What is known of one stack.

    ``host`` is the address at which other machines reach it through the gateway; empty: none does.
    """

    folder: Path
    mark: str
    ports: dict[str, int]
    keys: dict[str, str]
    services: dict[str, Recorded] = field(default_factory=dict)
    host: str = ""

    @property
    def prefect_url(self) -> str:
        """The Prefect server's page; its API is below ``/api``."""
        return f"http://{HOST}:{self.ports['prefect']}"

    @property
    def dashboard_url(self) -> str:
        """Ray's dashboard and Jobs API."""
        return f"http://{HOST}:{self.ports['dashboard']}"

    @property
    def s3_url(self) -> str:
        """The object store's S3 endpoint."""
        return f"http://{HOST}:{self.ports['object-store'] + 3}"

    @property
    def token_file(self) -> Path:
        """Where Ray's token lies."""
        return self.folder / "ray-token"

    @property
    def ray_folder(self) -> Path:
        """Ray's temporary folder: outside the stack's, since the paths of its sockets must be short."""
        return Path(tempfile.gettempdir()) / f"syllabary-stack-{self.mark[:8]}"

    def log(self, service: str) -> Path:
        """The log file of a service."""
        return self.folder / "logs" / f"{service}.log"

    def exposed_ports(self) -> dict[str, int]:
        """What the gateway forwards, by the service behind it."""
        return {
            "S3": self.ports["object-store"] + 3,
            "Prefect": self.ports["prefect"],
            "Ray": self.ports["dashboard"],
        }

    def variables(self) -> dict[str, str]:
        """What a process needs in its environment to use the stack."""
        password = self.keys["prefect_password"]
        return {
            "AWS_ENDPOINT_URL": self.s3_url,
            "AWS_ACCESS_KEY_ID": self.keys["s3_access"],
            "AWS_SECRET_ACCESS_KEY": self.keys["s3_secret"],
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
            "PREFECT_API_URL": f"{self.prefect_url}/api",
            **({"PREFECT_API_AUTH_STRING": f"operator:{password}"} if password else {}),
            "PREFECT_HOME": str(self.folder / "prefect"),
            "RAY_API_SERVER_ADDRESS": self.dashboard_url,
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(self.token_file),
            "SYLLABARY_HOME": str(ROOT),
        }

    def remote_variables(self) -> dict[str, str]:
        """What a process on another machine needs: the addresses at ``host``, and Ray's token instead of its file."""
        here = {name: value for name, value in self.variables().items() if name in _ELSEWHERE}
        there = {name: here[name].replace(HOST, self.host) for name in LOCAL_ADDRESSES}
        return here | there | {"RAY_AUTH_TOKEN": self.keys["ray_token"]}

    def service_environment(self) -> dict[str, str]:
        """The environment of the stack's own processes: ours, the stack's variables, its mark, and nobody phoned."""
        quiet = {
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "DO_NOT_TRACK": "1",
            "RAY_USAGE_STATS_ENABLED": "0",
            "PYTHONUNBUFFERED": "1",
        }
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
        inherited = {k: v for k, v in os.environ.items() if not k.startswith(("PREFECT_", "RAY_", "AWS_"))}
        own = {"PATH": path, MARK_VARIABLE: self.mark}
        return inherited | self.variables() | quiet | own

    def save(self) -> None:
        """Write what other commands have to know, keys apart and closed to others."""
        known = {
            "mark": self.mark,
            "ports": self.ports,
            "host": self.host,
            "services": {name: asdict(process) for name, process in self.services.items()},
        }
        _write(self.folder / "stack.json", json.dumps(known, indent=2) + "\n")
        _write(self.folder / "keys.json", json.dumps(self.keys, indent=2) + "\n")
        _write(self.token_file, self.keys["ray_token"])
        _write_exports(self.folder / "env.sh", self.variables())
        remote = self.folder / "env-remote.sh"
        if self.host:
            _write_exports(remote, self.remote_variables())
        else:
            remote.unlink(missing_ok=True)


def open_stack(folder: Path) -> Stack | None:
    """The stack of a folder, or None where there is none."""
    if not (folder / "stack.json").exists():
        return None
    known = json.loads((folder / "stack.json").read_text())
    keys = json.loads((folder / "keys.json").read_text())
    services = {name: Recorded(**process) for name, process in known["services"].items()}
    return Stack(folder, known["mark"], known["ports"], keys, services, known.get("host", ""))


def create_stack(folder: Path) -> Stack:
    """A new stack's folder with free ports and fresh keys."""
    (folder / "logs").mkdir(parents=True, exist_ok=True)
    folder.chmod(0o700)
    block, ports = free_port_block(), {"object-store": free_port_block()}
    while abs(block - ports["object-store"]) < 16:
        block = free_port_block()
    ports |= {f"ray-{name}": block + offset for offset, name in enumerate(_RAY_PORTS)}
    ports |= {name: port if _is_free(port) else block + 10 + i for i, (name, port) in enumerate(_PREFERRED.items())}
    keys = {
        "s3_access": secrets.token_hex(8),
        "s3_secret": secrets.token_hex(16),
        "prefect_password": secrets.token_hex(16),
        "ray_token": secrets.token_hex(32),
    }
    stack = Stack(folder, secrets.token_hex(8), ports, keys)
    stack.save()
    return stack


def _write_exports(path: Path, variables: dict[str, str]) -> None:
    exports = [f"export {name}={shlex.quote(value)}\n" for name, value in variables.items()]
    _write(path, f"# Use the stack from a shell: . {path.name}\n" + "".join(exports))


def _write(path: Path, text: str) -> None:
    """Replace a file whole; no other user ever could read it."""
    temporary = path.with_suffix(path.suffix + ".new")
    temporary.unlink(missing_ok=True)
    temporary.touch(mode=0o600)
    temporary.write_text(text)
    temporary.replace(path)


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex((HOST, port)) != 0
