"""Ingest without Ray, and small inputs for its tests."""

from __future__ import annotations

import io
import json
import os
import tarfile
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from syllabary.shards.ingest import ingest
from syllabary.shards.ingest.config import IngestConfig
from syllabary.shards.ingest.cutting import write_shard
from syllabary.shards.ingest.ledger import read_ledger
from syllabary.shards.ingest.planning import ShardPlan, publish_plan
from syllabary.shards.ingest.sources.listing import list_source, tell_source
from syllabary.shards.ingest.sources.parquet import ParquetStream
from syllabary.shards.ingest.sources.tar import TarStream

RATE = 16_000
SMALL = {"shard_size_mb": 0.5, "max_utterance_s": 4.8, "quarantine_allowance": 1000}


def config(**values: Any) -> IngestConfig:
    return IngestConfig(**{**SMALL, **values})


def plan_source(source: str | Path, out: str | Path, settings: IngestConfig) -> list[ShardPlan]:
    source, out = str(source), str(out)
    found = list_source(tell_source(source, settings), settings).recordings
    ingest.claim_output(out, source, settings)
    return ingest.update_plan(out, found, settings)


def shard(source: str | Path, out: str | Path, settings: IngestConfig | None = None) -> dict[str, Any]:
    """The whole ingest in this process; returns the summary."""
    settings = settings or config()
    if tell_source(str(source), settings).is_streamed:
        return shard_stream(source, out, settings)
    plans = plan_source(source, out, settings)
    for plan in ingest.pending(str(out), plans):
        write_shard(str(out), plan, settings, ingest.FILES)
    return ingest.finish(str(out), plans, settings)


def shard_stream(
    source: str | Path, out: str | Path, settings: IngestConfig | None = None, keep: int | None = None
) -> dict[str, Any]:
    """Ingest of a tar or Parquet in this process; ``keep`` stops after so many shards, as a kill would."""
    from syllabary.workers.ingest.stream_tar import StreamFeed
    from syllabary.workers.ingest.tasks import write_streamed_shard

    settings = settings or config()
    is_tar = tell_source(str(source), settings).layout == "tar"
    with tempfile.TemporaryDirectory() as folder:
        spool = Path(folder)
        stream = TarStream(str(source), settings, spool) if is_tar else ParquetStream(str(source), spool)
        feed = StreamFeed(stream, str(out), settings, Path.read_bytes)
        for number, task in enumerate(feed.tasks()):
            if number == keep:
                return {}
            write_streamed_shard(*task, load=lambda data: data)
        assert not list(spool.iterdir()), "the spool is emptied"
    publish_plan(str(out), 0, feed.plans)
    return ingest.finish(str(out), feed.plans, settings, {"source_notes": stream.notes})


@contextmanager
def without_privileges() -> Iterator[None]:
    """Root may read everything: act as nobody for the length of the block."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


def ledger_of(out: str | Path) -> list[dict[str, Any]]:
    shards = sorted(path.stem for path in (Path(out) / "ledger").glob("*.parquet"))
    rows: list[dict[str, Any]] = read_ledger(str(out), shards).to_pylist()
    return rows


def outcomes(out: str | Path, recording_id: str) -> set[tuple[str, str]]:
    """(status, detail) of every span of a recording, the shard's name left out."""
    rows = [row for row in ledger_of(out) if row["recording_id"] == recording_id]
    return {(row["status"], "" if row["status"] == "shard" else row["detail"]) for row in rows}


def tree(root: str | Path) -> dict[str, bytes]:
    """Every file below a folder with its bytes."""
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(Path(root).rglob("*")) if path.is_file()}


def tone(seconds: float, rate: int = RATE, seed: int = 0, level: float = 0.2) -> np.ndarray:
    """Harmonics under a syllable rhythm, with a little noise: a voice detector takes it for speech."""
    rng = np.random.default_rng(seed)
    time = np.arange(round(seconds * rate)) / rate
    pitch = 110 + 20 * np.sin(2 * np.pi * 0.7 * time + seed)
    phase = 2 * np.pi * np.cumsum(pitch) / rate
    wave = sum(np.sin(k * phase) / k for k in range(1, 15))
    wave = wave * (0.6 + 0.4 * np.sin(2 * np.pi * 4 * time))
    return (level * wave / 2 + 0.002 * rng.standard_normal(len(time))).astype(np.float32)


def write_audio(path: Path, samples: np.ndarray, rate: int = RATE, **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, samples, rate, **options)
    return path


def librilight_json(activity: Any, *, speaker: Any = "s1", **values: Any) -> dict[str, Any]:
    return {"speaker": speaker, "book_meta": {"id": "7", "language": "English"}, "snr": 20.0,
            "voice_activity": activity, **values}  # fmt: skip


def write_librilight_file(root: Path, name: str, samples: np.ndarray, info: Mapping[str, Any] | str | None) -> Path:
    """``root/name.flac`` and its JSON (a mapping, or text as it is, or none at all)."""
    path = write_audio(root / f"{name}.flac", samples)
    if info is not None:
        text = info if isinstance(info, str) else json.dumps(info)
        (root / f"{name}.json").write_text(text)
    return path


def make_tar(path: Path, members: Mapping[str, bytes] | list[tuple[str, bytes]]) -> Path:
    with tarfile.open(path, "w", format=tarfile.GNU_FORMAT) as tar:
        for name, data in members.items() if isinstance(members, Mapping) else members:
            header = tarfile.TarInfo(name)
            header.size = len(data)
            tar.addfile(header, io.BytesIO(data))
    return path


def flac_bytes(samples: np.ndarray, rate: int = RATE) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, rate, format="FLAC")
    return buffer.getvalue()
