"""Exactly once when more than one process goes: a Ray worker node, and the S3 server that comes back."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from infra.stack.object_store import ObjectStore, start_object_store
from syllabary.shards import outputs, store
from syllabary.shards.archive.audit import audit_archive
from tests.faults.conftest import NUM_SHARDS
from tests.helpers.archive_corpus import archive_contents

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
NODE_KILL = """
import sys, threading, time
from pathlib import Path
from syllabary.workers.cluster.session import _QUIET
import os
os.environ.update(_QUIET)
from ray.cluster_utils import Cluster
from syllabary.workers.control.jobs import TokenizeJob

base, archive = sys.argv[1:]
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
node = cluster.add_node(num_cpus=1)
os.environ["RAY_ADDRESS"] = cluster.address
from syllabary.workers.archive.tokenize_shards import tokenize

def remove_after_first_part():
    while not list(Path(archive, "parts").glob("*.parquet")):
        time.sleep(0.01)
    cluster.remove_node(node, allow_graceful=False)
    print("removed", len(list(Path(archive, "parts").glob("*.parquet"))), flush=True)

threading.Thread(target=remove_after_first_part, daemon=True).start()
job = TokenizeJob(shards=f"{base}/shards", tokenizer=f"{base}/tokenizer", archive=archive, num_workers=2)
print("new parts", tokenize(job)["num_new_parts"], flush=True)
cluster.shutdown()
"""


def test_a_removed_ray_node_loses_and_doubles_nothing(archive_base: Path, tmp_path: Path) -> None:
    archive = str(tmp_path / "archive")
    done = subprocess.run(
        [sys.executable, "-c", NODE_KILL, str(archive_base), archive], capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr[-3000:]
    removed_at = int(done.stdout.split("removed ")[1].split()[0])
    assert removed_at < NUM_SHARDS and f"new parts {NUM_SHARDS}" in done.stdout
    assert archive_contents(archive) == archive_contents(str(archive_base / "archive"))


def test_a_killed_s3_server_is_waited_for_and_the_archive_is_whole(
    archive_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import s3fs

    folder, keys = tmp_path / "weed", {"access_key": "k" * 16, "secret_key": "s" * 32}
    first = start_object_store(folder, **keys)
    port = int(first.endpoint.rpartition(":")[2]) - 3
    for key, value in first.env.items():
        monkeypatch.setenv(key, value)
    s3fs.S3FileSystem.clear_instance_cache()
    archive = f"{first.bucket('bucket')}/archive"
    job = {
        "shards": str(archive_base / "shards"),
        "tokenizer": str(archive_base / "tokenizer"),
        "archive": archive,
        "num_workers": 1,
    }
    driver = subprocess.Popen(
        [sys.executable, "-m", "syllabary.workers", "tokenize", json.dumps(job)],
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert driver.stderr is not None
    servers: list[ObjectStore] = [first]
    try:
        said: list[str] = []
        listener = threading.Thread(target=lambda: said.extend(iter(driver.stderr.readline, "")), daemon=True)
        listener.start()
        _wait_for(driver, lambda: store.list_files(store.join(archive, "parts")))
        first.process.send_signal(signal.SIGKILL)
        first.process.wait()
        _wait_for(driver, lambda: any("trying again" in line for line in said))
        servers.append(start_object_store(folder, **keys, base_port=port))
        assert driver.wait(timeout=400) == 0, said[-30:]
        s3fs.S3FileSystem.clear_instance_cache()
        assert archive_contents(archive) == archive_contents(str(archive_base / "archive"))
        assert audit_archive(archive, str(archive_base / "shards")).findings == []
        done = outputs.read_done(archive)
        assert done is not None and done["num_parts"] == NUM_SHARDS
    finally:
        driver.kill()
        servers[-1].stop()


def _wait_for(driver: subprocess.Popen[str], condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 300
    while not condition():
        assert time.monotonic() < deadline and driver.poll() is None
        time.sleep(0.02)
