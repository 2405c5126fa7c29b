"""``python -m infra.stack.key_blocks``: this shell's keys as the Secret blocks that the work pool template names.

Workers of a pool made of ``infra/work_pools/process-with-blocks.json`` need no keys of their own: Prefect keeps them
encrypted, the worker reads them for each run and gives them to the run's process alone. Run again after new keys.
"""

from __future__ import annotations

import json
import os
import re
import sys
from pathlib import Path

import httpx

from syllabary.shards.errors import InputError, SyllabaryError, UnavailableError

TEMPLATE = Path(__file__).parent.parent / "work_pools" / "process-with-blocks.json"
_REFERENCE = re.compile(r"\{\{ prefect\.blocks\.secret\.([a-z0-9-]+) \}\}")


def blocks() -> dict[str, str]:
    """The block that each variable of the template's environment is taken from."""
    environment = json.loads(TEMPLATE.read_text())["variables"]["properties"]["env"]["default"]
    found = {variable: _REFERENCE.fullmatch(value) for variable, value in environment.items()}
    return {variable: match[1] for variable, match in found.items() if match}


def save() -> list[str]:
    """Store the value of each such variable, none where one is missing; returns the names of the blocks.

    Raises:
        InputError: a variable is missing or empty, or no server is named.
        UnavailableError: the server does not take them.
    """
    wanted = blocks()
    if missing := [variable for variable in wanted if not os.environ.get(variable)]:
        raise InputError("keys to store are not in the environment", value=", ".join(missing), fix="export them first")
    from prefect.blocks.system import Secret
    from prefect.settings import PREFECT_API_URL

    server = PREFECT_API_URL.value()
    if not server:  # Prefect would start a server of its own for the moment, with a database in the home folder
        raise InputError("no Prefect server to store keys at", fix="set PREFECT_API_URL")
    try:
        for variable, name in wanted.items():
            Secret(value=os.environ[variable]).save(name, overwrite=True)  # type: ignore[arg-type]
    except (httpx.HTTPError, RuntimeError) as error:
        why = str(error).splitlines()[0]
        raise UnavailableError(f"the Prefect server takes no blocks ({why})", value=server) from error
    return list(wanted.values())


def main() -> None:
    """Entry point: what was stored by name, or one line."""
    try:
        for name in save():
            print(f"stored as Secret block {name}")
    except SyllabaryError as error:
        sys.stderr.write(f"error: {error}\n")
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
