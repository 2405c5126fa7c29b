"""What a GPU does: one command for whoever has one for ten minutes.

    python infra/benchmarks/bench_gpu.py [--recipe fast16k] [--shards URI] [--clips 64] [--seconds 6] [--steps 60]
    python infra/benchmarks/bench_gpu.py --tiny --device cpu          rehearses all of it in less than a minute

Which device would be taken and why; a corpus in its memory as int16, crops and augmentation there; steps of both stages
in bf16 (the project's own, plain and compiled, and bare: plain, compiled, as CUDA graphs); encode and decode at fp32
and bf16; peak memory; and how many digits differ from the CPU's. Without --shards the corpus is synthetic and the
losses mean little. Without a GPU, and without --device, it rehearses. A line that fails says why and the others go on;
the command then exits with 1.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from command_line import Parser, at_least, run, seconds_of_audio
from gpu_steps import Captured, Step, bare_step, compile_all, project_step

from syllabary.model.codec import Codec
from syllabary.workers.cluster.devices import ClusterGpus, choose_device
from syllabary.workers.recipes.named import resolve
from syllabary.workers.recipes.recipe import AugmentConfig, Recipe, TrainConfig, validate
from syllabary.workers.tokenizer.tokenizer import Tokenizer, save_tokenizer
from syllabary.workers.training.data.clips import Batch, ClipMaker
from syllabary.workers.training.data.epoch_order import SamplePlan
from syllabary.workers.training.data.loader import Utterances
from syllabary.workers.training.data.resident_corpus import ResidentCorpus
from syllabary.workers.training.engine import select_device
from syllabary.workers.training.precision import bf16_unit

KINDS = ("project", "project compiled", "eager", "graph", "compiled")
STAGES = ("pretrain", "codec", "codec, adversarial")
PHASES = ("bottleneck", "vocoder")  # of the stage 2 that spectral recipes take; there are no bare forms of them
AUGMENT = AugmentConfig(gain_db=6, noise_snr_db=25)
_WARM_UP = 3


@dataclass
class Bench:
    """What is measured on what; ``failures`` grows."""

    recipe: Recipe
    device: torch.device
    clips: int
    samples: int
    steps: int
    corpus: ResidentCorpus
    failures: list[str]
    repeats: int = 5

    def batches(self) -> Iterator[Batch]:
        """Endless batches of full-length clips, made on the device."""
        plan = SamplePlan(len(self.corpus.lengths), seed=0)
        clips = ClipMaker(self.samples, self.recipe.model.framing.hop_length, AUGMENT)
        position = 0
        while True:
            slots = plan.micro_batch(position, rank=0, world_size=1, micro_batch_size=self.clips)
            yield self.corpus.batch(slots, clips)
            position += self.clips

    def wait(self) -> None:
        """Until the device has done what it was told."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def attempt(self, name: str, work: Callable[[], str]) -> None:
        """Print the row of ``work``, or why there is none."""
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(self.device)
        try:
            row = work()
        except Exception as error:  # one kind of step that fails must not cost the figures of the others
            row = f"failed: {type(error).__name__}: {str(error).splitlines()[0][:200] if str(error) else ''}"
            self.failures.append(name)
        print(f"| {name} | {row} | {self.peak_gib():.2f} |", flush=True)

    def peak_gib(self) -> float:
        """Of the device's memory, since the last attempt began; 0 on a CPU."""
        return torch.cuda.max_memory_allocated(self.device) / 2**30 if self.device.type == "cuda" else 0.0


def devices(asked: str | None) -> torch.device:
    """The device to measure on, with what the project makes of this machine's."""
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    choice = choose_device("auto", 1, ClusterGpus(count))
    rank = select_device(TrainConfig(device="auto"))
    assert rank.type == choice.device, f"a rank would take {rank}, the driver {choice.device}"
    device = torch.device(asked or choice.device)
    print(f"{choice.why}; measured on {bf16_unit(device)}; torch {torch.__version__}\n", flush=True)
    return device


def shrunk(recipe: Recipe) -> Recipe:
    """The recipe's kind of model at next to no size."""
    values = recipe.model_dump(mode="json")
    for part in (values["model"]["encoder"]["front_end"], values["model"]["decoder"]):
        part["channels"] = [16] * len(part["channels"])
        if "num_blocks" in part:
            part["num_blocks"] = [1] * len(part["num_blocks"])
        if "attention_layers" in part:  # at most one per block
            part["attention_layers"] = [min(1, layers) for layers in part["attention_layers"]]
    values["model"]["encoder"]["conformer"]["num_layers"] = 1
    values["model"]["jepa"]["predictor"]["hidden_dim"] = 32
    values["model"]["discriminator"] |= {"channel_divisor": 64}
    return validate(values)


