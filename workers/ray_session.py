"""Where Ray comes from: the cluster named by RAY_ADDRESS, or an embedded one for the length of the job."""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from workers.job_log import worker_environment

_QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_DATA_DISABLE_PROGRESS_BARS": "1",
    "RAY_DEDUP_LOGS": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_TRAIN_V2_ENABLED": "1",
}


@contextlib.contextmanager
def ray_session(*, num_cpus: int | None = None, show_worker_logs: bool = True) -> Iterator[None]:
    """Connect to Ray for the length of the block.

    Without RAY_ADDRESS a local Ray of ``num_cpus`` (default: all cores) is started, with token authentication and no
    dashboard, and is stopped at the end; its token lives in a temporary folder of this process. ``show_worker_logs``
    repeats what workers print; without it their output stays in Ray's own log files.
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
        import ray

        ray.init(
            address="local", num_cpus=num_cpus, include_dashboard=False, logging_level=logging.ERROR,
            log_to_driver=show_worker_logs,
        )  # fmt: skip
        try:
            yield
        finally:
            ray.shutdown()


def _use_private_token(folder: Path) -> None:
    # Ray reads its authentication settings once, when it is first imported.
    assert "ray" not in sys.modules or "RAY_AUTH_TOKEN_PATH" in os.environ, "import ray inside ray_session, not before"
    token = folder / "token"
    token.touch(mode=0o600)
    token.write_text(secrets.token_hex(32))
    os.environ["RAY_AUTH_MODE"] = "token"
    os.environ["RAY_AUTH_TOKEN_PATH"] = str(token)
