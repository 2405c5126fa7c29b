"""The paper's comparison run at a small size: stage 1 with and without DAAM, its init, and where it masks.

    python infra/benchmarks/bench_jepa_ablation.py SPEECH --out FOLDER [--steps 600] [--seeds 3] [--pictures FOLDER]

SPEECH is a corpus that ``syllabary shard`` reads; every variant gets the same clips, steps and learning rate, once a
seed. Beside the loss stands what it hides: the loss over the variance of its targets between clips, the spread of the
latents, and linear probes on held-out speakers (studies/latent_probes.py), the untrained encoder's among them. A
finished run in FOLDER is not trained again, so the command can be repeated.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from command_line import Parser, at_least, run

sys.path.append(str(Path(__file__).parent / "studies"))

VARIANTS: Mapping[str, tuple[str, ...]] = {
    "DAAM, spread init": (),
    "no DAAM": ("model.encoder.daam.enabled=false",),
    "DAAM, paper's init": ("model.encoder.daam.init=paper",),
    "DAAM, mask at features": ("model.jepa.mask_at=features",),
    "no DAAM, mask at features": ("model.encoder.daam.enabled=false", "model.jepa.mask_at=features"),
}
BATCH = 4
COLUMNS = {
    "valid loss": "loss", "loss / variance between clips": "relative_loss", "between clips": "between_clips",
    "target std": "latent_std_mean",
    "effective rank": "latent_effective_rank", "target cosine": "target_prediction_cosine",
    "gate scale spread": "daam_scale_spread", "gate offset spread": "daam_offset_spread",
    "speaker": "speaker_accuracy", "speaker, each left out": "speaker_left_out",
    "mel R²": "mel_r2", "mel R², within clip": "mel_r2_within_clip",
    "voicing R²": "voicing_r2_within_clip", "energy R²": "energy_r2_within_clip",
}  # fmt: skip
CURVES = {
    "loss": "validation loss", "relative_loss": "loss / variance between clips",
    "latent_effective_rank": "effective rank of the target latents", "latent_std_mean": "std of the target latents",
}  # fmt: skip


@dataclass
class Mailbox:
    """Prints what rank 0 says; called as a Ray actor is."""

    name: str
    put: Any = field(init=False)

    def __post_init__(self) -> None:
        self.put = self

    def remote(self, said: object) -> None:
        """A line, or how far the run is."""
        print(f"{self.name}: {said}", file=sys.stderr, flush=True)


def recipe_of(variant: str, seed: int, steps: int) -> Any:
    """``tiny_paper`` with the variant's changes and the budget that all share."""
    from syllabary.workers.recipes.named import resolve

    every = max(1, steps // 6)
    shared = (
        f"pretrain.num_steps={steps}", f"pretrain.seed={seed}", f"pretrain.micro_batch_size={BATCH}",
        "pretrain.num_workers=1", "pretrain.device=cpu", f"pretrain.validate_every={every}",
        f"pretrain.checkpoint_every={steps}", "pretrain.keep_checkpoints=1", f"pretrain.optimizer.warmup_steps={every}",
        "pretrain.export_encoder=target", "pretrain.num_validation_utterances=64",
    )  # fmt: skip
    return resolve("tiny_paper", overrides=(*shared, *VARIANTS[variant]))


def shard(speech: str, out: Path) -> str:
    """The corpus as shards, split by speaker."""
    from syllabary.workers.control.jobs import ShardJob
    from syllabary.workers.ingest.write_shards import write_shards

    uri = str(out / "shards")
    write_shards(ShardJob(source=speech, out=uri, overrides=("ingest.valid_percent=15", "ingest.test_percent=15")))
    return uri


def train(variant: str, seed: int, steps: int, out: Path, shards: str) -> dict[str, list[float]]:
    """Validation series of one run."""
    run, recipe = folder_of(variant, seed, out), recipe_of(variant, seed, steps)
    history = trained(run, shards, recipe, f"{variant}, seed {seed}")
    series = {name: history.series("valid", name)[1] for name in history.names("valid")}
    return series | {"step": [float(s) for s in history.series("valid", "loss")[0]]}


def trained(run: Path, shards: str, recipe: Any, name: str) -> Any:
    """The ``History`` of a run of stage 1 in this process, trained unless it is already there."""
    from syllabary.shards import store
    from syllabary.shards.outputs import read_done
    from syllabary.workers.training.driver import RankJob
    from syllabary.workers.training.history import METRICS, History
    from syllabary.workers.training.jepa import train_jepa_rank

    if read_done(str(run)) is None:
        train_jepa_rank(RankJob(str(run), shards, recipe, Mailbox(name)))
    return History.from_parquet(store.read_bytes(str(run / METRICS)))


def alone() -> None:
    """Make this process the only rank, on one thread of the CPU."""
    import torch

    from syllabary.workers.training.engine import join_process_group

    os.environ |= {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1",
                   "MASTER_PORT": str(29_000 + os.getpid() % 1000), "GLOO_SOCKET_IFNAME": "lo"}  # fmt: skip
    torch.set_num_threads(1)
    join_process_group(torch.device("cpu"))


def folder_of(variant: str, seed: int, out: Path) -> Path:
    """Where a run lives."""
    return out / f"{variant.replace(' ', '-').replace(',', '').replace(chr(39), '')}-{seed}"


def judge(probes: Any, variant: str, seed: int, steps: int, out: Path, *, trained: bool = True) -> dict[str, float]:
    """Probes on the run's target encoder, or on the one it started from."""
    import torch
    from safetensors.torch import load_file

    from syllabary.model.encoder import Encoder

    torch.manual_seed(seed)
    encoder = Encoder(recipe_of(variant, seed, steps).model.encoder)
    if trained:
        encoder.load_state_dict(load_file(folder_of(variant, seed, out) / "encoder.safetensors"))
    return dict(probes.judge(probes.latents(encoder)))


def cell(values: list[float]) -> str:
    """Mean, and half the range over seeds."""
    if not values:
        return "–"
    return f"{statistics.mean(values):.3g} ± {(max(values) - min(values)) / 2:.1g}"


def table(found: Mapping[str, list[dict[str, float]]]) -> str:
    """Rows of variants, columns of figures."""
    lines = ["| variant | " + " | ".join(COLUMNS) + " |", "| --- |" + " --- |" * len(COLUMNS)]
    for variant, runs in found.items():
        cells = [cell([run[name] for run in runs if name in run]) for name in COLUMNS.values()]
        lines.append(f"| {variant} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def draw(curves: Mapping[str, list[dict[str, list[float]]]], found: Mapping[str, Any], folder: Path) -> None:
    """Two pictures: validation curves, and the probes."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    colours = dict(zip(found, plt.rcParams["axes.prop_cycle"].by_key()["color"], strict=False))
    figure, axes = plt.subplots(2, 2, figsize=(10, 7), layout="constrained")
    for axis, (name, title) in zip(axes.flat, CURVES.items(), strict=True):
        for variant, runs in curves.items():
            columns = list(zip(*[run[name] for run in runs], strict=True))
            steps, middle = runs[0]["step"], [statistics.mean(c) for c in columns]
            axis.plot(steps, middle, label=variant, color=colours[variant])
            axis.fill_between(steps, list(map(min, columns)), list(map(max, columns)), alpha=0.15,
                              color=colours[variant])  # fmt: skip
        axis.set_title(title, fontsize=10)
        axis.set_xlabel("step")
        axis.set_yscale("log" if name in ("loss", "relative_loss") else "linear")
    axes[0, 0].legend(fontsize=8)
    figure.savefig(folder / "jepa-ablation-curves.png", dpi=80, metadata={"Software": None})
    _draw_probes(found, colours, folder, plt)


def _draw_probes(found: Mapping[str, Any], colours: Mapping[str, str], folder: Path, plt: Any) -> None:
    names = {"speaker_accuracy": "speaker accuracy", "mel_r2_within_clip": "mel R² within clip"}
    figure, axes = plt.subplots(1, 2, figsize=(10, 3.2), layout="constrained", sharey=True)
    rows = list(reversed(list(found)))
    for axis, (name, title) in zip(axes, names.items(), strict=True):
        for place, variant in enumerate(rows):
            values = [run[name] for run in found[variant] if name in run]
            if values:
                axis.barh(place, statistics.mean(values), color=colours[variant], alpha=0.6)
                axis.plot(values, [place] * len(values), "k.", markersize=4)
        axis.set_yticks(range(len(rows)), rows, fontsize=8)
        axis.set_title(title, fontsize=10)
    figure.savefig(folder / "jepa-ablation-probes.png", dpi=80, metadata={"Software": None})


def untrained(probes: Any, seeds: int, steps: int, out: Path) -> dict[str, list[dict[str, float]]]:
    """The probes of encoders that have learned nothing, and of the plain spectrum."""
    from latent_probes import log_mel_latents

    first = next(iter(VARIANTS))
    return {
        "untrained, DAAM": [judge(probes, first, seed, steps, out, trained=False) for seed in range(seeds)],
        "untrained, no DAAM": [judge(probes, "no DAAM", seed, steps, out, trained=False) for seed in range(seeds)],
        "log-mel spectrum": [probes.speaker(log_mel_latents(probes))],
    }


def run_all(options: argparse.Namespace, report: Callable[[str], None]) -> None:
    """Every seed of every variant, then the table and the pictures."""
    from latent_probes import Probes

    out = options.out.resolve()
    shards = shard(options.speech, out)
    alone()
    framing = recipe_of("no DAAM", 0, options.steps).model.encoder.framing
    probes = Probes.from_shards(shards, framing.sample_rate, framing.hop_length)
    report(f"probes: {len(probes.clips)} clips of {len(set(probes.speakers))} speakers, none of them trained on\n")
    found = untrained(probes, options.seeds, options.steps, out)
    curves: dict[str, list[dict[str, list[float]]]] = {variant: [] for variant in VARIANTS}
    found |= {variant: [] for variant in VARIANTS}
    for seed in range(options.seeds):
        for variant in VARIANTS:
            series = train(variant, seed, options.steps, out, shards)
            last = {name: values[-1] for name, values in series.items()}
            row = last | judge(probes, variant, seed, options.steps, out)
            curves[variant].append(series)
            found[variant].append(row)
            print(json.dumps({"variant": variant, "seed": seed, **row}), file=sys.stderr, flush=True)
    report(table(found))
    draw(curves, found, options.pictures or out)


def main() -> None:
    """Run from the command line."""
    parser = Parser(__doc__)
    parser.add_argument("speech")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--pictures", type=Path)
    parser.add_argument("--steps", type=at_least(1), default=600)
    parser.add_argument("--seeds", type=at_least(1), default=3)
    options = parser.parse_args()
    run_all(options, print)


if __name__ == "__main__":
    run(main)
