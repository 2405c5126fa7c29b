"""``make stack HOST=...``: three ports and no other, only where each service asks for its key, and refused in one line.

The services are small servers that ask for a key or do not; the gateway is the real process, at another loopback
address, and where root may make one in a network namespace with an address of its own.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import httpx
import pytest

from infra.stack import gateway, services
from infra.stack.stack_files import Stack, create_stack, open_stack
from syllabary.shards.errors import SyllabaryError

ROOT = Path(__file__).parent.parent.parent
ELSEWHERE = "127.0.0.3"  # loopback, too, but not where the services are
BODY = bytes(range(256)) * 8192


class Service(BaseHTTPRequestHandler):
    """Refuses who shows no key; who does gets the digest of what was sent, and two megabytes."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer()

    def _answer(self) -> None:
        sent = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        known = not self.server.asks or "Authorization" in self.headers  # type: ignore[attr-defined]
        body = BODY if known else b"no"
        self.send_response(200 if known else 401)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Digest", hashlib.sha256(sent).hexdigest())
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Nothing to the terminal."""


@pytest.fixture
def running() -> Iterator[dict[str, ThreadingHTTPServer]]:
    """Three services on loopback, by name; each asks for a key until its ``asks`` is taken away."""
    made = {name: ThreadingHTTPServer(("127.0.0.1", 0), Service) for name in ("S3", "Prefect", "Ray")}
    for server in made.values():
        server.asks = True  # type: ignore[attr-defined]
        threading.Thread(target=server.serve_forever, daemon=True).start()
    yield made
    for server in made.values():
        server.shutdown()
        server.server_close()


@pytest.fixture
def stack(running: dict[str, ThreadingHTTPServer], tmp_path: Path) -> Stack:
    """A stack whose services are those three, at :data:`ELSEWHERE`."""
    made = create_stack(tmp_path / "stack")
    port = {name: server.server_address[1] for name, server in running.items()}
    made.ports |= {"object-store": port["S3"] - 3, "prefect": port["Prefect"], "dashboard": port["Ray"]}
    made.host = ELSEWHERE
    made.save()
    return made


@pytest.fixture
def opened(stack: Stack) -> Iterator[Stack]:
    """The same with its gateway, started and ended as the stack does it."""
    services._start_gateway(stack)
    try:
        services._wait_until_ready(stack, services.GATEWAY)
        yield stack
    finally:
        services._end(stack, services.GATEWAY, patience_s=5)
        assert not services.is_running(stack, services.GATEWAY)


def test_three_ports_are_forwarded_byte_by_byte_and_ask_for_their_keys(opened: Stack) -> None:
    with httpx.Client(trust_env=False) as client:  # one connection a port: what was asked before must not disturb
        for name, port in opened.exposed_ports().items():
            url = f"http://{ELSEWHERE}:{port}"
            assert client.get(url).status_code == 401, name
            answer = client.post(url, content=BODY, headers={"Authorization": "key"})
            assert answer.content == BODY and answer.headers["Digest"] == hashlib.sha256(BODY).hexdigest(), name


def test_no_other_port_of_the_stack_is_there(opened: Stack) -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), Service) as filer:
        threading.Thread(target=filer.serve_forever, daemon=True).start()
        with pytest.raises(httpx.ConnectError):
            httpx.get(f"http://{ELSEWHERE}:{filer.server_address[1]}", trust_env=False)
        filer.shutdown()


def test_a_service_that_ends_is_a_closed_connection_and_not_a_silent_one(
    opened: Stack, running: dict[str, ThreadingHTTPServer]
) -> None:
    running["Ray"].shutdown()
    running["Ray"].server_close()
    with pytest.raises(httpx.RemoteProtocolError):
        httpx.get(f"http://{ELSEWHERE}:{opened.exposed_ports()['Ray']}", trust_env=False)
    assert services.is_running(opened, services.GATEWAY)


def run_gateway(stack: Stack) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "infra.stack.gateway", str(stack.folder)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize("name", ["S3", "Prefect", "Ray"])
def test_a_service_that_answers_without_a_key_is_exposed_to_nobody(
    name: str, stack: Stack, running: dict[str, ThreadingHTTPServer]
) -> None:
    running[name].asks = False  # type: ignore[attr-defined]
    ended = run_gateway(stack)
    assert ended.returncode == 2 and len(ended.stderr.splitlines()) == 1
    assert ended.stderr.startswith(f"error: not bound to {ELSEWHERE}: there {name} would answer anyone, without a key")


def test_a_service_that_is_away_is_exposed_to_nobody(stack: Stack, running: dict[str, ThreadingHTTPServer]) -> None:
    running["S3"].shutdown()
    running["S3"].server_close()
    with pytest.raises(SyllabaryError, match="a service does not answer"):
        gateway.refuse_open_services(stack)


@pytest.mark.parametrize(
    ("key", "service"),
    [("s3_access", "S3"), ("s3_secret", "S3"), ("prefect_password", "Prefect"), ("ray_token", "Ray")],
)
def test_the_command_refuses_a_host_where_a_key_is_missing(key: str, service: str, tmp_path: Path) -> None:
    stack = create_stack(tmp_path / "stack")
    stack.keys[key] = ""
    stack.save()
    ended = up(stack.folder, ELSEWHERE)
    assert ended.returncode == 2 and len(ended.stderr.splitlines()) == 1
    assert f"there {service} would answer anyone, without a key" in ended.stderr
    assert_nothing_was_started(stack.folder)


@pytest.mark.parametrize(
    ("host", "why"),
    [
        ("0.0.0.0", "HOST would open every network of this machine: '0.0.0.0'; expected one IPv4 address"),
        ("192.0.2.7", "HOST is not an address of this machine: '192.0.2.7'"),
        ("my-host", "HOST is no address: 'my-host'"),
        ("", "HOST is no address: ''"),
    ],
)
def test_the_command_refuses_what_is_not_one_address_of_this_machine(host: str, why: str, tmp_path: Path) -> None:
    ended = up(tmp_path / "stack", host)
    assert ended.returncode == 2 and ended.stderr.startswith(f"error: {why}") and len(ended.stderr.splitlines()) == 1
    assert not (tmp_path / "stack").exists()


def up(folder: Path, host: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "infra.stack.local_stack", "up", "--folder", str(folder), "--host", host]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)


def assert_nothing_was_started(folder: Path) -> None:
    left = open_stack(folder)
    assert left is not None and not left.services and not left.host


def test_without_a_host_nothing_forwards_and_loopback_takes_one_back(stack: Stack) -> None:
    assert services.GATEWAY in services.services_of(stack)
    services.give_host(stack, "127.0.0.1")
    assert services.services_of(stack) == services.SERVICES
    assert not (stack.folder / "env-remote.sh").exists()
    again = open_stack(stack.folder)
    assert again is not None and again.host == ""


def test_another_machine_gets_the_addresses_there_and_no_path_of_this_one(stack: Stack) -> None:
    written = (stack.folder / "env-remote.sh").read_text()
    ports = stack.exposed_ports()
    for name, port in (("AWS_ENDPOINT_URL", "S3"), ("RAY_API_SERVER_ADDRESS", "Ray")):
        assert f"export {name}=http://{ELSEWHERE}:{ports[port]}\n" in written
    assert f"export PREFECT_API_URL=http://{ELSEWHERE}:{ports['Prefect']}/api\n" in written
    assert f"export RAY_AUTH_TOKEN={stack.keys['ray_token']}\n" in written
    assert "127.0.0.1" not in written and str(stack.folder) not in written


def test_prefects_pages_need_no_password_on_loopback_where_it_was_taken_out(tmp_path: Path) -> None:
    stack = create_stack(tmp_path)
    assert stack.variables()["PREFECT_API_AUTH_STRING"] == f"operator:{stack.keys['prefect_password']}"
    stack.keys["prefect_password"] = ""
    assert "PREFECT_API_AUTH_STRING" not in stack.variables()


def ip(*arguments: str) -> None:
    ended = subprocess.run(["ip", *arguments], capture_output=True, text=True, check=False)
    if ended.returncode:
        pytest.skip(f"no network namespaces here: {ended.stderr.strip()}")


@pytest.fixture
def namespace() -> Iterator[SimpleNamespace]:
    """A network of one host: loopback and one address of its own, which no other network reaches."""
    if os.geteuid() != 0 or shutil.which("ip") is None:
        pytest.skip("network namespaces need root and iproute2")
    space = SimpleNamespace(name=f"gateway-{secrets.token_hex(3)}", address="10.213.78.1")
    ip("netns", "add", space.name)
    try:
        ip("-n", space.name, "link", "set", "lo", "up")
        ip("-n", space.name, "link", "add", "card", "type", "veth", "peer", "name", "other")
        ip("-n", space.name, "addr", "add", f"{space.address}/24", "dev", "card")
        ip("-n", space.name, "link", "set", "card", "up")
        ip("-n", space.name, "link", "set", "other", "up")
        yield space
    finally:
        subprocess.run(["ip", "netns", "delete", space.name], check=False)


IN_THE_NAMESPACE = """
import sys, threading
from http.server import ThreadingHTTPServer
from pathlib import Path
from infra.stack import services
from infra.stack.stack_files import open_stack
from tests.flows.test_stack_gateway import Service
import httpx

