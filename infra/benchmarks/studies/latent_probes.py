"""Linear probes on frozen latents: who speaks, and what sounds. Used by bench_jepa_ablation.py, and by itself:

    python infra/benchmarks/studies/latent_probes.py --shards URI RUN [RUN ...]

prints a line each for stage-1 or stage-2 runs, for the same encoder untrained, and for the log-mel spectrum itself.

Only held-out speakers are judged: the encoder has seen none of them. The speaker probe is a closed set (all utterances
of a speaker but the last train it, the last tests it); a corpus with one recording a speaker lets it hear the room too.
The sound probe predicts what 0.1 s quarters of each 0.4 s frame sound like (log-mel bands, voicing, energy), by ridge
regression fitted on one half of the speakers and judged on the other: R^2, 0 for predicting the mean.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from safetensors.torch import load as from_safetensors
from torch import Tensor

from syllabary.model.encoder import Encoder, loudness_gain
from syllabary.shards.store import Folder
from syllabary.workers.recipes.recipe import Recipe, validate
from syllabary.workers.training.data.loader import Utterances

_QUARTERS, _BANDS, _HOP, _FFT = 4, 40, 160, 512
_RIDGE = 10.0


@dataclass(frozen=True)
class Probes:
    """Held-out speech, ready to judge encoders with.

    Attributes:
        clips: waveforms, float32 [samples], whole frames each.
        speakers: of each clip.
        sounds: what each frame of each clip sounds like [frames, targets]; the last 2 * 4 are voicing and energy.
    """

    clips: list[Tensor]
    speakers: list[str]
    sounds: list[Tensor]

    @classmethod
    def from_shards(
        cls, shards_uri: str, sample_rate: int, hop_length: int, *, most_each: int = 8, loudness_dbfs: float = -24.0
    ) -> Probes:
        """The valid and test utterances of speakers who have at least three, at the loudness that encoders expect."""
        found: dict[str, list[Tensor]] = defaultdict(list)
        for split in ("valid", "test"):
            utterances = Utterances(shards_uri, split, sample_rate)  # type: ignore[arg-type]
            for i in range(len(utterances)):
                speaker = str(utterances.row(i)["speaker"])
                if len(found[speaker]) < most_each:
                    samples = utterances.read(i)
                    whole = len(samples) // hop_length * hop_length
                    if whole >= 2 * hop_length:
                        clip = torch.from_numpy(samples[:whole].copy())
                        found[speaker].append(clip * loudness_gain(clip, sample_rate, loudness_dbfs))
        pairs = [(clip, who) for who, clips in sorted(found.items()) if len(clips) >= 3 for clip in clips]
        sounds = [describe_sound(clip, hop_length) for clip, _ in pairs]
        return cls([clip for clip, _ in pairs], [who for _, who in pairs], sounds)

    @torch.no_grad()
    def latents(self, encoder: Encoder) -> list[Tensor]:
        """Latents of each clip [frames, dim]."""
        encoder.eval()
        return [encoder(clip[None], torch.tensor([len(clip)])).latents[0].T for clip in self.clips]

    def judge(self, latents: list[Tensor]) -> dict[str, float]:
        """Every figure of one encoder's latents."""
        return self.speaker(latents) | self.sound(latents)

    def speaker(self, latents: list[Tensor]) -> dict[str, float]:
        """Accuracy of a linear speaker classifier on mean and deviation of each clip's latents.

        ``speaker_accuracy`` names the last utterance of each speaker from all others. ``speaker_left_out`` names every
        utterance from the rest, so that it has one answer a clip where the former has one a speaker.
        """
        pooled = torch.stack([torch.cat([x.mean(0), x.std(0, correction=0)]) for x in latents]).double()
        names = sorted(set(self.speakers))
        labels = torch.tensor([names.index(s) for s in self.speakers])
        last = {speaker: i for i, speaker in enumerate(self.speakers)}
        is_test = torch.zeros(len(labels), dtype=torch.bool)
        is_test[list(last.values())] = True
        votes = torch.nn.functional.one_hot(labels).double()
        scores = _ridge(pooled[~is_test], votes[~is_test], pooled[is_test])
        named = []
        for i in range(len(labels)):
            others = torch.arange(len(labels)) != i
            named.append(int(_ridge(pooled[others], votes[others], pooled[[i]]).argmax()))
        return {
            "speaker_accuracy": float((scores.argmax(1) == labels[is_test]).double().mean()),
            "speaker_left_out": float((torch.tensor(named) == labels).double().mean()),
        }

    def sound(self, latents: list[Tensor]) -> dict[str, float]:
        """R^2 of the sound probe: all bands, the same within clips (level and voice taken out), voicing, energy."""
        names = sorted(set(self.speakers))
        fit = [names.index(s) % 2 == 0 for s in self.speakers]
        absolute = self._r2(latents, self.sounds, fit)
        centred = self._r2([x - x.mean(0) for x in latents], [y - y.mean(0) for y in self.sounds], fit)
        mel = slice(0, _QUARTERS * _BANDS)
        voicing, energy = (slice(k, k + _QUARTERS) for k in (_QUARTERS * _BANDS, _QUARTERS * (_BANDS + 1)))
        return {
            "mel_r2": float(absolute[mel].mean()), "mel_r2_within_clip": float(centred[mel].mean()),
            "voicing_r2_within_clip": float(centred[voicing].mean()),
            "energy_r2_within_clip": float(centred[energy].mean()),
        }  # fmt: skip

    @staticmethod
    def _r2(features: list[Tensor], targets: list[Tensor], fit: list[bool]) -> Tensor:
        x, y = (torch.cat(rows).double() for rows in (features, targets))
        chosen = torch.cat([torch.full((len(rows),), is_fit) for rows, is_fit in zip(features, fit, strict=True)])
        error = (_ridge(x[chosen], y[chosen], x[~chosen]) - y[~chosen]).square().sum(0)
        return 1 - error / (y[~chosen] - y[~chosen].mean(0)).square().sum(0)


