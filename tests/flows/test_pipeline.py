"""The whole pipeline as a user runs it: one command, real servers, on S3 and on a folder, and after a kill."""

from __future__ import annotations

import base64
import hashlib
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import pyarrow.parquet as pq
import pytest
import soundfile as sf
from leftovers import artifacts, everything

from infra.stack.object_store import ObjectStore
from syllabary.shards import outputs, store
from syllabary.shards.archive.packing import Packing
from syllabary.workers.control.timings import read_timings
from syllabary.workers.forecast.actual import actual_of, restored_fraction
from syllabary.workers.recipes.named import resolve
from tests.helpers.standin import save_untrained

SYLLABARY = str(Path(sys.executable).parent / "syllabary")
SHORT = (
    "pretrain.num_steps=6", "pretrain.checkpoint_every=2", "pretrain.validate_every=3",
    "codec.num_steps=6", "codec.checkpoint_every=2", "codec.validate_every=3", "codec.bottleneck.share=0.5",
    "codec.vocoder.discriminator_start_step=1",
    "ingest.valid_percent=30",
)  # fmt: skip


def command(source: str, out: str) -> list[str]:
    sets = [part for override in SHORT for part in ("--set", override)]
    return [SYLLABARY, "run", source, "--out", out, "--recipe", "tiny", *sets]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Prefect's database and profiles in a folder of this test, and no other server."""
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path / "prefect"))
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    return tmp_path


def run(source: str, out: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(source, out), capture_output=True, text=True, timeout=1000, check=False)


def upload(corpus: Path, bucket: str) -> str:
    for path in corpus.rglob("*"):
        if path.is_file():
            store.publish_bytes(store.join(bucket, "corpus", path.relative_to(corpus).as_posix()), path.read_bytes())
    return store.join(bucket, "corpus")


@pytest.mark.timeout(1500)
def test_the_pipeline_runs_on_s3_and_a_second_run_has_nothing_to_do(
    s3: ObjectStore, corpus: Path, home: Path, sessions: Path
) -> None:
    bucket = s3.bucket()
    source, out = upload(corpus, bucket), store.join(bucket, "run")
    first = run(source, out)
    assert first.returncode == 0, first.stderr[-3000:]
    check_archive(out)
    check_restored(out)
    check_summary(out)
    check_timings(out)
    started = time.monotonic()
    second = run(source, out)
    check_artifacts(home)
    check_no_keys(s3, [home, sessions], [bucket], first.stdout + first.stderr + second.stderr)
    assert second.returncode == 0 and "nothing to do" in second.stderr
    assert "Prefect" not in second.stderr, f"a finished run started a server ({time.monotonic() - started:.0f} s)"