stack = open_stack(Path(sys.argv[1]))
for name, port in stack.exposed_ports().items():
    server = ThreadingHTTPServer(("127.0.0.1", port), Service)
    server.asks = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
services._start_gateway(stack)
try:
    services._wait_until_ready(stack, services.GATEWAY)
    for name, port in stack.exposed_ports().items():
        url = f"http://{stack.host}:{port}"
        print(name, httpx.get(url).status_code, httpx.get(url, headers={"Authorization": "key"}).status_code)
finally:
    services._end(stack, services.GATEWAY, patience_s=5)
"""


def test_an_address_beyond_loopback_is_bound_where_every_service_asks_for_its_key(
    namespace: SimpleNamespace, tmp_path: Path
) -> None:
    stack = create_stack(tmp_path / "stack")
    stack.host = namespace.address
    stack.save()
    ended = subprocess.run(
        ["ip", "netns", "exec", namespace.name, sys.executable, "-c", IN_THE_NAMESPACE, str(stack.folder)],
        cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert ended.stdout.splitlines() == ["S3 401 200", "Prefect 401 200", "Ray 401 200"], ended.stderr


def test_a_port_that_is_taken_there_is_one_line(stack: Stack) -> None:
    taken = ThreadingHTTPServer((ELSEWHERE, stack.exposed_ports()["Prefect"]), Service)
    with closing(taken.socket), suppress(OSError):
        ended = run_gateway(stack)
    assert ended.returncode == 1 and ended.stderr.startswith("error: cannot listen there: ")
    assert len(ended.stderr.splitlines()) == 1
