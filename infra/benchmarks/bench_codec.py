"""Encode and decode against the published structure, same weights, same clip, same threads, interleaved runs.

    python infra/benchmarks/bench_codec.py [--seconds 6] [--rounds 2] [--recipes paper,base16k]
    python infra/benchmarks/bench_codec.py --seconds 15 --rounds 3         as results are recorded
    python infra/benchmarks/bench_codec.py --device cuda [--batch 16]      the plain modules, eager and compiled

For each recipe: the plain published structure (tests/parity/published_model.py), ours at fp32 and ours at bf16. CPU
seconds of this process at one thread (which a busy machine disturbs less than wall time), the best of the rounds;
share of the GEMM peak measured in the same run; flipped indices; largest difference of decoded samples; peak memory of
a process of its own for each. A CPU without instructions for bf16 has no row of it.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from command_line import Parser, at_least, in_process, run, seconds_of_audio

from syllabary.model.codec import Codec
from syllabary.workers.operate.show import gflop_of
from syllabary.workers.recipes.named import resolve
from syllabary.workers.tokenizer.networks import build_encoder, build_generator, computes_bf16

sys.path.insert(0, str(Path(__file__).parents[2] / "tests" / "parity"))
import published_model

CPU = torch.device("cpu")


def best_of(rounds: int, actions: dict[str, Callable[[], torch.Tensor]]) -> tuple[dict[str, float], dict]:
    """Best CPU seconds and the last result of each action, one round of all after another."""
    best, results = dict.fromkeys(actions, float("inf")), {}
    for _ in range(rounds):
        for name, action in actions.items():
            started = time.process_time()
            results[name] = action()
            best[name] = min(best[name], time.process_time() - started)
    return best, results


def gemm_gflops() -> float:
    """Peak of a large fp32 matrix product at one thread."""
    a, b = torch.randn(2048, 2048), torch.randn(2048, 2048)
    best, _ = best_of(8, {"gemm": lambda: a @ b})
    return 2 * 2048**3 / best["gemm"] / 1e9


def variants(recipe: str, seconds: float) -> tuple[dict, dict, Codec, float]:
    """Encode and decode actions of the three variants."""
    config = resolve(recipe).model
    torch.manual_seed(0)
    codec = Codec(config).eval().requires_grad_(False)
    framing = config.framing
    frames = framing.num_frames(int(seconds * framing.sample_rate))
    length = torch.tensor([frames * framing.hop_length])
    wave = torch.randn(1, int(length), generator=torch.Generator().manual_seed(1)) * 0.1
    values = codec.fsq(torch.randn(1, codec.fsq.dims, frames, generator=torch.Generator().manual_seed(2))).values
    ours = build_encoder(config, codec.encoder.state_dict(), CPU)
    generator = build_generator(config, codec.generator.state_dict(), CPU)

    encoders = {"ours fp32": lambda: ours(wave.clone(), length).latents}
    if computes_bf16(CPU):
        half = config.model_copy(update={"encoder": config.encoder.model_copy(update={"precision": "bf16"})})
        bf16 = build_encoder(half, codec.encoder.state_dict(), CPU)

        def encode_bf16() -> torch.Tensor:
            with torch.autocast("cpu", torch.bfloat16):
                return bf16(wave.clone(), length).latents.float()

        encoders["ours bf16"] = encode_bf16
    decoders = {"ours fp32": lambda: generator(values.clone(), length)}
    if config.decoder.kind == "hifigan":
        gain = codec.encoder.input_gain  # the published structure has no scale of its own for its input
        encoders = {"published fp32": lambda: published_model.encode(codec, wave * gain), **encoders}
        decoders = {"published fp32": lambda: published_model.decode(codec, values), **decoders}
    return encoders, decoders, codec, int(length) / framing.sample_rate


def report(recipe: str, seconds: float, rounds: int) -> None:
    """One table for one recipe."""
    encoders, decoders, codec, audio_s = variants(recipe, seconds)
    gflop, peak = gflop_of(resolve(recipe).model), gemm_gflops()
    print(f"\n## {recipe}: {audio_s:.1f} s of audio; GEMM peak {peak:.0f} GFLOP/s at one thread\n")
    print("| | CPU s per audio s | GFLOP/s | of peak | against published | result |")
    print("| --- | --- | --- | --- | --- | --- |")
    for what, actions in (("encode", encoders), ("decode", decoders)):
        best, results = best_of(rounds, actions)
        first = next(iter(best))
        for name, cpu_s in best.items():
            rate = gflop[what] * audio_s / cpu_s
            note = compare(what, codec, results[first], results[name])
            print(f"| {what} {name} | {cpu_s / audio_s:.4f} | {rate:.0f} | {rate / peak:.0%} | "
                  f"{best[first] / cpu_s:.2f} x | {note} |", flush=True)  # fmt: skip


def compare(what: str, codec: Codec, expected: torch.Tensor, found: torch.Tensor) -> str:
    """Equal indices of latents, or the largest difference of samples."""
    if what == "decode":
        return f"differs by at most {float((expected - found).abs().max()):.1e}"
    equal = codec.fsq(found).level_indices == codec.fsq(expected).level_indices
    difference = float((found - expected).abs().max())
    return f"{float(equal.float().mean()):.2%} of indices equal, latents differ by at most {difference:.1e}"


PRECISIONS = {"fp32": (torch.float32, False), "tf32": (torch.float32, True), "bf16": (torch.bfloat16, False)}


def report_modules(recipe: str, seconds: float, rounds: int, device: torch.device, batch: int) -> None:
    """The plain modules on a device: every precision, eager and compiled, one after another."""
    config = resolve(recipe).model
    torch.manual_seed(0)
    codec = Codec(config).eval().requires_grad_(False).to(device)
    frames = config.framing.num_frames(int(seconds * config.framing.sample_rate))
    num_samples = torch.full((batch,), frames * config.framing.hop_length)
    wave = torch.randn(batch, int(num_samples[0]), device=device) * 0.1
    values = codec.fsq(torch.randn(batch, codec.fsq.dims, frames, device=device)).values
    audio_s, gflop = batch * int(num_samples[0]) / config.framing.sample_rate, gflop_of(config)
    print(f"\n## {recipe} on {device}: {batch} clips, {audio_s:.0f} s of audio\n")
    print("| | audio s per s | memory MiB | TFLOP/s | of GEMM peak |")
    print("| --- | --- | --- | --- | --- |")
    for precision, (dtype, allow_tf32) in PRECISIONS.items():
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = allow_tf32
        peak = device_gemm_flops(device, dtype, rounds)
        for how in ("eager", "compiled"):
            wrap = torch.compile if how == "compiled" else (lambda module: module)
            parts = (("encode", wrap(codec.encoder), wave), ("decode", wrap(codec.generator), values))
            for what, module, argument in parts:
                with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
                    best_s, mib = device_seconds(lambda m=module, a=argument: m(a, num_samples), device, rounds)
                rate = gflop[what] * 1e9 * audio_s / best_s
                print(f"| {what} {precision} {how} | {audio_s / best_s:.1f} | {mib:.0f} | {rate / 1e12:.2f} | "
                      f"{rate / peak:.0%} |", flush=True)  # fmt: skip


def device_seconds(action: Callable[[], object], device: torch.device, rounds: int) -> tuple[float, float]:
    """Best wall seconds after one run to warm up, and the peak of device memory in MiB (0 on a CPU)."""
    is_cuda, best = device.type == "cuda", float("inf")
    action()
    if is_cuda:
        torch.cuda.reset_peak_memory_stats(device)
    for _ in range(rounds):
        if is_cuda:
            torch.cuda.synchronize(device)
        started = time.perf_counter()
        action()
        if is_cuda:
            torch.cuda.synchronize(device)
        best = min(best, time.perf_counter() - started)
    return best, torch.cuda.max_memory_allocated(device) / 2**20 if is_cuda else 0.0


def device_gemm_flops(device: torch.device, dtype: torch.dtype, rounds: int) -> float:
    """FLOP/s of a large matrix product at the precision that is set."""
    size = 8192 if device.type == "cuda" else 1024
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    return 2 * size**3 / device_seconds(lambda: a @ b, device, rounds)[0]


def peak_mib(recipe: str, seconds: float, what: str, name: str) -> float:
    """Peak resident memory of one variant in a process of its own."""
    return float(in_process(__file__, ["--peak", json.dumps([recipe, seconds, what, name])]).split()[-1])


def run_for_peak(recipe: str, seconds: float, what: str, name: str) -> None:
    """Build and run one variant only, and print this process's peak in MiB."""
    config = resolve(recipe).model
    torch.manual_seed(0)
    codec = Codec(config).eval().requires_grad_(False)
    framing = config.framing
    frames = framing.num_frames(int(seconds * framing.sample_rate))
    length = torch.tensor([frames * framing.hop_length])
    wave, values = torch.randn(1, int(length)) * 0.1, torch.zeros(1, codec.fsq.dims, frames)
    if name == "ours":
        codec.encoder = build_encoder(config, codec.encoder.state_dict(), CPU)
        codec.generator = build_generator(config, codec.generator.state_dict(), CPU)
    _reset_peak()
    if name == "published":
        scaled = wave * codec.encoder.input_gain
        _ = published_model.encode(codec, scaled) if what == "encode" else published_model.decode(codec, values)
    else:
        _ = codec.encoder(wave, length) if what == "encode" else codec.generator(values, length)
    # VmHWM, not ru_maxrss: the latter starts at the size of the process that forked this one.
    status = Path("/proc/self/status").read_text()
    print(int(status.split("VmHWM:")[1].split()[0]) / 1024)


