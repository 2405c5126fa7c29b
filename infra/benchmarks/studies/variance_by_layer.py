"""How much of the signal is left at each depth of an encoder: share of variance that lies between clips at one place.

    python infra/benchmarks/studies/variance_by_layer.py --shards URI [--recipes small fast16k] [--run RUN]
        [--json OUT.json]
    python infra/benchmarks/studies/variance_by_layer.py --draw OUT.png --json BEFORE.json AFTER.json

Untrained encoders of the recipes (or the trained one of ``--run``) hear held-out clips of equal length at the model's
loudness. After each stage of the front end and each Conformer layer the variance over clips and places is divided into
what the place explains and what is left between clips at one place; a clock has 0 of the latter, speech nearly 1.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
from latent_probes import encoder_of
from torch import Tensor, nn

from syllabary.model.encoder import Encoder, loudness_gain
from syllabary.workers.recipes.named import RECIPES
from syllabary.workers.training.data.loader import Utterances

_CLIP_S, _CLIPS = 4.8, 24


def clips_of(shards_uri: str, sample_rate: int, hop_length: int, loudness_dbfs: float) -> Tensor:
    """The first held-out utterances that are long enough [clips, samples]."""
    length = int(_CLIP_S * sample_rate) // hop_length * hop_length
    found: list[Tensor] = []
    for split in ("valid", "test"):
        utterances = Utterances(shards_uri, split, sample_rate)  # type: ignore[arg-type]
        for i in range(len(utterances)):
            if len(found) == _CLIPS:
                return torch.stack(found)
            samples = torch.from_numpy(utterances.read(i))
            if len(samples) >= length:
                found.append(samples[:length] * loudness_gain(samples, sample_rate, loudness_dbfs))
    return torch.stack(found)


def between_clips(x: Tensor) -> float:
    """Mean over channels of variance between clips at one place over all variance, of [clips, channels, places]."""
    left = (x - x.mean(0, keepdim=True)).square().sum((0, 2)) / ((len(x) - 1) * x.shape[2])
    return float((left / x.var((0, 2), correction=0).clamp(min=1e-12)).clamp(max=1).mean())


@torch.no_grad()
def shares(encoder: Encoder, clips: Tensor) -> dict[str, float]:
    """Share between clips after each layer, in order of depth."""
    found: dict[str, float] = {}

    def watch(name: str, channels_last: bool) -> None:
        def hook(_: nn.Module, __: object, output: object) -> None:
            value = output[0] if isinstance(output, tuple) else output
            assert isinstance(value, Tensor)
            found[name] = between_clips((value.transpose(1, 2) if channels_last else value).float())

        layers[name].register_forward_hook(hook)

    front_end = encoder.front_end
    first = front_end.spectrum if hasattr(front_end, "spectrum") else front_end.input
    stages = front_end.stages if hasattr(front_end, "stages") else front_end.blocks
    layers: dict[str, nn.Module] = {"input": first}
    layers |= {f"stage {i + 1}": stage for i, stage in enumerate(stages)}
    layers |= {"projection": encoder.projection}
    layers |= {f"Conformer {i + 1}": layer for i, layer in enumerate(encoder.conformers.layers)}
    for name in layers:
        watch(name, channels_last=name.startswith("Conformer"))
    encoder.eval()(clips, torch.full((len(clips),), clips.shape[1]))
    return {name: found[name] for name in layers}


def measured(options: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Shares by layer of every encoder asked for."""
    torch.manual_seed(0)
    if options.run:
        encoders = {name: encoder_of(name)[0] for name in options.run}
        configs = {name: encoder_of(name)[1].model.encoder for name in options.run}
    else:
        configs = {name: RECIPES[name]().model.encoder for name in options.recipes}
        encoders = {name: Encoder(config) for name, config in configs.items()}
    result = {}
    for name, encoder in encoders.items():
        framing, loudness = configs[name].framing, configs[name].loudness_dbfs
        result[name] = shares(encoder, clips_of(options.shards, framing.sample_rate, framing.hop_length, loudness))
        print(f"{name:16}", "  ".join(f"{layer} {share:.2f}" for layer, share in result[name].items()), flush=True)
    return result


def draw(files: list[str], picture: str) -> None:
    """One panel per recipe, one line per file."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    tables = {Path(f).stem: json.loads(Path(f).read_text()) for f in files}
    names = list(next(iter(tables.values())))
    figure, axes = plt.subplots(1, len(names), figsize=(4 * len(names), 3.4), sharey=True, squeeze=False)
    for axis, name in zip(axes[0], names, strict=True):
        for label, table in tables.items():
            layers = table.get(name, {})
            axis.plot(list(layers), list(layers.values()), marker="o", label=label)
        axis.set(title=name, ylim=(0, 1.02))
        axis.tick_params(axis="x", rotation=90)
    axes[0][0].set_ylabel("variance between clips")
    axes[0][0].legend()
    figure.tight_layout()
    figure.savefig(picture, dpi=90)


def main() -> None:
    """Measure, or draw what was measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shards")
    parser.add_argument("--recipes", nargs="*", default=["small", "tiny_paper", "tiny", "fast16k"])
    parser.add_argument("--run", nargs="*")
    parser.add_argument("--json", nargs="*", default=[])
    parser.add_argument("--draw")
    options = parser.parse_args()
    if options.draw:
        draw(options.json, options.draw)
        return
    result = measured(options)
    for path in options.json:
        Path(path).write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
