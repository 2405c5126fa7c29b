"""How many digits differ between two instruction sets of this CPU, and by how much the latents do.

    python infra/benchmarks/studies/instruction_sets.py SPEECH [--recipe small] [--clips 260] [--seconds 8]

The same clips of SPEECH, a folder of FLAC, through the same random weights in two processes: one as the machine is,
one with SSE4.1 alone. Prints both counts; the digits that differ are luck by their number, not a promise.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

PLAIN = {"ONEDNN_MAX_CPU_ISA": "SSE41", "ATEN_CPU_CAPABILITY": "default"}


def encode(speech: Path, folder: Path, recipe_name: str, num_clips: int, seconds: float, out: Path) -> None:
    """Latents and tokens of the first clips into ``out``, by the tokenizer in ``folder``, made when it is not there."""
    import torch

    from syllabary.model.codec import Codec
    from syllabary.shards import audio
    from syllabary.workers.recipes.named import resolve
    from syllabary.workers.tokenizer.tokenizer import Tokenizer, save_tokenizer

    torch.manual_seed(0)
    if not folder.exists():
        model = resolve(recipe_name).model
        codec = Codec(model)
        states = codec.encoder.state_dict(), codec.generator.state_dict()
        save_tokenizer(str(folder), model, *states, recipe={"name": recipe_name})
    tokenizer = Tokenizer.load(str(folder), decoder=False)
    found: dict[str, np.ndarray] = {}
    for number, path in enumerate(sorted(speech.rglob("*.flac"))[:num_clips]):
        samples, rate = audio.decode(path.read_bytes())
        clip = audio.resample(samples, rate, tokenizer.sample_rate)[: int(seconds * tokenizer.sample_rate)]
        found[f"digits-{number}"] = tokenizer.packing.unpack(tokenizer.encode(clip, tokenizer.sample_rate).tokens)
        found[f"latents-{number}"] = tokenizer.latents(clip, tokenizer.sample_rate)
    np.savez(out, **found)


def compared(options: argparse.Namespace, folder: Path) -> str:
    """One line: what differs."""
    files = [folder / "as-it-is.npz", folder / "plain.npz"]
    for file, variables in zip(files, ({}, PLAIN), strict=True):
        command = [sys.executable, __file__, *sys.argv[1:], "--into", str(folder / "tokenizer"), str(file)]
        subprocess.run(command, check=True, env=os.environ | variables)
    one, other = (np.load(file) for file in files)
    digits = [name for name in one.files if name.startswith("digits")]
    latents = [name.replace("digits", "latents") for name in digits]
    differ = sum(int((one[name] != other[name]).sum()) for name in digits)
    apart = max(float(np.abs(one[name] - other[name]).max()) for name in latents)
    spread = float(np.concatenate([one[name].ravel() for name in latents]).std())
    total = sum(one[name].size for name in digits)
    return f"{differ:,} of {total:,} digits differ; latents by up to {apart / spread:.1e} of their deviation"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("speech", type=Path)
    parser.add_argument("--recipe", default="small")
    parser.add_argument("--clips", type=int, default=260)
    parser.add_argument("--seconds", type=float, default=8.0)
    parser.add_argument("--into", nargs=2, type=Path, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.into:
        encode(asked.speech, asked.into[0], asked.recipe, asked.clips, asked.seconds, asked.into[1])
    else:
        with tempfile.TemporaryDirectory() as made:
            print(compared(asked, Path(made)))
