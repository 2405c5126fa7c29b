"""Digits and sound of an exported tokenizer against the tokenizer.

    python infra/benchmarks/studies/portable_parity.py SPEECH

Of ``--count`` utterances of at most 10 s, spread over the folder, by the reader that the export ships: every frame
whose digits differ, with its margin, every utterance whose sound differs by more than 1e-4, and the time of both.
"""

from __future__ import annotations

import argparse
import importlib.util
import time
from pathlib import Path

import numpy as np
import soundfile
import torch

from syllabary import Tokenizer

SECONDS, NEAR = 10, 1e-4


def main() -> None:
    """Print exceptions and totals."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("speech", type=Path)
    parser.add_argument("--graphs", type=Path, required=True, help="what `syllabary export --format onnx` wrote")
    parser.add_argument("--tokenizer", default="builtin:speech16k")
    parser.add_argument("--count", type=int, default=200)
    given = parser.parse_args()
    torch.set_num_threads(1)
    tokenizer, reader = Tokenizer.load(given.tokenizer), _reader(given.graphs)
    frames = differing = far = 0
    spent = {"encode torch": 0.0, "encode onnx": 0.0, "decode torch": 0.0, "decode onnx": 0.0}
    errors = []
    for number, (name, wav) in enumerate(_utterances(given.speech, given.count, tokenizer.sample_rate)):
        encoded = _timed(spent, "encode torch", lambda w=wav: tokenizer.encode(w, tokenizer.sample_rate))
        tokens = _timed(spent, "encode onnx", lambda w=wav: reader.encode(w))
        own = tokenizer.packing.unpack(encoded.tokens), tokenizer.packing.unpack(tokens)
        margins, wrong = reader.margins(wav), (own[0] != own[1]).sum(axis=1)
        for frame in np.flatnonzero(wrong):
            print(f"{name} frame {frame}: {wrong[frame]} digits differ, margin {margins[frame]:.1e}")
        frames, differing = frames + len(wrong), differing + int((wrong > 0).sum())
        whole = _timed(spent, "decode torch", lambda e=encoded: tokenizer.decode(e.tokens, e.num_samples))
        sound = _timed(spent, "decode onnx", lambda e=encoded: reader.decode(e.tokens, e.num_samples))
        apart = np.abs(sound - whole)
        errors.append((float(apart.max()), float(np.sqrt(np.mean(apart**2)))))
        if errors[-1][0] > NEAR:
            far += 1
            beyond = float((apart > NEAR).mean())
            print(
                f"{name}: sound differs by {errors[-1][0]:.1e} at most, {beyond:.2%} of samples by more than {NEAR:g}"
            )
        if number == given.count - 1:
            break
    most, rms = np.array(errors).T
    print(f"{len(errors)} utterances, {frames} frames: digits differ in {differing} frames")
    print(
        f"sound: largest difference median {np.median(most):.1e}, highest {most.max():.1e}; RMS at most {rms.max():.1e}"
    )
    print(f"       more than {NEAR:g} somewhere in {far} utterances")
    print("; ".join(f"{what} {seconds:.1f} s" for what, seconds in spent.items()))


def _reader(graphs: Path):  # type: ignore[no-untyped-def]
    spec = importlib.util.spec_from_file_location("read_onnx", graphs / "read_onnx.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.OnnxTokenizer(graphs)


def _utterances(folder: Path, count: int, rate: int):  # type: ignore[no-untyped-def]
    files = sorted(path for path in folder.rglob("*") if path.suffix in (".flac", ".wav"))
    a_file = -(-count // len(files))
    for path in files[:: max(1, len(files) // count)]:
        for part in range(a_file):
            wav, found = soundfile.read(path, start=part * SECONDS * rate, frames=SECONDS * rate, dtype="float32")
            if found == rate and len(wav) > rate:
                yield f"{path.relative_to(folder)} from {part * SECONDS} s", wav


def _timed(spent, what, call):  # type: ignore[no-untyped-def]
    before = time.perf_counter()
    result = call()
    spent[what] += time.perf_counter() - before
    return result


if __name__ == "__main__":
    main()
