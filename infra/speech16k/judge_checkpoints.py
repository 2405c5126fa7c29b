"""ESTOI and DistillMOS of a decoder while it learned, as CSV: a line a checkpoint.

    python -m infra.speech16k.judge_checkpoints TOKENIZER SHARDS RUN CHECKPOINT... [--limit N]

TOKENIZER is what RUN began with: its encoder makes the tokens, its decoder is step 0, and all have its formant gain. A
CHECKPOINT is a folder ``step-<number>`` of RUN, or a copy of one. Judged on one held-out utterance each of the first N
speakers.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from pystoi import stoi

from infra.speech16k.make_curve import hours_of
from syllabary.model.codec import make_generator
from syllabary.model.spectral.istft import Generator
from syllabary.shards import audio, dataset
from syllabary.workers.evaluation.scoring_models import NaturalnessModel
from syllabary.workers.tokenizer.tokenizer import Tokenizer

LONGEST_S = 10
STATE = "mp_rank_00_model_states.pt"
Decode = Callable[[NDArray[np.uint16], int], NDArray[np.float32]]


def generator_of(checkpoint: Path, tokenizer: Tokenizer) -> Generator:
    """The averaged trunk and vocoder of a checkpoint of a training by its bottleneck first."""
    generator = make_generator(tokenizer.config)
    assert isinstance(generator, Generator)
    state = {}
    for part, prefix, target in (("bottleneck", "average.trunk.", "trunk."), ("vocoder", "average.", "vocoder.")):
        found = torch.load(checkpoint / part / STATE, map_location="cpu", weights_only=True)["module"]
        state |= {target + k.removeprefix(prefix): v for k, v in found.items() if k.startswith(prefix)}
    generator.load_state_dict(state)
    return generator.requires_grad_(False).eval()


def decoding(generator: Generator, tokenizer: Tokenizer) -> Decode:
    """A function of tokens and their number of samples."""

    def decode(tokens: NDArray[np.uint16], num_samples: int) -> NDArray[np.float32]:
        values = torch.from_numpy(tokenizer.dequantize(tokens))[None]
        return generator(values, torch.tensor([num_samples]))[0, :num_samples].numpy()

    return decode


def held_out(shards: str, limit: int) -> list[NDArray[np.float32]]:
    """The first utterance of each of the first speakers, at most ten seconds of it."""
    rows: dict[str, dict] = {}
    for row in sorted(dataset.read_index(shards).to_pylist(), key=lambda row: row["utterance_id"]):
        if row["split"] != "train":
            rows.setdefault(row["speaker"], row)
    waves = []
    for row in list(rows.values())[:limit]:
        samples, rate = audio.decode(dataset.read_utterance(shards, row))
        waves.append(samples[: LONGEST_S * rate])
    return waves


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description="ESTOI and DistillMOS of a decoder while it learned.")
    parser.add_argument("tokenizer")
    parser.add_argument("shards")
    parser.add_argument("run")
    parser.add_argument("checkpoints", nargs="*", type=Path)
    parser.add_argument("--limit", type=int, default=16)
    asked = parser.parse_args(arguments)
    tokenizer, naturalness, hours = Tokenizer.load(asked.tokenizer), NaturalnessModel(), hours_of(asked.run)
    rate = tokenizer.sample_rate
    decoders: list[tuple[int, Decode]] = [(0, tokenizer.decode)]
    for path in asked.checkpoints:
        decoders.append((int(path.name.removeprefix("step-")), decoding(generator_of(path, tokenizer), tokenizer)))
    waves = [(wave, tokenizer.encode(wave, rate)) for wave in held_out(asked.shards, asked.limit)]
    print("step,hours,estoi,distill_mos")
    for step, decode in decoders:
        scores = []
        for wave, encoded in waves:
            restored = decode(encoded.tokens, encoded.num_samples).astype(np.float32)
            scores.append((stoi(wave, restored, rate, extended=True), naturalness.score(restored)))
        estoi, mos = np.mean(scores, axis=0)
        print(f"{step},{hours.get(step, 0.0):.4f},{estoi:.4f},{mos:.4f}")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
