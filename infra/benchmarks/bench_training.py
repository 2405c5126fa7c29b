"""CPU-seconds and peak memory of a training step, against the published loop's structure written plainly.

    python infra/benchmarks/bench_training.py [--recipe paper] [--seconds 1.6] [--clips 1] [--repeats 2] [CASE ...]
    python infra/benchmarks/bench_training.py --seconds 8 --repeats 2 "stage 1"         as results are recorded

Every variant is a process of its own that takes one step when told to; the variants of a case take turns, one thread
each, and the ratio is that of their medians. The published structure: stage 1 encodes once more than needed for its
monitor; stage 2 runs its encoder twice, once with gradients, gives the optimizer the weights meant to be frozen, and
lets the generator's gradients pile up in the discriminators. Its residual blocks are torch's convolutions and
activations as they come. Same weights, same clips: first losses must be equal.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from command_line import Parser, at_least, known, run, seconds_of_audio

CASES = {
    "stage 1": ("jepa-published", "jepa"),
    "stage 2, no discriminators": ("codec-published", "codec"),
    "stage 2, discriminators": ("codec-adversarial-published", "codec-adversarial"),
    "stage 2, cached latents, no discriminators": ("codec-published", "codec-cached"),
    "stage 2, cached latents, discriminators": ("codec-adversarial-published", "codec-cached-adversarial"),
}


def make_variant(name: str, recipe_name: str, seconds: float, clips: int, folder: Path) -> Callable[[], float]:
    """A function that takes one step and returns its loss."""
    import torch

    from syllabary.workers.recipes.named import resolve

    torch.set_num_threads(1)
    section = "pretrain" if name.startswith("jepa") else "codec"
    overrides = [f"{section}.micro_batch_size={clips}", f"{section}.device=cpu", f"{section}.num_workers=1"]
    if section == "codec":
        start = 0 if "adversarial" in name else 1 << 30
        cached = str("cached" in name).lower()
        overrides += ["codec.method=joint", "codec.train_encoder=frozen", "codec.standardize_latents=false",
                      f"codec.cache_latents={cached}",
                      f"codec.discriminator_start_step={start}"]  # fmt: skip
    recipe = resolve(recipe_name, overrides=overrides)
    frames = max(2, int(seconds * float(recipe.model.framing.frame_rate)))
    torch.manual_seed(1)
    waveform = 0.1 * torch.randn(clips, frames * recipe.model.framing.hop_length)
    if name.endswith("published"):
        _make_residual_blocks_plain()
    if name == "jepa-published":
        return _published_jepa(recipe, waveform)
    if name.endswith("published"):
        return _published_codec(recipe, waveform, adversarial="adversarial" in name)
    return _ours(name, recipe, waveform, folder)


def _make_residual_blocks_plain() -> None:
    import torch.nn.functional as F

    from syllabary.model.cpu import winograd_training
    from syllabary.model.layers import LEAKY_SLOPE, ResidualBlock, SameConv1d

    def convolve(conv: SameConv1d, x):
        weight = conv.live_weight(x.shape[-1])
        padding = weight.shape[-1] // 2 * conv.dilation[0]
        return F.conv1d(x, weight, conv.bias, padding=padding, dilation=conv.dilation)

    def forward(block: ResidualBlock, x, mask):
        for dilated, plain in zip(block.dilated, block.plain, strict=True):
            x = x + convolve(plain, F.leaky_relu(convolve(dilated, F.leaky_relu(x, LEAKY_SLOPE)), LEAKY_SLOPE))
        return x

    ResidualBlock.forward = forward  # type: ignore[method-assign]
    winograd_training.wins = lambda *_: False  # type: ignore[assignment]


def _ours(name: str, recipe, waveform, folder: Path) -> Callable[[], float]:
    import torch
    from safetensors.torch import save

    from syllabary.model.encoder import Encoder
    from syllabary.workers.training.codec import CodecStage
    from syllabary.workers.training.data.clips import Batch
    from syllabary.workers.training.data.epoch_order import Slot
    from syllabary.workers.training.driver import RankJob
    from syllabary.workers.training.engine import join_process_group
    from syllabary.workers.training.jepa import JepaStage
    from syllabary.workers.training.rank import RankSetup

    join_process_group(torch.device("cpu"))
    if name != "jepa":
        torch.manual_seed(0)
        (folder / "encoder.safetensors").write_bytes(save(Encoder(recipe.model.encoder).state_dict()))
    setup = RankSetup(RankJob(str(folder), "", recipe, None, str(folder)), torch.device("cpu"), [], False)
    torch.manual_seed(0)
    stage = JepaStage(setup) if name == "jepa" else CodecStage(setup)
    clips, samples = waveform.shape
    batch = Batch(waveform, torch.full((clips,), samples), tuple(Slot(clip, 5 + clip) for clip in range(clips)))
    section = recipe.pretrain if name == "jepa" else recipe.codec
    calls = iter(range(1, 1000))

    def step() -> float:
        number = next(calls)
        torch.manual_seed(number)
        return stage.train_step(number, [batch], section.optimizer.lr, detailed=False)[stage.headline]

    return step


def _published_jepa(recipe, waveform) -> Callable[[], float]:
    import torch

    from syllabary.model.jepa import Jepa
    from syllabary.model.masking import sample_mask
    from syllabary.workers.training.data.epoch_order import mix

    torch.manual_seed(0)
    jepa = Jepa(recipe.model.encoder, recipe.model.jepa)
    optimizer = torch.optim.AdamW([p for p in jepa.parameters() if p.requires_grad], lr=recipe.pretrain.optimizer.lr,
                                  betas=(0.8, 0.99), weight_decay=1e-3)  # fmt: skip
    clips, samples = waveform.shape
    num_samples, frames = torch.full((clips,), samples), samples // recipe.model.framing.hop_length
    seeds = [mix(5 + clip, 4) >> 1 for clip in range(clips)]
    mask = torch.cat([sample_mask([frames], recipe.model.jepa, torch.Generator().manual_seed(seed)) for seed in seeds])
    calls = iter(range(1, 1000))

    def step() -> float:
        torch.manual_seed(next(calls))
        optimizer.zero_grad()
        found = jepa(waveform, num_samples, mask)
        found.loss.backward()
        torch.nn.utils.clip_grad_norm_(jepa.parameters(), 1.0)
        optimizer.step()
        jepa.update_target()
        with torch.no_grad():  # the second encode, for the collapse monitor
            jepa.context_encoder(waveform, num_samples).latents.std(dim=2).mean()
        return float(found.loss.detach())

    return step


def _published_codec(recipe, waveform, *, adversarial: bool) -> Callable[[], float]:
    import torch

    from syllabary.model.codec import Codec
    from syllabary.model.discriminators import Discriminators
    from syllabary.model.encoder import Encoder
    from syllabary.model.losses import discriminator_loss, generator_losses

    torch.manual_seed(0)
    encoder_state = Encoder(recipe.model.encoder).state_dict()
    torch.manual_seed(0)
    codec = Codec(recipe.model)
    codec.encoder.load_state_dict(encoder_state)
    codec.encoder.eval()
    judges = Discriminators(recipe.model.discriminator)
    lr = recipe.codec.optimizer.lr
    optimizer = torch.optim.AdamW(codec.parameters(), lr=lr, betas=(0.8, 0.99), weight_decay=1e-3)
    judge_optimizer = torch.optim.AdamW(judges.parameters(), lr=lr / 2, betas=(0.8, 0.99), weight_decay=1e-3)
    num_samples = torch.full((waveform.shape[0],), waveform.shape[1])

    def step() -> float:
        with torch.no_grad():  # once more than needed
            codec.encoder(waveform, num_samples)
        generated = codec(waveform, num_samples).waveform
        judged = None
        if adversarial:
            judge_optimizer.zero_grad()
            loss = discriminator_loss(judges(waveform, num_samples), judges(generated.detach(), num_samples))
            loss.backward()
            judge_optimizer.step()
            judged = (judges(waveform, num_samples), judges(generated, num_samples))
        optimizer.zero_grad()
        losses = generator_losses(generated, waveform, num_samples, recipe.model.losses, judged=judged)
        losses.total.backward()
        torch.nn.utils.clip_grad_norm_(codec.parameters(), 1.0)
        optimizer.step()
        return float(losses.mrstft.detach())

    return step


def serve(name: str, recipe_name: str, seconds: float, clips: int) -> None:
    """Take a step for each line of standard input; answer with its loss, CPU-seconds and the peak memory so far."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    with tempfile.TemporaryDirectory() as folder:
        step = make_variant(name, recipe_name, seconds, clips, Path(folder))
        for _ in sys.stdin:
            started = time.process_time()
            loss = step()
            spent = time.process_time() - started
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
            answers.write(json.dumps({"loss": loss, "cpu_s": spent, "peak_gib": peak}) + "\n")
            answers.flush()


