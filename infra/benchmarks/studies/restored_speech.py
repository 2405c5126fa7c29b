"""How near restored speech is to its original, by rulers that no training optimizes in its own units: for tokenizers of
any age, even of another version of the code.

    python infra/benchmarks/studies/restored_speech.py cut SHARDS ORIGINALS [--count 16 --seconds 6]
    python infra/benchmarks/studies/restored_speech.py score ORIGINALS RESTORED [RESTORED ...]

`cut` writes the beginning of one held-out utterance of each of the first readers as WAV. A tokenizer, of this version
or another, encodes and decodes them into a folder RESTORED of files with the same names; `score` prints the means for
each: ESTOI, STOI and the L1 distance of log-mel spectra (80 bands, both at -24 dBFS), beside those of white noise and
of a constant spectrum, the mean of the original's, which is what a decoder gives that hears nothing of its tokens.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import soundfile
import torch
from numpy.typing import NDArray
from pystoi import stoi

from syllabary.model.encoder import loudness_gain
from syllabary.model.spectral.mel import LogMel
from syllabary.shards import audio, dataset

RATE, _LEVEL_DBFS = 16_000, -24.0
Samples = NDArray[np.float32]


def log_mel(samples: Samples) -> NDArray[np.float32]:
    """Natural logarithms of the mel bands at one loudness [frames, bands]."""
    wave = torch.from_numpy(samples)
    return LogMel(RATE, 1024, 80, 256)(wave[None] * loudness_gain(wave, RATE, _LEVEL_DBFS))[0].T.numpy()


def scores(original: Samples, restored: Samples) -> tuple[float, float, float]:
    """ESTOI, STOI and the log-mel distance of two sounds, compared over the length that both have."""
    length = min(len(original), len(restored))
    original, restored = original[:length], restored[:length]
    distance = np.abs(log_mel(original) - log_mel(restored)).mean()
    return stoi(original, restored, RATE, extended=True), stoi(original, restored, RATE), float(distance)


def constant_distance(original: Samples) -> float:
    """The log-mel distance of a spectrum that stands still at the original's own mean."""
    bands = log_mel(original)
    return float(np.abs(bands - bands.mean(axis=0)).mean())


def cut(shards: str, out: Path, count: int, seconds: float) -> None:
    """Write the originals."""
    rows: dict[str, dict] = {}
    for row in sorted(dataset.read_index(shards).to_pylist(), key=lambda row: row["utterance_id"]):
        if row["split"] != "train" and row["num_samples"] >= seconds * row["sample_rate"]:
            rows.setdefault(row["speaker"], row)
    out.mkdir(parents=True, exist_ok=True)
    for number, row in enumerate(list(rows.values())[:count]):
        samples, rate = audio.decode(dataset.read_utterance(shards, row))
        if rate != RATE:
            raise SystemExit(f"{shards} has {rate} Hz; expected {RATE}")
        soundfile.write(out / f"{number:02}.wav", samples[: int(seconds * RATE)], RATE)


def read(path: Path) -> Samples:
    """Samples of a sound file at 16 kHz."""
    samples, rate = soundfile.read(path, dtype="float32")
    if rate != RATE:
        raise SystemExit(f"{path} has {rate} Hz; expected {RATE}")
    return samples


def main(arguments: Sequence[str] | None = None) -> None:
    """Cut, or score and print."""
    parser = argparse.ArgumentParser(description="How near restored speech is to its original.")
    verbs = parser.add_subparsers(dest="verb", required=True)
    cutting = verbs.add_parser("cut")
    cutting.add_argument("shards")
    cutting.add_argument("out", type=Path)
    cutting.add_argument("--count", type=int, default=16)
    cutting.add_argument("--seconds", type=float, default=6.0)
    scoring = verbs.add_parser("score")
    scoring.add_argument("originals", type=Path)
    scoring.add_argument("restored", nargs="+", type=Path)
    asked = parser.parse_args(arguments)
    if asked.verb == "cut":
        cut(asked.shards, asked.out, asked.count, asked.seconds)
        return
    originals = {path.stem: read(path) for path in sorted(asked.originals.glob("*.wav"))}
    noise = np.random.default_rng(0).standard_normal(max(map(len, originals.values()))).astype(np.float32) / 16
    print("| restored | ESTOI | STOI | mel L1 |\n| --- | --- | --- | --- |")
    print(f"| constant spectrum | – | – | {np.mean([constant_distance(o) for o in originals.values()]):.3f} |")
    kinds = {"white noise": dict.fromkeys(originals, noise)}
    for folder in asked.restored:
        kinds[folder.name] = {path.stem: read(path) for path in sorted(folder.glob("*.wav"))}
    for name, sounds in kinds.items():
        found = np.mean([scores(original, sounds[stem]) for stem, original in originals.items()], axis=0)
        print(f"| {name} | {found[0]:.3f} | {found[1]:.3f} | {found[2]:.3f} |")


if __name__ == "__main__":
    main()
