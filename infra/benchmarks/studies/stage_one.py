"""What keeps stage 1 from collapse: variants of a recipe's stage 1, judged by probes on held-out speakers.

    python infra/benchmarks/studies/stage_one.py SHARDS OUT --recipe tiny --steps 800 [--seeds 1]
        [--variant NAME[/SEEDS]:KEY=VALUE,KEY=VALUE ...] [--picture FILE.png]

A variant is a name and what it changes of the recipe (``half:pretrain.optimizer.lr=1e-4``; ``plain:`` changes
nothing). All have the same steps, warm-up and clips, one rank and one thread. Prints a line each for encoders that
have learned nothing, the plain spectrum, and every run: probes (latent_probes.py), then loss over the variance of its
targets between clips, the same against another clip's targets, and the rank of what is left after the place is taken
out. A finished run in OUT is not trained again. The picture has the first seed's curves and every seed's probes.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from pathlib import Path
from typing import Any

import torch
from latent_probes import Probes, encoder_of, log_mel_latents

sys.path.append(str(Path(__file__).parent.parent))
from bench_jepa_ablation import alone, trained

from syllabary.model.encoder import Encoder
from syllabary.workers.recipes.named import resolve
from syllabary.workers.recipes.recipe import Recipe
from syllabary.workers.training.history import History

PROBES = {
    "speaker_left_out": "speaker", "mel_r2_within_clip": "mel R² within a clip", "voicing_r2_within_clip": "voicing R²",
    "energy_r2_within_clip": "energy R²",
}  # fmt: skip
CURVES = {
    "relative_loss": "error / variance between clips",
    "latent_rank_given_place": "rank beside the place, of 128",
}
WATCHES = ("relative_loss", "relative_loss_other", "latent_rank_given_place", "between_clips")


def recipe_of(asked: argparse.Namespace, changes: list[str], seed: int) -> Recipe:
    """The recipe with a variant's changes and the budget that all share."""
    shared = (
        f"pretrain.num_steps={asked.steps}", f"pretrain.seed={seed}", "pretrain.num_workers=1", "pretrain.device=cpu",
        f"pretrain.validate_every={max(1, asked.steps // 4)}", f"pretrain.checkpoint_every={max(1, asked.steps // 4)}",
        "pretrain.keep_checkpoints=1", "pretrain.micro_batch_size=8", "pretrain.num_validation_utterances=64",
        f"pretrain.optimizer.warmup_steps={max(1, asked.steps // 10)}", "pretrain.log_every=20",
    )  # fmt: skip
    return resolve(asked.recipe, overrides=(*shared, *changes))


def line(name: str, figures: dict[str, Any]) -> None:
    """One row."""
    print(f"{name:36}", "  ".join(f"{key} {value:.3f}" for key, value in figures.items()), flush=True)


def draw(histories: dict[str, History], found: dict[str, list[dict[str, float]]], file: Path) -> None:
    """The curves of each variant over its steps, and the probes of all; untrained encoders come first."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, len(CURVES) + 1, figsize=(15, 4.4), layout="constrained", width_ratios=(1, 1, 2))
    colours = {name: f"C{number}" for number, name in enumerate(found)}
    for axis, (watch, title) in zip(axes, CURVES.items(), strict=False):
        for name, history in histories.items():
            steps, values = history.series("valid", watch)
            first = int(watch == "relative_loss")  # before training it is 15 and more
            axis.plot(steps[first:], values[first:], color=colours[name], marker=".", label=name)
        axis.set_title(title, fontsize=10)
        axis.set_xlabel("step")
    width = 0.8 / len(found)
    for place, (name, rows) in enumerate(found.items()):
        for group, probe in enumerate(PROBES):
            values = [row[probe] for row in rows]
            at = group + (place - (len(found) - 1) / 2) * width
            label = name if group == 0 else None
            axes[-1].bar(at, statistics.mean(values), width * 0.9, color=colours[name], alpha=0.6, label=label)
            axes[-1].plot([at] * len(values), values, "k.", markersize=4)
    axes[-1].axhline(0.5, color="black", linewidth=0.6, linestyle=":")
    axes[-1].set_xticks(range(len(PROBES)), list(PROBES.values()), fontsize=9)
    axes[-1].set_title("linear probes on held-out speakers", fontsize=10)
    axes[-1].legend(fontsize=8, ncols=2)
    axes[-1].set_ylim(0, 1.25)
    figure.savefig(file, dpi=80, metadata={"Software": None})


def main() -> None:
    """Train and judge all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shards")
    parser.add_argument("out", type=Path)
    parser.add_argument("--recipe", default="tiny")
    parser.add_argument("--steps", type=int, default=800)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--variant", action="append", default=[])
    parser.add_argument("--picture", type=Path)
    asked = parser.parse_args()
    alone()
    model = recipe_of(asked, [], 0).model
    framing = model.framing
    probes = Probes.from_shards(
        asked.shards, framing.sample_rate, framing.hop_length, loudness_dbfs=model.encoder.loudness_dbfs
    )
    print(f"{len(probes.clips)} clips of {len(set(probes.speakers))} held-out speakers, recipe {asked.recipe}")
    line("log-mel spectrum", probes.judge(log_mel_latents(probes)))
    untrained = []
    for seed in range(3):
        torch.manual_seed(seed)
        untrained.append(probes.judge(probes.latents(Encoder(model.encoder))))
        line(f"untrained, seed {seed}", untrained[-1])
    line("untrained, mean", {key: statistics.mean(row[key] for row in untrained) for key in untrained[0]})
    found, histories = {"untrained": untrained}, dict[str, History]()
    for variant in asked.variant:
        named, _, changes = variant.partition(":")
        name, _, seeds = named.partition("/")
        for seed in range(int(seeds or asked.seeds)):
            run = asked.out.resolve() / f"{name}-{seed}"
            recipe = recipe_of(asked, [change for change in changes.split(",") if change], seed)
            history = trained(run, asked.shards, recipe, f"{name}, seed {seed}")
            watched = {w: history.series("valid", w)[1][-1] for w in WATCHES if w in history.names("valid")}
            judged = probes.judge(probes.latents(encoder_of(str(run))[0]))
            line(f"{name}, seed {seed}", judged | watched)
            found.setdefault(name, []).append(judged)
            histories.setdefault(name, history)
    if asked.picture:
        draw(histories, found, asked.picture)


if __name__ == "__main__":
    main()