def compare(case: str, recipe: str, seconds: float, clips: int, repeats: int) -> str:
    """One row of the result table."""
    environment = os.environ | {
        "OMP_NUM_THREADS": "1", "RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(29_000 + os.getpid() % 1000), "GLOO_SOCKET_IFNAME": "lo",
    }  # fmt: skip
    variants = [
        subprocess.Popen([sys.executable, __file__, "--serve", name, "--recipe", recipe, "--seconds", str(seconds),
                          "--clips", str(clips)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
                         env=environment)
        for name in CASES[case]
    ]  # fmt: skip
    answers: list[list[dict[str, float]]] = [[], []]
    for _ in range(repeats + 1):
        for process, found in zip(variants, answers, strict=True):
            assert process.stdin and process.stdout
            process.stdin.write("\n")
            process.stdin.flush()
            answer = process.stdout.readline()
            if not answer:  # what it died of stands on standard error
                sys.exit(f"error: the process of {CASES[case][variants.index(process)]!r} ended before its step")
            found.append(json.loads(answer))
    for process in variants:
        process.communicate()
    losses = [found[0]["loss"] for found in answers]
    assert abs(losses[0] - losses[1]) < 1e-4 * abs(losses[0]), losses
    published, ours = (statistics.median(a["cpu_s"] for a in found[1:]) for found in answers)
    peaks = [found[-1]["peak_gib"] for found in answers]
    return (f"| {case} | {published:.2f} | {ours:.2f} | {published / ours:.2f}x | {peaks[0]:.2f} | {peaks[1]:.2f} | "
            f"{losses[0]:.5f} = {losses[1]:.5f} |")  # fmt: skip


def main() -> None:
    """Compare the cases named on the command line, or all."""
    from syllabary.workers.recipes.named import resolve

    parser = Parser(__doc__)
    parser.add_argument("--recipe", default="paper")
    parser.add_argument("--seconds", type=seconds_of_audio, default=1.6, help="of a clip; results are of 2 to 15")
    parser.add_argument("--clips", type=at_least(1), default=1)
    parser.add_argument("--repeats", type=at_least(1), default=2, help="steps of each variant after one to warm up")
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    parser.add_argument("cases", nargs="*", metavar="CASE", help=", ".join(CASES))
    options = parser.parse_args()
    if options.serve:
        serve(options.serve, options.recipe, options.seconds, options.clips)
        return
    cases = known(options.cases, list(CASES), "case") or list(CASES)
    resolve(options.recipe)
    print(
        f"recipe {options.recipe}, {options.clips} clips of {options.seconds} s, "
        f"{options.repeats} steps each after one to warm up\n"
    )
    print("| case | published, CPU-s | ours, CPU-s | ratio | published, GiB | ours, GiB | first loss |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for case in cases:
        print(compare(case, options.recipe, options.seconds, options.clips, options.repeats), flush=True)


if __name__ == "__main__":
    run(main)
