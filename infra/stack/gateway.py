"""``python -m infra.stack.gateway FOLDER``: the one way into the stack of a folder from other machines.

Every service listens on loopback. Where the stack was given a host (``make stack HOST=<address>``) this process
forwards three ports of that address and nothing else: S3, the Prefect server, and Ray's dashboard with its Jobs API. It
binds only after each of the three has refused a request without a key. What asks for none (SeaweedFS's filer, for one)
cannot be reached through it.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import sys
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path

import httpx

from infra.stack.stack_files import HOST, Stack, open_stack
from syllabary.shards.errors import InputError, SyllabaryError

REFUSED = (401, 403)
_CHUNK_BYTES = 1 << 16
_KEYS = {"S3": ("s3_access", "s3_secret"), "Prefect": ("prefect_password",), "Ray": ("ray_token",)}
_WITHOUT_KEY: dict[str, Callable[[Stack], httpx.Response]] = {
    "S3": lambda stack: httpx.get(f"{stack.s3_url}/syllabary", timeout=10),
    "Prefect": lambda stack: httpx.post(f"{stack.prefect_url}/api/flow_runs/filter", json={}, timeout=10),
    "Ray": lambda stack: httpx.get(f"{stack.dashboard_url}/api/jobs/", timeout=10),
}


def refuse_foreign(host: str) -> None:
    """Refuse a host that is not one IPv4 address of this machine.

    Raises:
        InputError: it is no address, another machine's, or the one that stands for all.
    """
    expected = "one IPv4 address of this machine"
    try:
        everything = ipaddress.IPv4Address(host).is_unspecified
    except ValueError:
        raise InputError("HOST is no address", value=host, expected=expected) from None
    if everything:
        raise InputError("HOST would open every network of this machine", value=host, expected=expected)
    with socket.socket() as probe:
        try:
            probe.bind((host, 0))
        except OSError:
            raise InputError("HOST is not an address of this machine", value=host, expected=expected) from None


def refuse_without_keys(stack: Stack, host: str) -> None:
    """Refuse a host for a stack of which one service has no key to ask for.

    Raises:
        InputError: it names the services that would answer anyone.
    """
    _refuse([name for name, keys in _KEYS.items() if not all(stack.keys.get(key) for key in keys)], stack, host)


def refuse_open_services(stack: Stack) -> None:
    """Ask every service that the gateway would expose for something without a key; each has to refuse.

    Raises:
        InputError: one of them answers anyone.
        SyllabaryError: one of them does not answer at all.
    """
    try:
        told = {name: ask(stack).status_code for name, ask in _WITHOUT_KEY.items()}
    except httpx.HTTPError as error:
        raise SyllabaryError(f"a service does not answer ({error})", fix="make stack") from error
    _refuse([name for name, status in told.items() if status not in REFUSED], stack, stack.host)


def _refuse(open_ones: list[str], stack: Stack, host: str) -> None:
    if open_ones:
        what = f"not bound to {host}: there {' and '.join(open_ones)} would answer anyone, without a key"
        fix = f"put the key into {stack.folder / 'keys.json'} and `make stack-down stack`, or leave HOST out"
        raise InputError(what, fix=fix)


async def serve(host: str, ports: list[int]) -> None:
    """Forward ``ports`` of ``host`` to the same ports of loopback, until cancelled."""
    servers = [await asyncio.start_server(partial(_forward, port), host, port) for port in ports]
    await asyncio.gather(*(server.serve_forever() for server in servers))


async def _forward(port: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """One connection, until the service has said its last byte."""
    with suppress(OSError):
        service_reader, service_writer = await asyncio.open_connection(HOST, port)
        asking = asyncio.create_task(_copy(reader, service_writer))
        await _copy(service_reader, writer)
        asking.cancel()
        service_writer.close()
    writer.close()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while data := await reader.read(_CHUNK_BYTES):
            writer.write(data)
            await writer.drain()
        writer.write_eof()


def main(folder: Path) -> None:
    """Serve the stack of a folder on its host; a failure is one line on standard error."""
    try:
        stack = _stack_with_host(folder)
        refuse_without_keys(stack, stack.host)
        refuse_open_services(stack)
        asyncio.run(serve(stack.host, list(stack.exposed_ports().values())))
    except SyllabaryError as error:
        sys.stderr.write(f"error: {error}\n")
        sys.exit(error.exit_code)
    except OSError as error:
        sys.stderr.write(f"error: cannot listen there: {error.strerror}\n")
        sys.exit(1)


def _stack_with_host(folder: Path) -> Stack:
    stack = open_stack(folder)
    if stack is None or not stack.host:
        raise InputError("no stack with a host", value=str(folder), fix="make stack HOST=<address>")
    refuse_foreign(stack.host)
    return stack


if __name__ == "__main__":
    main(Path(sys.argv[1]))
