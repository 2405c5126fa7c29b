"""Losses of stage 2 (PAPER section stage 2), all of them blind to padding.

total = L1 + 2.0 mrstft + 0.1 (adversarial + feature_matching); beyond the paper + w mel, without L1 and mrstft
mel = mean over windows of L1 between log-mel spectra (model/spectral/mel.py)
mrstft = mean over FFT sizes of [magnitude term + L1 of log magnitudes], hop FFT / 4, Hann
adversarial (least squares): G: (D(y') - 1)^2;  D: (D(y) - 1)^2 + D(y')^2
feature matching: mean over layers of L1 between hidden maps of real and generated speech; beyond the paper over the
    mean magnitude of the real map (Défossez et al. 2022)

Every term is a clip's own mean, and a batch's the mean over its clips weighted by their samples: batches divided over
ranks and weighted by their samples then add up to the undivided batch exactly, whatever the clips' lengths.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from syllabary.model.config import CodecLossConfig
from syllabary.model.discriminators import DiscriminatorOutput, FeatureMap
from syllabary.model.layers import full_precision, over_clips, valid_mask
from syllabary.model.spectral.mel import LogMel

_MAGNITUDE_FLOOR = 1e-5
_LEAST_MAGNITUDE = 1e-3  # of a hidden map: silence must not be divided by nothing
_LEAST_VARIANCE = 1e-8  # keeps the gradient of a root finite


@dataclass(frozen=True)
class GeneratorLosses:
    """The weighted ``total`` with gradient and its terms; adversarial terms are 0 before the discriminators start."""

    total: Float[Tensor, ""]
    waveform: Float[Tensor, ""]
    mrstft: Float[Tensor, ""]
    mel: Float[Tensor, ""]
    adversarial: Float[Tensor, ""]
    feature_matching: Float[Tensor, ""]


def waveform_loss(
    generated: Float[Tensor, "batch samples"],
    target: Float[Tensor, "batch samples"],
    num_samples: Int[Tensor, "batch"],
) -> Float[Tensor, ""]:
    """Mean absolute difference over valid samples."""
    mask = valid_mask(num_samples, target.shape[-1], target.device)
    return (generated.float() - target.float()).abs().masked_fill(~mask, 0.0).sum() / mask.sum().clamp(min=1)


def mrstft_loss(
    generated: Float[Tensor, "batch samples"],
    target: Float[Tensor, "batch samples"],
    num_samples: Int[Tensor, "batch"],
    config: CodecLossConfig,
) -> Float[Tensor, ""]:
    """Multi-resolution STFT loss over the frames whose centres are valid samples."""
    mask = valid_mask(num_samples, target.shape[-1], target.device)
    generated, target = generated.masked_fill(~mask, 0.0).float(), target.masked_fill(~mask, 0.0).float()
    terms = [_stft_loss(generated, target, num_samples, n_fft, config) for n_fft in config.stft_ffts]
    return over_clips(torch.stack(terms).mean(dim=0), num_samples)


def mel_loss(
    generated: Float[Tensor, "batch samples"],
    target: Float[Tensor, "batch samples"],
    num_samples: Int[Tensor, "batch"],
    mels: Iterable[LogMel],
) -> Float[Tensor, ""]:
    """Mean over windows of the L1 between log-mel spectra, over the frames whose centres are valid samples."""
    mask = valid_mask(num_samples, target.shape[-1], target.device)
    generated, target = generated.masked_fill(~mask, 0.0), target.masked_fill(~mask, 0.0)
    terms = [_mel_distance(generated, target, num_samples, mel) for mel in mels]
    return over_clips(torch.stack(terms).mean(dim=0), num_samples)


def _mel_distance(
    generated: Float[Tensor, "batch samples"],
    target: Float[Tensor, "batch samples"],
    num_samples: Int[Tensor, "batch"],
    mel: LogMel,
) -> Float[Tensor, "batch"]:
    distance = (mel(generated) - mel(target)).abs().mean(dim=1)
    mask = valid_mask(-(-num_samples // mel.hop_length), distance.shape[-1], distance.device)
    return distance.masked_fill(~mask, 0.0).sum(dim=1) / mask.sum(dim=1).clamp(min=1)


def spread_loss(latents: Float[Tensor, "batch dim frames"], num_frames: Int[Tensor, "batch"]) -> Float[Tensor, ""]:
    """How far each dim is from mean 0 and deviation 1: mean over dims of (s - 1)^2 + m^2.

    ``s`` is the deviation *between clips at one place*, pooled over the places that two clips or more reach, so that a
    clock does not count as spread; ``m`` is the mean over all valid frames. 0 when no place has two clips.
    """
    wide = latents.float()
    mask = valid_mask(num_frames, wide.shape[-1], wide.device)[:, None]
    clips = mask.sum(dim=0, keepdim=True)
    place_mean = wide.masked_fill(~mask, 0.0).sum(dim=0, keepdim=True) / clips.clamp(min=1)
    left = (wide - place_mean).masked_fill(~mask, 0.0).square().sum(dim=(0, 2))
    freedom = (clips - 1).clamp(min=0).sum()
    mean = wide.masked_fill(~mask, 0.0).sum(dim=(0, 2)) / mask.sum()
    deviation = (left / freedom.clamp(min=1) + _LEAST_VARIANCE).sqrt()
    return ((deviation - 1).square() + mean.square()).mean() * (freedom > 0)


@dataclass(frozen=True)
class CollapseLosses:
    """VICReg's two terms (Bardes et al. 2022), of what lies between clips at one place.

    Attributes:
        variance: mean over dims of max(0, 1 - s), s the deviation: a dim that stops moving.
        covariance: mean over dims of the sum of squared covariances with the others: dims that say the same.
    """

    variance: Float[Tensor, ""]
    covariance: Float[Tensor, ""]


def collapse_losses(
    latents: Float[Tensor, "batch dim frames"], counted: Bool[Tensor, "batch frames"]
) -> CollapseLosses:
    """Measure how far latents have collapsed, over the frames where ``counted`` is True and two clips or more are.

    Each place's mean over clips is taken out first, so that a clock counts as collapsed.
    """
    wide, mask = latents.float(), counted[:, None]
    clips = mask.sum(dim=0, keepdim=True)
    mean = wide.masked_fill(~mask, 0.0).sum(dim=0, keepdim=True) / clips.clamp(min=1)
    left = (wide - mean).masked_fill(~mask, 0.0).transpose(1, 2).flatten(0, 1)
    freedom = (clips - 1).clamp(min=0).sum()
    covariance = left.T @ left / freedom.clamp(min=1)
    deviation = (covariance.diagonal() + _LEAST_VARIANCE).sqrt()
    between = covariance.square().sum() - covariance.diagonal().square().sum()
    there = freedom > 0
    return CollapseLosses((1 - deviation).clamp(min=0).mean() * there, between / len(covariance) * there)


def _stft_loss(
    generated: Float[Tensor, "batch samples"],
    target: Float[Tensor, "batch samples"],
    num_samples: Int[Tensor, "batch"],
    n_fft: int,
    config: CodecLossConfig,
) -> Float[Tensor, "batch"]:
    ours, theirs = _magnitudes(generated, n_fft), _magnitudes(target, n_fft)
    frames = -(-num_samples // (n_fft // 4))
    mask = valid_mask(frames, theirs.shape[-1], theirs.device)[:, None, :]
    difference = (ours - theirs).masked_fill(~mask, 0.0)
    count = mask.sum(dim=(1, 2)).clamp(min=1) * theirs.shape[1]
    if config.magnitude_term == "l1":
        magnitude = difference.abs().sum(dim=(1, 2)) / count
    else:
        energy = theirs.masked_fill(~mask, 0.0).square().sum(dim=(1, 2))
        error = difference.square().sum(dim=(1, 2))
        magnitude = ((error + _MAGNITUDE_FLOOR**2) / (energy + _MAGNITUDE_FLOOR**2)).sqrt()
    log_difference = (ours.log() - theirs.log()).masked_fill(~mask, 0.0)
    return magnitude + log_difference.abs().sum(dim=(1, 2)) / count


def _magnitudes(waveform: Float[Tensor, "batch samples"], n_fft: int) -> Float[Tensor, "batch bins frames"]:
    """Magnitudes, at least 1e-5, of zero-padded centred frames."""
    with full_precision(waveform.device):
        window = torch.hann_window(n_fft, device=waveform.device)
        spectrum = torch.stft(
            waveform, n_fft, n_fft // 4, window=window, center=True, pad_mode="constant", return_complex=True
        )
        return (spectrum.real.square() + spectrum.imag.square()).clamp(min=_MAGNITUDE_FLOOR**2).sqrt()


def generator_adversarial_loss(generated: DiscriminatorOutput) -> Float[Tensor, ""]:
    """Mean over sub-discriminators of (D(y') - 1)^2."""
    terms = [_clip_means((s.values.float() - 1).square(), s) for s in generated.scores]
    return over_clips(torch.stack(terms).mean(dim=0), generated.num_samples)


def discriminator_loss(real: DiscriminatorOutput, generated: DiscriminatorOutput) -> Float[Tensor, ""]:
    """Mean over sub-discriminators of (D(y) - 1)^2 + D(y')^2."""
    terms = [
        _clip_means((r.values.float() - 1).square(), r) + _clip_means(g.values.float().square(), g)
        for r, g in zip(real.scores, generated.scores, strict=True)
    ]
    return over_clips(torch.stack(terms).mean(dim=0), real.num_samples)


def feature_matching_loss(
    real: DiscriminatorOutput, generated: DiscriminatorOutput, *, relative: bool = False
) -> Float[Tensor, ""]:
    """Mean over all hidden maps of the L1 distance; no gradient reaches the real side.

    ``relative``: each clip's distance is divided by the mean magnitude of its real map.
    """
    terms = []
    for reals, fakes in zip(real.features, generated.features, strict=True):
        for r, g in zip(reals, fakes, strict=True):
            wanted = r.values.detach().float()
            distance = _clip_means((g.values.float() - wanted).abs(), r)
            terms.append(distance / _clip_means(wanted.abs(), r).clamp(min=_LEAST_MAGNITUDE) if relative else distance)
    return over_clips(torch.stack(terms).mean(dim=0), real.num_samples)


@torch.no_grad()
def mean_score(judged: DiscriminatorOutput) -> Float[Tensor, ""]:
    """Mean of all sub-discriminators' scores: towards 1 for speech held to be real, towards 0 for generated speech."""
    terms = [_clip_means(s.values.float(), s) for s in judged.scores]
    return over_clips(torch.stack(terms).mean(dim=0), judged.num_samples)


def _clip_means(x: Tensor, like: FeatureMap) -> Float[Tensor, "batch"]:
    """Mean of ``x`` [batch, channels, time, ...] over the valid times of ``like``, a clip.

    At least in fp32: the sum over a whole map leaves what fp16 can hold.
    """
    mask = valid_mask(like.lengths, x.shape[2], x.device)
    mask = mask.view(mask.shape[0], 1, mask.shape[1], *[1] * (x.dim() - 3))
    per_time = x[0, :, 0].numel()
    return x.masked_fill(~mask, 0.0).flatten(1).sum(dim=1, dtype=torch.promote_types(x.dtype, torch.float32)) / (
        mask.flatten(1).sum(dim=1).clamp(min=1) * per_time
    )


def generator_losses(
    generated: Float[Tensor, "batch samples"],
    target: Float[Tensor, "batch samples"],
    num_samples: Int[Tensor, "batch"],
    config: CodecLossConfig,
    *,
    judged: tuple[DiscriminatorOutput, DiscriminatorOutput] | None = None,
    mels: Sequence[LogMel] = (),
) -> GeneratorLosses:
    """All terms for the generator's step. ``judged`` = (of real, of generated) speech, None before the warm-up ends.

    A term of weight 0 is not computed and stands as 0. ``mels`` are the windows of ``config`` (``mel_windows``).
    """
    zero = generated.new_zeros(())
    length = min(generated.shape[-1], target.shape[-1])
    generated, target = generated[:, :length], target[:, :length]
    waveform = waveform_loss(generated, target, num_samples) if config.waveform_weight else zero
    mrstft = mrstft_loss(generated, target, num_samples, config) if config.mrstft_weight else zero
    mel = mel_loss(generated, target, num_samples, mels) if config.mel_weight else zero
    adversarial = zero if judged is None else generator_adversarial_loss(judged[1])
    matching = zero if judged is None else feature_matching_loss(*judged, relative=config.relative_matching)
    total = (
        config.waveform_weight * waveform
        + config.mrstft_weight * mrstft
        + config.mel_weight * mel
        + config.adversarial_weight * adversarial
        + config.feature_matching_weight * matching
    )
    return GeneratorLosses(total, waveform, mrstft, mel, adversarial, matching)
