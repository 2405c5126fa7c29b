"""Fixtures that more than one room needs: a real S3 server and a small corpus."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import hypothesis
import numpy as np
import pytest
import soundfile as sf

from infra.stack.object_store import ObjectStore, start_object_store

RATE = 16_000

# Machines differ in speed and a test must not: no deadlines, and the same examples in every run.
hypothesis.settings.register_profile(
    "syllabary", deadline=None, derandomize=True, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("syllabary")


@pytest.fixture(scope="session")
def object_store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ObjectStore]:
    """A real SeaweedFS for the whole session."""
    store = start_object_store(tmp_path_factory.mktemp("weed"))
    yield store
    store.stop()


@pytest.fixture
def s3(object_store: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> ObjectStore:
    """The S3 server with the standard AWS variables set for this test and its child processes."""
    for key, value in object_store.env.items():
        monkeypatch.setenv(key, value)
    _forget_s3_clients()
    return object_store


def _forget_s3_clients() -> None:
    import s3fs

    s3fs.S3FileSystem.clear_instance_cache()


@pytest.fixture
def add_worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], None]:
    """Puts a module of a test's own, with its job, beside the real verbs, for child processes: name, source."""

    def add(name: str, source: str) -> None:
        (tmp_path / "verbs").mkdir()
        (tmp_path / "verbs" / f"{name}.py").write_text(source)
        (tmp_path / "sitecustomize.py").write_text(
            "import sys\nif 'syllabary.workers' in sys.orig_argv:\n    import syllabary.workers\n"
            f"    syllabary.workers.__path__.append({str(tmp_path / 'verbs')!r})\n    import syllabary.workers.{name}\n"
        )
        monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{Path.cwd()}")

    return add


@pytest.fixture
def open_tmp() -> Iterator[Path]:
    """A temporary folder that a user without privileges can reach, too: pytest's own are closed to others."""
    with tempfile.TemporaryDirectory(prefix="syllabary-open-") as folder:
        Path(folder).chmod(0o777)
        yield Path(folder)


def voiced(rng: np.random.Generator, seconds: float, pitch_hz: float) -> np.ndarray:
    """Something a voice detector takes for speech: harmonics of a wandering pitch under moving formants."""
    n = int(seconds * RATE)
    t = np.arange(n) / RATE
    pitch = pitch_hz * (1 + 0.1 * np.sin(2 * np.pi * 0.7 * t + rng.uniform(0, 6)))
    phase = 2 * np.pi * np.cumsum(pitch) / RATE
    formants = [600 + 200 * np.sin(2 * np.pi * 1.9 * t), 1500 + 400 * np.sin(2 * np.pi * 1.1 * t + 1)]
    wave = np.zeros(n)
    for k in range(1, 30):
        gain = sum(np.exp(-(((k * pitch - f) / 250) ** 2)) for f in formants) + 0.05
        wave += gain * np.sin(k * phase) / k**0.3
    syllables = 0.55 + 0.45 * np.sin(2 * np.pi * 4 * t + rng.uniform(0, 6))
    return (0.12 * wave * syllables + 0.002 * rng.standard_normal(n)).astype(np.float32)


def librilight_recording(rng: np.random.Generator, num_segments: int, pitch_hz: float) -> tuple[np.ndarray, list]:
    """Segments of 2 to 6 s between silences of 0.6 to 1.2 s, and their voice activity in seconds."""
    pieces, spans, at = [], [], 0.0
    for _ in range(num_segments):
        gap, length = round(rng.uniform(0.6, 1.2), 2), round(rng.uniform(2, 6), 2)
        pieces += [0.001 * rng.standard_normal(int(gap * RATE)), voiced(rng, length, pitch_hz)]
        spans.append([round(at + gap, 2), round(at + gap + length, 2)])
        at += gap + length
    return np.clip(np.concatenate(pieces), -0.99, 0.99).astype(np.float32), spans


def write_librilight(root: Path, num_speakers: int, num_files: int, num_segments: int, seed: int = 0) -> Path:
    """A LibriLight tree ``root/SPEAKER/BOOK/FILE.{flac,json}`` of synthesized voices; deterministic in ``seed``."""
    rng = np.random.default_rng(seed)
    for speaker in range(num_speakers):
        for number in range(num_files):
            book = root / str(100 + speaker) / f"book_{number}_16k"
            book.mkdir(parents=True)
            wave, spans = librilight_recording(rng, num_segments, 90 + 15 * speaker)
            name = f"chapter_{speaker:02}_{number:02}_16k"
            sf.write(book / f"{name}.flac", wave, RATE, subtype="PCM_16")
            meta = {"id": str(number), "title": f"Book {number}", "genre": None, "language": "English"}
            info = {"speaker": str(100 + speaker), "book_meta": meta, "snr": 25.0, "voice_activity": spans}
            (book / f"{name}.json").write_text(json.dumps(info))
    return root


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve speakers, one recording each of about 25 s, in LibriLight's layout. Read only."""
    return write_librilight(tmp_path_factory.mktemp("corpus"), num_speakers=12, num_files=1, num_segments=5)
