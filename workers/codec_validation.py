"""Held-out figures of stage 2, and its reconstructions to listen to and to look at."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from model.bottleneck import Bottleneck, bottleneck_mel, mel_l1
from model.codec import Codec
from model.config import ModelConfig
from model.fsq import Routing
from model.losses import mrstft_loss, waveform_loss
from model.mel import LogMel
from model.padding import valid_mask
from model.usage import level_usage
from shards import audio, store
from shards.packing import Packing
from workers.clips import Batch
from workers.curves import spectrograms
from workers.engine import gather_from_ranks, rows_of_all_ranks
from workers.train_rank import RankSetup
from workers.watches import latent_health, per_dim, token_perplexity

SAMPLES = "samples"


@torch.no_grad()
def validate_codec(codec: Codec, batches: list[Batch], device: torch.device, config: ModelConfig) -> dict[str, float]:
    """Losses and use of the code on this rank's held-out clips, joined over all ranks. Collective."""
    codec.eval()
    sums = torch.zeros(4, dtype=torch.float64)
    mel = bottleneck_mel(config).to(device)
    digits, latents = [], []
    for batch in batches:
        batch = batch.to(device)
        encoded = codec.encoder(batch.waveform, batch.num_samples)
        quantized = codec.fsq(encoded.latents)
        generated = codec.generator(quantized.values, batch.num_samples)[:, : batch.waveform.shape[-1]]
        mrstft = mrstft_loss(generated, batch.waveform, batch.num_samples, config.losses)
        difference = waveform_loss(generated, batch.waveform, batch.num_samples)
        positions = -(-batch.num_samples // mel.hop_length)
        apart = mel_l1(mel(generated), mel(batch.waveform), positions)
        count = float(batch.num_samples.sum())
        sums += count * torch.tensor([float(mrstft), float(difference), float(apart), 1.0], dtype=torch.float64)
        valid = valid_mask(encoded.num_frames, encoded.latents.shape[-1], device)
        digits.append(quantized.level_indices.transpose(1, 2)[valid].cpu())
        latents.append(encoded.latents.transpose(1, 2)[valid].float().cpu())
    *totals, total = sum(gather_from_ranks(sums)).tolist()  # type: ignore[union-attr]
    losses = {name: value / total for name, value in zip(("mrstft", "waveform", "mel"), totals, strict=True)}
    frames = rows_of_all_ranks(latents)
    spread = latent_health(frames) | per_dim("latent_std", frames.std(dim=0, correction=0))
    return losses | _code_use(rows_of_all_ranks(digits), config) | spread


@torch.no_grad()
def validate_mel_head(
    bottleneck: Bottleneck, mel: LogMel, batches: list[Batch], device: torch.device
) -> dict[str, float]:
    """``mel_head``: L1 of the spectra that the head gives from tokens of the held-out clips. Collective."""
    sums = torch.zeros(2, dtype=torch.float64)
    for batch in batches:
        batch = batch.to(device)
        found = bottleneck(batch.waveform, batch.num_samples, Routing())
        apart = mel_l1(found.mel, mel(batch.waveform), -(-batch.num_samples // mel.hop_length))
        count = float(batch.num_samples.sum())
        sums += count * torch.tensor([float(apart), 1.0], dtype=torch.float64)
    apart_sum, total = sum(gather_from_ranks(sums)).tolist()  # type: ignore[union-attr]
    return {"mel_head": apart_sum / total}


def _code_use(digits: Tensor, config: ModelConfig) -> dict[str, float]:
    """Use of levels and tokens by digits [frames, dim]."""
    usage = level_usage(digits, config.fsq.levels)
    packing = Packing(digits.shape[1], config.fsq.levels, config.fsq.group_size, config.fsq.digit_order)
    tokens = torch.from_numpy(packing.pack(digits.numpy()).astype(np.int64))
    shares = {f"level_{i}_share": float(share) for i, share in enumerate(usage.level_share)}
    for level, share in enumerate(usage.dim_level_share.T):
        shares |= per_dim(f"level_{level}_share", share)
    return {
        "level_entropy_bits": usage.entropy_bits,
        "level_perplexity": usage.perplexity,
        "dead_dims": float(usage.dead_dims),
        "token_perplexity": token_perplexity(tokens),
        **shares,
    }


@torch.no_grad()
def illustrate(codec: Codec, setup: RankSetup, step: int, count: int) -> None:
    """Publish the first ``count`` held-out clips as reconstructed now: FLAC, and spectrograms beside the original."""
    codec.eval()
    rate = setup.job.recipe.model.encoder.sample_rate
    for number, (clip, slot_id) in enumerate(_first_clips(setup.validation, count)):
        folder = store.join(setup.job.run_uri, SAMPLES, f"clip-{number}")
        waveform = torch.from_numpy(clip)[None].to(setup.device)
        rebuilt = codec(waveform, torch.tensor([len(clip)])).waveform[0, : len(clip)].float().cpu().numpy()
        titles = [(f"original (utterance {slot_id})", clip), (f"reconstructed at step {step:,}", rebuilt)]
        store.publish_bytes(store.join(folder, "original.flac"), audio.encode_flac(clip, rate))
        store.publish_bytes(store.join(folder, f"step-{step:08d}.flac"), audio.encode_flac(rebuilt, rate))
        store.publish_bytes(store.join(folder, f"step-{step:08d}.png"), spectrograms(titles, rate))


def _first_clips(batches: list[Batch], count: int) -> list[tuple[np.ndarray, int]]:
    clips = [
        (waveform[:n].numpy(), slot.utterance)
        for batch in batches
        for waveform, n, slot in zip(batch.waveform, batch.num_samples.tolist(), batch.slots, strict=True)
    ]
    return clips[:count]
