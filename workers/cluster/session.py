"""Connect to Ray: the cluster named by RAY_ADDRESS, or an embedded one for the length of the job."""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil

from syllabary.shards.errors import UnavailableError
from syllabary.workers.control.log import emit, worker_environment

_QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_DATA_DISABLE_PROGRESS_BARS": "1",
    "RAY_DEDUP_LOGS": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_TRAIN_V2_ENABLED": "1",
}

_TRIES = 3
_NOT_IN_TIME = "timed out during startup"


@contextlib.contextmanager
def ray_session(*, num_cpus: int | None = None, show_worker_logs: bool = True) -> Iterator[None]:
    """Connect to Ray for the length of the block.

    Without RAY_ADDRESS a local Ray of ``num_cpus`` (default: all cores) is started, with token authentication and no
    dashboard, and is stopped at the end; its token lives in a temporary folder of this process. ``show_worker_logs``
    repeats what workers print; without it their output stays in Ray's own log files.

    Raises:
        UnavailableError: the local Ray does not come up; the machine may be too busy.
    """
    for key, value in _QUIET.items():
        os.environ.setdefault(key, value)
    if os.environ.get("RAY_ADDRESS"):
        import ray

        ray.init(
            logging_level=logging.ERROR, log_to_driver=show_worker_logs, runtime_env={"env_vars": worker_environment()}
        )
        try:
            yield
        finally:
            ray.shutdown()
        return
    with tempfile.TemporaryDirectory(prefix="syllabary-ray-") as folder:
        _use_private_token(Path(folder))
        _start_embedded(num_cpus=num_cpus, log_to_driver=show_worker_logs)
        import ray

        try:
            yield
        finally:
            ray.shutdown()


def _start_embedded(**options: Any) -> None:
    """Start a local Ray, again where its node did not register in the 30 s that Ray gives it: the machine is busy.

    Raises:
        UnavailableError: it did not in any of the tries.
    """
    import ray

    this = psutil.Process()
    for left in reversed(range(_TRIES)):
        before = set(this.children(recursive=True))
        try:
            ray.init(address="local", include_dashboard=False, logging_level=logging.ERROR, **options)
            return
        except Exception as error:  # Ray raises no narrower one
            if _NOT_IN_TIME not in str(error):
                raise
            _end(set(this.children(recursive=True)) - before)
            emit("ray", f"did not start in its 30 s: this machine is busy; {left} more tries")
    fix = "run again when the machine has less to do, or set RAY_ADDRESS to a cluster that runs"
    raise UnavailableError("Ray did not start", value=f"{_TRIES} tries", fix=fix)


def _end(processes: set[psutil.Process]) -> None:
    """What a node that came too late has started; nobody else ends it before this process does."""
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(list(processes), timeout=10)


def _use_private_token(folder: Path) -> None:
    # Ray reads its authentication settings once, when it is first imported.
    assert "ray" not in sys.modules or "RAY_AUTH_TOKEN_PATH" in os.environ, "import ray inside ray_session, not before"
    token = folder / "token"
    token.touch(mode=0o600)
    token.write_text(secrets.token_hex(32))
    os.environ["RAY_AUTH_MODE"] = "token"
    os.environ["RAY_AUTH_TOKEN_PATH"] = str(token)
