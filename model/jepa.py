"""JEPA: predict the latents of masked frames from the visible ones (PAPER section stage 1).

    loss = mean over masked frames and channels of (predictor(masked context) - sg(target))^2
    target encoder: exponential moving average of the context encoder, no dropout, no gradient

``mask_at="latent"`` (the paper's) masks the context encoder's output, after every visible frame has attended to the
masked ones; ``mask_at="features"`` masks before the Conformers, so attention never sees what is to be predicted;
``mask_at="input"`` silences the masked frames' samples too, so that no visible frame's front end has heard them either.
Masked frames are replaced by one learned vector. Beyond the paper, ``variance_weight`` and ``covariance_weight`` add
VICReg's terms on the visible frames: without them the latents' rank falls to what is easily predicted.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from syllabary.model.config import EncoderConfig, JepaConfig, PredictorConfig
from syllabary.model.conformer import ConformerStack
from syllabary.model.encoder import Encoder
from syllabary.model.layers import frame_mask, full_precision, masked_mean, stretch, unit_gain, valid_mask, zero_invalid
from syllabary.model.losses import collapse_losses


@dataclass(frozen=True)
class JepaOutput:
    """Loss with gradient, and monitors without.

    Attributes:
        loss: mean squared error at masked frames; 0 when no frame is masked.
        total: the loss and the terms against collapse, which is what is learned from.
        prediction_std: mean over channels of the predictions' standard deviation; below 0.01 means collapse.
        target_std: the same of the targets.
        masked_fraction: masked frames over valid frames.
    """

    loss: Float[Tensor, ""]
    total: Float[Tensor, ""]
    prediction_std: Float[Tensor, ""]
    target_std: Float[Tensor, ""]
    masked_fraction: Float[Tensor, ""]


class Predictor(nn.Module):
    """1x1 conv -> GELU -> Conformer -> 1x1 conv -> GELU -> Conformer -> 1x1 conv."""

    def __init__(self, latent_dim: int, config: PredictorConfig) -> None:
        super().__init__()
        hidden = config.hidden_dim
        self.enter = unit_gain(nn.Conv1d(latent_dim, hidden, 1))
        self.first = _stack(config)
        self.middle = unit_gain(nn.Conv1d(hidden, hidden, 1))
        self.second = _stack(config)
        self.leave = unit_gain(nn.Conv1d(hidden, latent_dim, 1))

    def forward(
        self, latents: Float[Tensor, "batch dim frames"], mask: Bool[Tensor, "batch frames"] | None
    ) -> Float[Tensor, "batch dim frames"]:
        """Predicted latents of all frames; ``mask`` True at valid frames."""
        x = self.first(F.gelu(self.enter(latents)), mask)
        x = self.second(F.gelu(self.middle(x)), mask)
        return self.leave(x)


class Jepa(nn.Module):
    """Context encoder, predictor, and the target encoder that follows by ``update_target``."""

    def __init__(self, encoder: EncoderConfig, config: JepaConfig) -> None:
        super().__init__()
        self.config = config
        self.context_encoder = Encoder(encoder)
        self.predictor = Predictor(encoder.latent_dim, config.predictor)
        self.mask_token = nn.Parameter(torch.zeros(encoder.latent_dim))
        self.target_encoder = copy.deepcopy(self.context_encoder).requires_grad_(False).eval()

    def train(self, mode: bool = True) -> Jepa:
        """As in torch, but the target encoder stays without dropout."""
        super().train(mode)
        self.target_encoder.eval()
        return self

    def forward(
        self,
        waveform: Float[Tensor, "batch samples"],
        num_samples: Int[Tensor, "batch"],
        mask: Bool[Tensor, "batch frames"],
    ) -> JepaOutput:
        """Loss of a batch; ``mask`` True at the frames to predict (``syllabary.model.masking``), on any device."""
        targets, num_frames = self.forward_target(waveform, num_samples)
        frames = targets.shape[-1]
        masked = F.pad(mask, (0, frames - mask.shape[-1])).to(waveform.device)
        context = self.forward_context(waveform, num_samples, masked)
        valid = frame_mask(num_frames, frames, waveform.device)
        predictions = self.predictor(zero_invalid(context, valid), valid).float()
        error = (predictions - targets).square().mean(dim=1)
        loss = masked_mean(error, masked)
        return JepaOutput(
            loss,
            loss + self._against_collapse(context, num_frames, masked),
            _spread(predictions.detach(), masked),
            _spread(targets, masked),
            masked.sum() / int(num_frames.sum()),
        )

    @torch.no_grad()
    def forward_target(
        self, waveform: Float[Tensor, "batch samples"], num_samples: Int[Tensor, "batch"]
    ) -> tuple[Float[Tensor, "batch dim frames"], Int[Tensor, "batch"]]:
        """The latents to be predicted, and how many frames of each clip are valid."""
        encoded = self.target_encoder(waveform, num_samples)
        return encoded.latents.float(), encoded.num_frames

    def forward_context(
        self,
        waveform: Float[Tensor, "batch samples"],
        num_samples: Int[Tensor, "batch"],
        masked: Bool[Tensor, "batch frames"],
    ) -> Float[Tensor, "batch dim frames"]:
        """The context encoder's latents with masked frames hidden where the configuration says."""
        if self.config.mask_at == "input":
            hop = self.context_encoder.framing.hop_length
            hidden = stretch(masked, hop)
            assert hidden is not None
            waveform = waveform.masked_fill(hidden[:, : waveform.shape[-1]], 0.0)
        front = self.context_encoder.features(waveform, num_samples)
        if self.config.mask_at != "latent":
            return self.context_encoder.contextualize(self._hide(front.features, masked), front.num_frames)
        return self._hide(self.context_encoder.contextualize(front.features, front.num_frames), masked)

    @torch.no_grad()
    def update_target(self) -> None:
        """target = ema_decay * target + (1 - ema_decay) * context; call once after every optimizer step."""
        pairs = zip(self.target_encoder.parameters(), self.context_encoder.parameters(), strict=True)
        for target, context in pairs:
            target.lerp_(context.to(target.dtype), 1 - self.config.ema_decay)

    def _against_collapse(
        self,
        context: Float[Tensor, "batch dim frames"],
        num_frames: Int[Tensor, "batch"],
        masked: Bool[Tensor, "batch frames"],
    ) -> Float[Tensor, ""]:
        """The weighted terms against collapse, over the visible frames of the context; 0 where they weigh nothing."""
        config = self.config
        if not config.variance_weight and not config.covariance_weight:
            return context.new_zeros(())
        visible = valid_mask(num_frames, context.shape[-1], context.device) & ~masked
        with full_precision(context.device):
            terms = collapse_losses(context, visible)
            return config.variance_weight * terms.variance + config.covariance_weight * terms.covariance

    def _hide(
        self, x: Float[Tensor, "batch dim frames"], masked: Bool[Tensor, "batch frames"]
    ) -> Float[Tensor, "batch dim frames"]:
        return torch.where(masked[:, None, :], self.mask_token[:, None].to(x.dtype), x)


def _stack(config: PredictorConfig) -> ConformerStack:
    return ConformerStack(config.num_layers_per_stack, config.hidden_dim, config)


def _spread(x: Float[Tensor, "batch dim frames"], masked: Bool[Tensor, "batch frames"]) -> Float[Tensor, ""]:
    """Mean over channels of the standard deviation over masked frames."""
    count = masked.sum().clamp(min=1)
    chosen = masked[:, None, :]
    mean = x.masked_fill(~chosen, 0.0).sum(dim=(0, 2), keepdim=True) / count
    variance = (x - mean).masked_fill(~chosen, 0.0).square().sum(dim=(0, 2)) / count
    return variance.sqrt().mean()
