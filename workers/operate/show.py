"""``syllabary show RECIPE``: a recipe and its cost, derived in one place.

Parameters and arithmetic are counted on torch's meta device (no memory, no time): parameters by part, and GFLOP
(2 x multiply-adds of convolutions and matrix products) per second of audio, over one window of audio.
"""

from __future__ import annotations

from typing import Any

import torch
import yaml
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from syllabary.model.bottleneck import Bottleneck
from syllabary.model.codec import Codec
from syllabary.model.config import IstftDecoderConfig, ModelConfig
from syllabary.model.discriminators import Discriminators
from syllabary.model.jepa import Jepa
from syllabary.model.spectral.istft import Trunk, Vocoder
from syllabary.workers.control.jobs import ShowJob
from syllabary.workers.recipes.bitrates import rates_of
from syllabary.workers.recipes.named import resolve
from syllabary.workers.recipes.recipe import Recipe


def show(job: ShowJob) -> dict[str, Any]:
    """The resolved recipe, its figures, and both as ``text`` to print."""
    recipe = resolve(job.recipe, config_uri=job.config, overrides=job.overrides)
    figures = figures_of(recipe.model)
    return {"recipe": recipe.model_dump(mode="json"), "figures": figures, "text": describe(recipe, figures)}


def figures_of(config: ModelConfig) -> dict[str, Any]:
    """Rates, parameters by part and GFLOP per audio second."""
    rates = rates_of(config)
    return {
        "sample_rate": config.encoder.sample_rate,
        "hop_length": config.framing.hop_length,
        "frame_rate": float(config.framing.frame_rate),
        "window_frames": config.framing.window_frames,
        "tokens_per_frame": rates.num_groups,
        "tokens_per_s": rates.tokens_per_s,
        "vocabulary": rates.vocabulary,
        "payload_bits_per_s": rates.payload_bits_per_s,
        "nominal_bits_per_s": rates.nominal_bits_per_s,
        "stored_bits_per_s": rates.stored_bits_per_s,
        "parameters": parameters_of(config),
        "gflop_per_audio_s": gflop_of(config),
    }


def parameters_of(config: ModelConfig) -> dict[str, int]:
    """Number of parameters of every part and of the sums that the paper reports."""
    with torch.device("meta"):
        jepa, codec = Jepa(config.encoder, config.jepa), Codec(config)
        judges = Discriminators(config.discriminator)
    encoder, generator = jepa.context_encoder, codec.generator
    parts = {f"encoder.front_end.{name}": _count(m) for name, m in _stages(encoder.front_end)}
    parts["encoder.projection"] = _count(encoder.projection)
    parts["encoder.conformers"] = _count(encoder.conformers)
    parts["encoder"] = _count(encoder)
    parts["predictor"] = _count(jepa.predictor)
    parts["target_encoder"] = _count(jepa.target_encoder)
    parts |= {f"decoder.{name}": _count(m) for name, m in _stages(generator)}
    parts["decoder"] = _count(generator)
    kinds = {"mpd": judges.periods, "msd": judges.scales, "mrsd": judges.spectra}
    if isinstance(config.decoder, IstftDecoderConfig):
        with torch.device("meta"):
            parts["mel_head"] = _count(Bottleneck(codec, config.decoder).head)
    parts |= {f"discriminators.{kind}": _count(judged) for kind, judged in kinds.items() if len(judged)}
    parts["inference (encoder + decoder)"] = _count(codec)
    return parts


def gflop_of(config: ModelConfig) -> dict[str, float]:
    """GFLOP per second of audio to encode and to decode, at the length of one window."""
    frames = config.framing.window_frames
    num_samples = torch.tensor([config.framing.window_samples])
    with torch.device("meta"):
        codec = Codec(config).eval()
        waveform, values = torch.zeros(1, int(num_samples)), torch.zeros(1, config.encoder.latent_dim, frames)
    seconds = int(num_samples) / config.encoder.sample_rate
    gflop = {}
    for name, part, argument in (("encode", codec.encoder, waveform), ("decode", codec.generator, values)):
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            part(argument, num_samples)
        gflop[name] = counter.get_total_flops() / seconds / 1e9
    return gflop


def describe(recipe: Recipe, figures: dict[str, Any]) -> str:
    """The page that the command prints."""
    rows = [f"  {name:<36}{_in_words(count)}" for name, count in figures["parameters"].items()]
    gflop = figures["gflop_per_audio_s"]
    return "\n".join(
        [
            f"recipe {recipe.name}",
            "",
            f"  sample rate {figures['sample_rate']:,} Hz · hop {figures['hop_length']:,} samples · "
            f"{figures['frame_rate']:g} frames/s · window {figures['window_frames']} frames",
            f"  {figures['tokens_per_frame']} tokens/frame · {figures['tokens_per_s']:g} tokens/s · "
            f"vocabulary {figures['vocabulary']:,}",
            f"  {figures['payload_bits_per_s']:g} bit/s payload · {figures['nominal_bits_per_s']:g} bit/s nominal · "
            f"{figures['stored_bits_per_s']:g} bit/s as uint16",
            f"  {gflop['encode']:.2f} GFLOP per audio second to encode · {gflop['decode']:.2f} to decode",
            "",
            "parameters",
            *rows,
            "",
            "configuration",
            yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False).rstrip(),
        ]
    )


def _in_words(count: int) -> str:
    """A number of parameters in millions, or in thousands below 0.1 M."""
    return f"{count / 1e6:>10.2f} M" if count >= 100_000 else f"{count / 1e3:>10.2f} K"


def _stages(module: nn.Module) -> list[tuple[str, nn.Module]]:
    """The children of a front end or generator, lists and halves by their items, none without parameters."""
    stages: list[tuple[str, nn.Module]] = []
    for name, child in module.named_children():
        if isinstance(child, nn.ModuleList):
            stages += [(f"{name}.{i}", item) for i, item in enumerate(child)]
        elif isinstance(child, Trunk | Vocoder):
            stages += [(f"{name}.{inner}", item) for inner, item in _stages(child)]
        else:
            stages.append((name, child))
    return [(name, child) for name, child in stages if _count(child)]


def _count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
