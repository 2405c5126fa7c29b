"""Real-time factors and peak memory of other codecs' shapes beside ours, all with random weights, in interleaved runs.

    python infra/benchmarks/bench_peers.py [--seconds 3] [--rounds 2] [--only paper,mimi]
    python infra/benchmarks/bench_peers.py --seconds 6         as results are recorded
    python infra/benchmarks/bench_peers.py --roofline [--seconds 6] [--only paper]

Every codec runs in a process of its own with one thread, so that peak memory is its own; rounds of all take turns. The
real-time factor is CPU seconds per second of audio, the best of the rounds, and its ratio that to the first codec's.
``--roofline``: how far ours is from the GEMM peak of both cores,
as two processes of one thread and as one process of two (wall time, so only on an idle machine).
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from command_line import Parser, at_least, in_process, known, run, seconds_of_audio

from syllabary.model.codec import Codec
from syllabary.workers.operate.show import gflop_of
from syllabary.workers.recipes.named import RECIPES
from syllabary.workers.tokenizer.networks import build_encoder, build_generator

OURS = ("paper", "base16k", "fast16k", "small")
# DAC's published configurations at 16 and 24 kHz; the defaults of EnCodec and Mimi are their 24 kHz ones.
DAC_16K = {"sampling_rate": 16_000, "downsampling_ratios": [2, 4, 5, 8], "upsampling_ratios": [8, 5, 4, 2],
           "hop_length": 320, "n_codebooks": 12}  # fmt: skip
DAC_24K = {**DAC_16K, "sampling_rate": 24_000, "n_codebooks": 32}
PEERS = ("encodec_24k", "mimi", "dac_16k", "dac_24k")
Pair = tuple[int, Callable[[torch.Tensor], object], Callable[[object], object]]


def ours(recipe: str) -> Pair:
    """Sample rate, encode and decode of a recipe."""
    config = RECIPES[recipe]().model
    codec = Codec(config).eval().requires_grad_(False)
    encoder = build_encoder(config, codec.encoder.state_dict(), torch.device("cpu"))
    generator = build_generator(config, codec.generator.state_dict(), torch.device("cpu"))
    fsq, hop = codec.fsq, config.framing.hop_length

    def encode(wave: torch.Tensor) -> object:
        return fsq(encoder(wave[0].clone(), torch.tensor([wave.shape[-1]])).latents).values

    return config.encoder.sample_rate, encode, lambda v: generator(v, torch.tensor([v.shape[-1] * hop]))


def peer(name: str) -> Pair:
    """Sample rate, encode and decode of a model of transformers with random weights."""
    import transformers as hf

    if name.startswith("dac"):
        config = hf.DacConfig(**(DAC_16K if name == "dac_16k" else DAC_24K))
        model = hf.DacModel(config).eval()
        return config.sampling_rate, lambda w: model.encode(w).audio_codes, lambda c: model.decode(audio_codes=c)
    if name == "mimi":
        mimi = hf.MimiModel(hf.MimiConfig()).eval()
        return mimi.config.sampling_rate, lambda w: mimi.encode(w).audio_codes, lambda c: mimi.decode(c)
    encodec = hf.EncodecModel(hf.EncodecConfig()).eval()
    return encodec.config.sampling_rate, encodec.encode, lambda e: encodec.decode(e.audio_codes, e.audio_scales)


def measure(name: str, seconds: float) -> dict[str, float]:
    """Encode and decode once to warm up and once to measure, in this process."""
    torch.manual_seed(0)
    rate, encode, decode = ours(name) if name in OURS else peer(name)
    hop = RECIPES[name]().model.framing.hop_length if name in OURS else 1
    wave = torch.randn(1, 1, -(-int(seconds * rate) // hop) * hop) * 0.1
    audio_s, found, codes = wave.shape[-1] / rate, {}, encode(wave)
    for what, action in (("encode", lambda: encode(wave)), ("decode", lambda: decode(codes))):
        Path("/proc/self/clear_refs").write_text("5")
        action()
        started = time.process_time()
        action()
        found[what] = (time.process_time() - started) / audio_s
        found[f"{what}_mib"] = int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) / 1024
    return found


def table(names: list[str], seconds: float, rounds: int) -> None:
    """One row a codec, the best of the rounds."""
    best: dict[str, dict[str, float]] = {}
    for _ in range(rounds):
        for name in names:
            said = in_process(__file__, ["--measure", name, "--seconds", str(seconds)])
            found = json.loads(said.strip().splitlines()[-1])
            best[name] = {k: min(v, best.get(name, found)[k]) for k, v in found.items()}
    print(f"| random weights, one thread | encode, CPU s per audio s | of {names[0]}'s | decode | of {names[0]}'s "
          "| peak MiB to encode | to decode |\n|" + " --- |" * 7)  # fmt: skip
    for name, row in best.items():
        costs = [f"{row[what]:.4f} | {row[what] / best[names[0]][what]:.2f} x" for what in ("encode", "decode")]
        print(f"| {name} | {' | '.join(costs)} | {row['encode_mib']:.0f} | {row['decode_mib']:.0f} |")


def work(recipe: str, seconds: float, threads: int) -> None:
    """Print wall seconds of an encoding, and of a large matrix product beside it, at so many threads."""
    torch.set_num_threads(threads)
    rate, encode, _ = ours(recipe)
    hop = RECIPES[recipe]().model.framing.hop_length
    wave, a = torch.randn(1, 1, -(-int(seconds * rate) // hop) * hop) * 0.1, torch.randn(2048, 2048)
    encode(wave)
    times = {}
    for what, action in (("encode", lambda: encode(wave)), ("gemm", lambda: a @ a)):
        started = time.perf_counter()
        action()
        times[what] = time.perf_counter() - started
    print(json.dumps({**times, "audio_s": wave.shape[-1] / rate}))


def roofline(recipes: list[str], seconds: float) -> None:
    """The share of both cores' GEMM peak that an encoding reaches, either way of using them."""
    for recipe in recipes:
        gflop = gflop_of(RECIPES[recipe]().model)["encode"]
        for processes, threads in ((2, 1), (1, 2)):
            command = [sys.executable, __file__, "--work", recipe, str(threads), "--seconds", str(seconds)]
            started = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(processes)]
            found = [json.loads(process.communicate()[0].strip().splitlines()[-1]) for process in started]
            rate = sum(gflop * f["audio_s"] / f["encode"] for f in found)
            peak = sum(2 * 2048**3 / f["gemm"] / 1e9 for f in found)
            print(f"{recipe}: {processes} processes x {threads} threads: {rate:.0f} GFLOP/s of {peak:.0f} "
                  f"({rate / peak:.0%}), {sum(f['audio_s'] / f['encode'] for f in found):.1f} x real time")  # fmt: skip


def main() -> None:
    """Parse the command line and print the tables."""
    parser = Parser(__doc__)
    parser.add_argument("--seconds", type=seconds_of_audio, default=3.0, help="of the clip; results are of 6 and 15")
    parser.add_argument("--rounds", type=at_least(1), default=2, help="the best of them counts")
    parser.add_argument("--only", default=",".join((*OURS, *PEERS)), help="of these, with commas between them")
    parser.add_argument("--roofline", action="store_true", help="ours against both cores' GEMM peak, by wall time")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    parser.add_argument("--work", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    names = known(arguments.only, (*OURS, *PEERS), "codec")
    torch.set_num_threads(1)
    with torch.inference_mode():
        if arguments.measure:
            print(json.dumps(measure(arguments.measure, arguments.seconds)))
        elif arguments.work:
            work(arguments.work[0], arguments.seconds, int(arguments.work[1]))
        elif arguments.roofline:
            roofline([n for n in names if n in OURS], arguments.seconds)
        else:
            table(names, arguments.seconds, arguments.rounds)


if __name__ == "__main__":
    run(main)