@pytest.fixture
def sessions(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder of Ray's sessions, below a short path: that of a socket is at most 107 bytes long."""
    with tempfile.TemporaryDirectory(prefix="ray-", dir="/tmp") as folder:
        monkeypatch.setenv("RAY_TMPDIR", folder)
        yield Path(folder)


def check_artifacts(home: Path) -> None:
    """What an operator saw of the run in Prefect."""
    found = artifacts(home / "prefect")
    kinds = {key: kind for key, (kind, _) in found.items()}
    expected = {
        "shard-progress": "progress", "shard-ledger": "table", "shard-summary": "markdown", "pretrain-loss": "image",
        "train-codec-mel": "image", "train-codec-samples": "markdown", "train-codec-spectrogram": "image",
        "tokenize-ledger": "table", "verify-summary": "markdown", "restore-samples": "markdown",
        "pipeline-summary": "markdown",
    }  # fmt: skip
    assert expected.items() <= kinds.items(), expected.items() - kinds.items()
    assert float(found["shard-progress"][1]) == 100
    assert "data:image/png;base64," in found["pretrain-loss"][1]


def check_no_keys(s3: ObjectStore, folders: list[Path], uris: list[str], output: str) -> None:
    """Neither key, plain or as base64, in anything that the run left."""
    keys = [key.encode() for key in (s3.access_key, s3.secret_key)]
    keys += [base64.b64encode(key).rstrip(b"=") for key in keys]
    looked_at, ray_logs = 0, 0
    for where, data in everything(folders, uris, output):
        looked_at += 1
        ray_logs += "/logs/" in where
        assert not [key for key in keys if key in data], f"a key of the object store is in {where}"
    assert looked_at > 100 and ray_logs > 10 and any(folder.rglob("prefect.db") for folder in folders)


def check_archive(out: str) -> None:
    """Without our reader: frames x 19 tokens, each valid for its position, for every utterance of the index."""
    packing = Packing(128, 4, 7)
    seen = []
    for part in store.list_files(store.join(out, "archive", "parts"), suffix=".parquet"):
        for row in pq.read_table(store.as_buffer(part.uri)).to_pylist():
            tokens = np.array(row["tokens"], np.uint16).reshape(-1, 19)
            assert len(tokens) == row["num_frames"] > 0
            assert (tokens < np.array(packing.position_sizes)).all()
            assert (packing.pack(packing.unpack(tokens)) == tokens).all()
            seen.append(row["utterance_id"])
    done = outputs.read_done(store.join(out, "shards"))
    assert done is not None
    assert len(seen) == len(set(seen)) == sum(split["num_utterances"] for split in done["splits"].values())


def check_restored(out: str) -> None:
    """Exactly num_samples for each restored utterance, as the archive has it."""
    lengths = {}
    for part in store.list_files(store.join(out, "archive", "parts"), suffix=".parquet"):
        lengths |= {r["utterance_id"]: r["num_samples"] for r in pq.read_table(store.as_buffer(part.uri)).to_pylist()}
    restored = store.join(out, "restored")
    rows = pq.read_table(store.as_buffer(store.join(restored, "manifest.parquet"))).to_pylist()
    assert rows
    for row in rows:
        samples, rate = sf.read(store.as_buffer(store.join(restored, row["file"])))
        assert (len(samples), rate) == (lengths[row["utterance_id"]], row["sample_rate"])
        assert np.abs(samples).max() > 0


def check_summary(out: str) -> None:
    text = store.read_bytes(store.join(out, "summary.md")).decode()
    assert "payload 640, nominal 665, stored as uint16 760 bit/s" in text and "on held-out speakers" in text
    for told in ("with its frames shuffled", "lies between clips", "once the place is known", "| heard | ESTOI "):
        assert told in text, told
    assert "## Warnings" in text and "use of the codes" not in text
    done = outputs.read_done(store.join(out, "shards"))
    assert done is not None and sum(row["percent"] for row in done["ledger"]) == pytest.approx(100, abs=0.01)
    for name in ("pretrain", "codec"):
        assert store.read_bytes(store.join(out, "curves", f"{name}.png")).startswith(b"\x89PNG")


def check_timings(out: str) -> None:
    """Every stage that the plan predicts and that keeps no pace of its own was tried once and took its time."""
    times = read_timings(out)
    assert set(times) == {"shard", "tokenize", "restore"}
    assert all((one.began, one.ended) == (1, 1) and one.seconds > 0 for one in times.values())
    actual = actual_of(out)
    assert actual["shard_h"] == times["shard"].seconds / 3600
    fraction = restored_fraction(out)
    assert fraction is not None and 0 < fraction < 1


@pytest.mark.long
@pytest.mark.timeout(1500)
def test_a_run_begins_with_a_tokenizer_and_lets_it_be_heard(corpus: Path, home: Path) -> None:
    """Both trainings start from its weights, the claims name it, and the page plays it beside the run's own."""
    begun = save_untrained(home / "begun", resolve("tiny"))
    out = home / "run"
    ended = subprocess.run(
        [*command(str(corpus), str(out)), "--init", str(home / "begun")],
        capture_output=True, text=True, timeout=1300, check=False,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr[-3000:]
    init = outputs.read_claim(str(out), "run")["inputs"]["init"]
    assert init["uri"] == str(home / "begun") and init["encoder_digest"] == begun.encoder
    pretrain, codec = (outputs.read_claim(str(out / stage))["inputs"] for stage in ("pretrain", "codec"))
    assert pretrain["init"] == codec["init"] != "none" and codec["encoder"] == "none"
    page = (out / "summary.html").read_text()
    assert page.count("data:audio/flac;base64,") >= 3 and f"{home / 'begun'}, as it is" in page
    assert list((out / "before").rglob("*.tokens.safetensors")) and list((out / "before").rglob("*.flac"))
    assert "begun with" in ended.stderr
    assert (out / "tokenizer" / "mel_head.safetensors").exists()
    again = subprocess.run(command(str(corpus), str(out)), capture_output=True, text=True, timeout=100, check=False)
    assert again.returncode == 2 and "belongs to another run: inputs.init" in again.stderr


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_a_run_killed_at_random_moments_ends_in_the_state_of_an_unbroken_one(corpus: Path, home: Path) -> None:
    whole, broken = str(home / "whole"), str(home / "broken")
    started = time.monotonic()
    assert run(str(corpus), whole).returncode == 0
    lasted = time.monotonic() - started
    check_readme_reader(whole)
    chance = random.Random(0)
    for share in (0.15, 0.35, 0.5, 0.65, 0.8):
        kill_after(command(str(corpus), broken), lasted * share * chance.uniform(0.8, 1.2))
    last = run(str(corpus), broken)
    assert last.returncode == 0, last.stderr[-3000:]
    assert state(broken) == state(whole)


def check_readme_reader(out: str) -> None:
    """The README's ten lines read this archive with pyarrow alone."""
    readme = (Path(__file__).parent.parent.parent / "README.md").read_text()
    code = readme.split("```python\n")[1].split("```")[0].replace("runs/demo", out)
    reader = subprocess.run([sys.executable, "-c", code], cwd="/", capture_output=True, text=True, check=False)
    assert reader.returncode == 0 and "frames of 19 tokens" in reader.stdout, reader.stderr


def kill_after(arguments: list[str], seconds: float) -> None:
    """SIGKILL to the command alone; what it started has to notice by itself."""
    process = subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=os.environ)
    time.sleep(seconds)
    children = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
    process.send_signal(signal.SIGKILL)
    process.wait()
    _, alive = psutil.wait_procs(children, timeout=120)  # Ray's agents notice the raylet's end by polling
    assert not alive, f"orphans: {[(p.pid, p.name()) for p in alive]}"


def state(out: str) -> dict[str, str]:
    """Digests of every output; timings (TensorBoard's too) are the machine's, claims name their own folder, and events
    their time. A card may name the folder of its run; what vouches for the cards is checked against them."""
    skipped = ("timings.parquet", "stage_timings.json", ".syllabary", "output.json", "summary.md", "about.sha256")
    contents = {
        file.name: store.read_bytes(file.uri)
        for file in store.list_files(out)
        if not file.name.endswith(skipped) and "/checkpoints/" not in file.name and "/events/" not in file.name
    }
    for line in store.read_bytes(store.join(out, "archive", "about.sha256")).decode().splitlines():
        digest, _, name = line.partition("  ")
        assert hashlib.sha256(store.read_bytes(store.join(out, "archive", name))).hexdigest() == digest, name
    cards = {name: data.replace(out.encode(), b"OUT") for name, data in contents.items() if name.endswith("README.md")}
    return {name: hashlib.sha256(data).hexdigest() for name, data in (contents | cards).items()}