def _ridge(x: Tensor, y: Tensor, x_new: Tensor) -> Tensor:
    """Predictions for ``x_new`` of the ridge regression of y on standardized x."""
    mean, scale = x.mean(0), x.std(0).clamp(min=1e-8)
    x, x_new, middle = (x - mean) / scale, (x_new - mean) / scale, y.mean(0)
    weights = torch.linalg.solve(x.T @ x + _RIDGE * torch.eye(x.shape[1], dtype=x.dtype), x.T @ (y - middle))
    return x_new @ weights + middle


def describe_sound(clip: Tensor, hop_length: int) -> Tensor:
    """log-mel, voicing and log energy of each quarter of each frame [frames, quarters * (bands + 2)]."""
    padded = torch.nn.functional.pad(clip, (0, _FFT - _HOP))
    windows = padded.unfold(0, _FFT, _HOP) * torch.hann_window(_FFT)
    power = torch.fft.rfft(windows).abs().square()
    mel = (power @ _mel_filters() + 1e-6).log()
    correlation = torch.fft.irfft(torch.fft.rfft(windows, n=2 * _FFT).abs().square())[:, :_FFT]
    voicing = correlation[:, 40:267].amax(1) / (correlation[:, 0] + 1e-4)
    rows = torch.cat([mel, voicing[:, None], (power.sum(1) + 1e-4).log()[:, None]], dim=1)
    quarters = rows.unflatten(0, (-1, hop_length // _HOP // _QUARTERS)).mean(1).unflatten(0, (-1, _QUARTERS))
    return torch.cat([quarters[..., :_BANDS].flatten(1), quarters[..., _BANDS], quarters[..., _BANDS + 1]], dim=1)


def log_mel_latents(probes: Probes) -> list[Tensor]:
    """The sounds themselves in the place of latents: what the speaker probe makes of a plain spectrum."""
    return [sound[:, : _QUARTERS * _BANDS] for sound in probes.sounds]


def _mel_filters() -> Tensor:
    """Triangles from 50 Hz to 8 kHz at 16 kHz [bins, bands]."""
    top, bottom = (2595 * np.log10(1 + f / 700) for f in (8000.0, 50.0))
    edges = 700 * (10 ** (np.linspace(bottom, top, _BANDS + 2) / 2595) - 1)
    bins: Any = np.arange(_FFT // 2 + 1) * 16_000 / _FFT
    rise = (bins[:, None] - edges[:-2]) / (edges[1:-1] - edges[:-2])
    fall = (edges[2:] - bins[:, None]) / (edges[2:] - edges[1:-1])
    return torch.from_numpy(np.clip(np.minimum(rise, fall), 0, None)).float()


def encoder_of(run: str) -> tuple[Encoder, Recipe]:
    """The encoder that a complete stage-1 or stage-2 run published, and its recipe."""
    folder = Folder(run)
    recipe = validate(folder.read_json("config.json"))
    name = next(n for n in ("encoder.safetensors", "codec.safetensors") if folder.exists(n))
    state = from_safetensors(folder.read(name))
    if name.startswith("codec"):
        state = {k.removeprefix("encoder."): v for k, v in state.items() if k.startswith("encoder.")}
    encoder = Encoder(recipe.model.encoder)
    encoder.load_state_dict(state)
    return encoder, recipe


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shards", required=True)
    parser.add_argument("runs", nargs="+")
    options = parser.parse_args()
    encoders = {run: encoder_of(run) for run in options.runs}
    recipe = next(iter(encoders.values()))[1]
    framing, loudness = recipe.model.framing, recipe.model.encoder.loudness_dbfs
    probes = Probes.from_shards(options.shards, framing.sample_rate, framing.hop_length, loudness_dbfs=loudness)
    print(f"{len(probes.clips)} clips of {len(set(probes.speakers))} held-out speakers, recipe {recipe.name}")
    torch.manual_seed(0)
    rows = {"untrained": probes.latents(Encoder(recipe.model.encoder)), "log-mel spectrum": log_mel_latents(probes)}
    rows |= {run: probes.latents(encoder) for run, (encoder, _) in encoders.items()}
    for name, latents in rows.items():
        print(f"{name:40}", "  ".join(f"{key} {value:.3f}" for key, value in probes.judge(latents).items()))


if __name__ == "__main__":
    main()
