"""The metrics of a stage, scraped from Ray's Prometheus endpoint while a real cluster writes shards."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
import soundfile as sf

from infra.stack.object_store import free_port_block
from syllabary.shards import outputs
from syllabary.workers.cluster.prometheus import Meter
from syllabary.workers.control.jobs import ShardJob

BIN = Path(sys.executable).parent


@pytest.fixture
def head(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, int]]:
    """(RAY_ADDRESS, metrics port) of a Ray head on loopback with token authentication."""
    token = tmp_path / "token"
    token.write_text("0" * 64)
    for key, value in {
        "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token), "RAY_metrics_report_interval_ms": "500",
        "RAY_USAGE_STATS_ENABLED": "0", "RAY_DISABLE_IMPORT_WARNING": "1",
    }.items():  # fmt: skip
        monkeypatch.setenv(key, value)
    port = free_port_block()
    with (tmp_path / "head.log").open("wb") as log, tempfile.TemporaryDirectory(prefix="ray-", dir="/tmp") as session:
        process = subprocess.Popen(
            [BIN / "ray", "start", "--head", "--block", "--node-ip-address=127.0.0.1", f"--port={port}", "--num-cpus=1",
             "--include-dashboard=false", f"--metrics-export-port={port + 1}", f"--temp-dir={session}"],
            stdout=log, stderr=log,
        )  # fmt: skip
        try:
            _wait_until_up(process, port + 1, tmp_path / "head.log")
            yield f"127.0.0.1:{port}", port + 1
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(timeout=60)


def _wait_until_up(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    for _ in range(300):
        assert process.poll() is None, log.read_text()
        with contextlib.suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5):
            return
        time.sleep(0.2)
    raise AssertionError(log.read_text())


def scraped(port: int) -> dict[str, float]:
    """Our metrics by name and tags, as Prometheus would read them; empty while the endpoint is not up."""
    try:
        text = urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5).read().decode()
    except OSError:
        return {}
    found = re.findall(r'^(ray_syllabary_\w+)\{.*?run="(.*?)".*?stage="(.*?)".*?\} (\S+)$', text, re.MULTILINE)
    return {f"{name} {run} {stage}": float(value) for name, run, stage, value in found}


def test_a_stage_is_seen_by_prometheus(head: tuple[str, int], corpus: Path, tmp_path: Path) -> None:
    address, port = head
    source = tmp_path / "speech"
    for number, path in enumerate(sorted(corpus.rglob("*.flac"))[:3]):
        (source / str(number)).mkdir(parents=True)
        samples, rate = sf.read(path)
        sf.write(source / str(number) / "a.flac", samples, rate)
    (source / "0" / "broken.flac").write_bytes(b"no sound")
    out, few = str(tmp_path / "out"), ("ingest.max_quarantined_percent=60",)
    job = ShardJob(source=str(source), out=out, overrides=few)
    writer = subprocess.run(
        [sys.executable, "-m", "syllabary.workers", "shard", job.model_dump_json()],
        env={**os.environ, "RAY_ADDRESS": address}, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert writer.returncode == 0, writer.stderr
    seen: dict[str, float] = {}
    deadline = time.monotonic() + 30
    done = outputs.read_done(out)
    assert done is not None
    while seen.get("ray_syllabary_shards_done_total out shard") != done["num_shards"] and time.monotonic() < deadline:
        seen |= scraped(port)
        time.sleep(0.2)
    assert seen["ray_syllabary_shards_done_total out shard"] == done["num_shards"]
    assert seen["ray_syllabary_quarantined_total out shard"] == 1
    assert seen["ray_syllabary_audio_seconds_total out shard"] == pytest.approx(done["input_s"], abs=0.01)
    assert seen["ray_syllabary_audio_seconds_per_second out shard"] > 0


def test_where_an_output_lies_is_no_tag(monkeypatch: pytest.MonkeyPatch) -> None:
    """The endpoint asks for no token."""
    made: list[dict[str, str]] = []

    class Metric:
        def __init__(self, name: str, description: str, tag_keys: tuple[str, ...]) -> None:
            assert tag_keys == ("stage", "run")

        def set_default_tags(self, tags: dict[str, str]) -> None:
            made.append(tags)

    monkeypatch.setattr("ray.util.metrics.Counter", Metric)
    monkeypatch.setattr("ray.util.metrics.Gauge", Metric)
    Meter("tokenize", "s3://bucket/customer/archive")
    assert made and all(tags == {"stage": "tokenize", "run": "archive"} for tags in made)