def as_benched(recipe: Recipe, clips: int) -> Recipe:
    """The recipe for one rank, in bf16, from random weights, with discriminators from half of stage 2 on."""
    shared = {"num_workers": 1, "micro_batch_size": clips, "grad_accum_steps": 1, "precision": "bf16"}
    codec = {"train_encoder": "finetune", "standardize_latents": False, "cache_latents": False, "num_steps": 10_000}
    values = recipe.model_dump(mode="json")
    values["pretrain"] |= shared
    values["codec"] |= shared | codec | {"discriminator_start_step": 5_000}
    values["codec"]["vocoder"]["discriminator_start_step"] = 0
    return validate(values)


def synthetic(num_utterances: int, samples: int, rate: int) -> Iterator[np.ndarray]:
    """Harmonics under a syllable rhythm, each utterance its own, int16."""
    time_s = np.arange(samples + rate) / rate
    for number in range(num_utterances):
        rng = np.random.default_rng(number)
        pitch = rng.uniform(80, 260) * (1 + 0.05 * np.sin(2 * np.pi * rng.uniform(0.5, 3) * time_s))
        phase = 2 * np.pi * np.cumsum(pitch) / rate
        voice = sum(np.sin(k * phase) / k for k in range(1, 9))
        rhythm = np.maximum(0, np.sin(2 * np.pi * rng.uniform(1.5, 4) * time_s))
        yield (3000 * voice * rhythm + 60 * rng.standard_normal(len(time_s))).astype(np.int16)


def timed(bench: Bench, step: Step) -> str:
    """Steps a second, seconds of audio a second, and the first and last loss."""
    batches = bench.batches()
    first = float(step(next(batches)))
    for _ in range(min(_WARM_UP, bench.steps)):
        step(next(batches))
    bench.wait()
    started = time.perf_counter()
    for _ in range(bench.steps):
        loss = step(next(batches))
    bench.wait()
    rate = bench.steps / (time.perf_counter() - started)
    audio_s = bench.clips * bench.samples / bench.recipe.model.encoder.sample_rate
    return f"{rate:.2f} | {rate * audio_s:,.0f} | {first:.3f} → {float(loss):.3f}"


def training(bench: Bench, kinds: Sequence[str]) -> None:
    """The table of training steps."""
    size = f"{bench.clips} × {bench.samples / bench.recipe.model.encoder.sample_rate:g} s"
    print(f"| step of {size}, bf16 | steps/s | audio-s/s | loss | peak GiB |\n| --- | --- | --- | --- | --- |")
    bench.attempt("crops and augmentation alone", lambda: timed(bench, lambda batch: batch.waveform[0, 0]))
    phases = PHASES if bench.recipe.codec.method == "bottleneck_first" else ()
    rows = [(stage, kind) for stage in STAGES for kind in kinds]
    rows += [(phase, kind) for phase in phases for kind in kinds if kind.startswith("project")]
    for stage, kind in rows:
        torch.manual_seed(0)
        with tempfile.TemporaryDirectory() as folder:
            bench.attempt(f"{stage}: {kind}", lambda s=stage, k=kind, f=folder: timed(bench, made(bench, s, k, f)))


def made(bench: Bench, stage: str, kind: str, folder: str) -> Step:
    """A step of a stage: the project's own, plain or compiled, and bare: "eager", "compiled", or as a CUDA "graph"
    (eager on a CPU)."""
    if kind.startswith("project"):
        return project_step(stage, bench.recipe, bench.device, Path(folder), is_compiled=kind == "project compiled")
    step = bare_step(stage, bench.recipe, bench.device, bench.clips, bench.samples)
    if kind == "graph" and bench.device.type == "cuda":
        return Captured(step, next(bench.batches()))
    if kind == "compiled":
        compile_all(step.modules, bench.device)
    return step


@torch.no_grad()
def inference(bench: Bench) -> None:
    """The table of encoding and decoding: real-time factors of a whole batch."""
    print("\n| forward | real-time factor | audio-s/s | | peak GiB |\n| --- | --- | --- | --- | --- |")
    codec = Codec(bench.recipe.model).to(bench.device).eval()
    wave, lengths = next(bench.batches()).waveform, torch.full((bench.clips,), bench.samples)
    values = codec.fsq(codec.encoder(wave, lengths).latents).values
    parts = {"encode": (codec.encoder, wave), "decode": (codec.generator, values)}
    for precision in ("fp32", "bf16"):
        for name, (module, argument) in parts.items():

            def forward(module=module, argument=argument, precision=precision) -> str:
                with torch.autocast(bench.device.type, torch.bfloat16, enabled=precision == "bf16"):
                    return _real_time(bench, lambda: module(argument, lengths))

            bench.attempt(f"{name} {precision}", forward)