def _reset_peak() -> None:
    """Forget the peak of building the model: what counts is the peak while it runs, its weights included."""
    Path("/proc/self/clear_refs").write_text("5")


def main() -> None:
    """Parse the command line and print the tables."""
    parser = Parser(__doc__)
    parser.add_argument("--seconds", type=seconds_of_audio, default=6.0, help="of the clip; results are of 15")
    parser.add_argument("--rounds", type=at_least(1), default=2, help="the best of them counts; results are of 3")
    parser.add_argument("--recipes", default="paper,base16k", help="names with commas between them")
    parser.add_argument("--device", help="measure the plain modules on this device, eager and compiled")
    parser.add_argument("--batch", type=at_least(1), default=16, help="clips at once on --device")
    parser.add_argument("--peak", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with torch.inference_mode():
        if arguments.peak:
            run_for_peak(*json.loads(arguments.peak))
            return
        configs = {name: resolve(name).model for name in arguments.recipes.split(",")}
        for recipe, config in configs.items():
            if arguments.device:
                device = torch.device(arguments.device)
                report_modules(recipe, arguments.seconds, arguments.rounds, device, arguments.batch)
                continue
            report(recipe, arguments.seconds, arguments.rounds)
            if config.decoder.kind == "hifigan":
                for what in ("encode", "decode"):
                    sizes = {n: peak_mib(recipe, arguments.seconds, what, n) for n in ("published", "ours")}
                    print(f"peak memory to {what}: " + ", ".join(f"{n} {mib:.0f} MiB" for n, mib in sizes.items()))


if __name__ == "__main__":
    run(main)
