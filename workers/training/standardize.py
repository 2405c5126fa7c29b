"""Latents at the scale that FSQ's levels expect, before stage 2 learns from them.

A JEPA loss does not care at which scale a dim varies: after stage 1 many dims stay within one level's width, so that
FSQ turns them into constants and a frozen encoder's tokens say little. Each dim is therefore moved to mean 0 and
standard deviation 1 over training clips, where four levels are used almost alike (1.98 of 2 bits for a normal dim).
The change is folded into the encoder's last affine weights: formats, kernels and costs stay as they are.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch
from safetensors.torch import load as from_safetensors
from safetensors.torch import save as to_safetensors
from torch import Tensor

from syllabary.model.encoder import Encoder
from syllabary.shards.errors import InputError
from syllabary.shards.store import Folder
from syllabary.workers.training.data.clips import NO_AUGMENTATION, Batch
from syllabary.workers.training.data.loader import RankShare, Utterances, fixed_batches
from syllabary.workers.training.driver import RankJob
from syllabary.workers.training.engine import sum_over_ranks, world
from syllabary.workers.training.rank import RankSetup, clip_maker

SCALE_FILE = "latent_scale.safetensors"
NUM_CLIPS = 128
MIN_STD = 1e-3


def standardize_latents(encoder: Encoder, setup: RankSetup) -> None:
    """Give every latent dim mean 0 and standard deviation 1 over the first training clips.

    Rank 0 measures once and publishes what it found in the run's folder; all ranks, and all restarts, read it from
    there, so that the encoder of a run stays the same bits.

    Raises:
        InputError: no training clip can be read.
    """
    run = Folder(setup.job.run_uri)
    if world()[0] == 0 and not run.exists(SCALE_FILE):
        mean, std = _measure(encoder, _clips(setup.job), setup.device)
        run.publish(SCALE_FILE, to_safetensors({"mean": mean.cpu(), "std": std.cpu()}))
    sum_over_ranks(torch.zeros(1, device=setup.device))  # nobody reads before rank 0 has written
    scale = from_safetensors(run.read(SCALE_FILE))
    encoder.standardize(scale["mean"].to(setup.device), scale["std"].to(setup.device))


def _clips(job: RankJob) -> Iterator[Batch]:
    """Training clips. One that cannot be read is left out; the training that follows quarantines and reports it."""
    config, model = job.recipe.codec, job.recipe.model.encoder
    crops = replace(clip_maker(model, config), augment=NO_AUGMENTATION, fixed_crops=True)
    utterances = Utterances(job.shards_uri, "train", model.sample_rate)
    yield from fixed_batches(utterances, crops, RankShare(0, 1, 1, 1), seed=config.seed, count=NUM_CLIPS)


@torch.no_grad()
def _measure(encoder: Encoder, clips: Iterator[Batch], device: torch.device) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation [dim] over the clips' frames; a dim that hardly moves counts as ``MIN_STD``."""
    was_training = encoder.training
    encoder.eval()
    rows = [encoder(b.waveform.to(device), b.num_samples).latents[0].T.double() for b in clips]
    encoder.train(was_training)
    if not rows:
        raise InputError("no training clip can be read to scale the latents by", fix="verify the shards")
    frames = torch.cat(rows)
    std = frames.std(dim=0, correction=0).clamp(min=MIN_STD)
    return frames.mean(dim=0).float(), std.float()