def _real_time(bench: Bench, forward: Callable[[], object]) -> str:
    forward()
    bench.wait()
    started = time.perf_counter()
    for _ in range(bench.repeats):
        forward()
    bench.wait()
    spent = (time.perf_counter() - started) / bench.repeats
    audio_s = bench.clips * bench.samples / bench.recipe.model.encoder.sample_rate
    return f"{spent / audio_s:.2e} | {audio_s / spent:,.0f} | "


def parity(bench: Bench) -> None:
    """How many digits of the tokenizer differ between the CPU and the device, both in canonical arithmetic."""
    print(f"\n| digits, CPU against {bench.device.type} | differ | latents apart | | peak GiB |")
    print("| --- | --- | --- | --- | --- |")
    rate, framing = bench.recipe.model.encoder.sample_rate, bench.recipe.model.framing
    clips = next(bench.batches()).waveform[:8].cpu().numpy()

    def compared() -> str:
        with tempfile.TemporaryDirectory() as folder:
            torch.manual_seed(0)
            codec = Codec(bench.recipe.model)
            states = codec.encoder.state_dict(), codec.generator.state_dict()
            save_tokenizer(folder, bench.recipe.model, *states, recipe={"name": bench.recipe.name})
            here, there = (Tokenizer.load(folder, decoder=False, device=name) for name in ("cpu", bench.device.type))
            digits = [[t.packing.unpack(e.tokens) for e in t.encode(list(clips), rate)] for t in (here, there)]
            latents = [t.latents(list(clips), rate) for t in (here, there)]
        differ = sum(int((a != b).sum()) for a, b in zip(*digits, strict=True))
        apart = max(float(np.abs(a - b).max()) for a, b in zip(*latents, strict=True))
        return f"{differ:,} of {sum(a.size for a in digits[0]):,} | {apart:.1e} | "

    bench.attempt(f"{len(clips)} clips of {framing.num_frames(bench.samples)} frames, random weights", compared)


def parsed() -> argparse.Namespace:
    """The command line."""
    parser = Parser(__doc__)
    parser.add_argument("--recipe", default="fast16k")
    parser.add_argument("--set", dest="overrides", nargs="*", default=[])
    parser.add_argument("--shards")
    parser.add_argument("--clips", type=at_least(1), default=64)
    parser.add_argument("--seconds", type=seconds_of_audio, default=6.0)
    parser.add_argument("--steps", type=at_least(1), default=60)
    parser.add_argument("--kinds", nargs="*", choices=KINDS, default=KINDS)
    parser.add_argument("--device", choices=("cpu", "cuda"))
    parser.add_argument("--tiny", action="store_true")
    return parser.parse_args()


def prepared(options: argparse.Namespace) -> Bench:
    """Recipe and corpus on the device."""
    device = devices(options.device)
    tiny = options.tiny or (device.type == "cpu" and not options.device)
    if tiny and not options.tiny:
        print("no GPU: this is a rehearsal at next to no size, and its figures say nothing\n", flush=True)
    if tiny and device.type == "cpu":
        torch.set_num_threads(1)  # of two, each would wait for the other at layers as small as these
    recipe = resolve(options.recipe, overrides=options.overrides)
    clips, seconds, steps = (2, 0.8, 1) if tiny else (options.clips, options.seconds, options.steps)
    recipe = as_benched(shrunk(recipe) if tiny else recipe, clips)
    framing, rate = recipe.model.framing, recipe.model.encoder.sample_rate
    samples = int(seconds * rate) // framing.hop_length * framing.hop_length
    started = time.perf_counter()
    if options.shards:
        utterances = Utterances(options.shards, "train", rate)
        loudness = recipe.model.encoder.loudness_dbfs
        corpus = ResidentCorpus.load(utterances, device, loudness_dbfs=loudness).of_at_least(samples)
    else:
        corpus = ResidentCorpus(synthetic(4 if tiny else 240, samples, rate), device)
    hours, took = corpus.size_bytes / 2 / rate / 3600, time.perf_counter() - started
    print(f"corpus: {hours:.2f} h, {corpus.size_bytes / 1e6:,.0f} MB on {device.type} in {took:.1f} s\n", flush=True)
    return Bench(recipe, device, clips, samples, steps, corpus, [], repeats=1 if tiny else 5)


def main() -> int:
    """Measure all and print the tables; 1 when a line failed."""
    options = parsed()
    bench = prepared(options)
    training(bench, options.kinds)
    inference(bench)
    parity(bench)
    if bench.failures:
        print(f"\nfailed: {'; '.join(bench.failures)}")
    return 1 if bench.failures else 0


if __name__ == "__main__":
    run(main)
