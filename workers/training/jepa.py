"""Stage 1 on one rank: 1. forward, 2. backward, 3. momentum update of the target (PAPER section stage 1).

The loss of a step is the mean over all masked frames of all ranks and micro-batches, so the same clips give the same
step however they are divided: each micro-batch is weighted by its share of the masked frames.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import save as to_safetensors
from torch import Tensor

from syllabary.model.jepa import Jepa
from syllabary.model.masking import sample_mask
from syllabary.model.padding import frame_mask, valid_mask, zero_invalid
from syllabary.shards import store
from syllabary.shards.errors import InputError, explain
from syllabary.shards.outputs import pretty_json
from syllabary.workers.training.data.clips import Batch
from syllabary.workers.training.data.epoch_order import mix
from syllabary.workers.training.driver import RankJob
from syllabary.workers.training.engine import (
    backward,
    build_engine,
    gather_from_ranks,
    rows_of_all_ranks,
    set_learning_rate,
    step_engine,
    sum_over_ranks,
    world,
)
from syllabary.workers.training.rank import RankSetup, run_rank
from syllabary.workers.training.watches.health import (
    daam_spread,
    ema_distance,
    gate_health,
    latent_health,
    per_dim,
    relative_loss,
)

ENCODER_FILE, CONFIG_FILE = "encoder.safetensors", "config.json"
COLLAPSED_STD = 0.01


def train_jepa_rank(job: RankJob) -> None:
    """What each Ray Train worker runs."""
    run_rank(job, job.recipe.pretrain, JepaStage)


class JepaStage:
    """The JEPA encoder and its engine."""

    name, headline, unit = "pretrain", "loss", "mean squared error of masked latents"

    def __init__(self, setup: RankSetup) -> None:
        self._setup, self._job = setup, setup.job
        self._config = setup.job.recipe.pretrain
        encoder = setup.job.recipe.model.encoder
        self._hop, self._jepa_config = encoder.framing.hop_length, setup.job.recipe.model.jepa
        self._jepa = Jepa(encoder, self._jepa_config).to(setup.device)
        engine = build_engine(
            self._jepa, [(self._jepa, 1.0)], self._config, self._config.optimizer.lr,
            load_universal=setup.load_universal,
        )  # fmt: skip
        self.engines: Mapping[str, Any] = {"jepa": engine}

    def train_step(self, step: int, batches: list[Batch], lr: float, *, detailed: bool) -> dict[str, float]:
        """See :class:`syllabary.workers.training.loop.Stage`."""
        engine = self.engines["jepa"]
        engine.train()
        set_learning_rate(engine, lr)
        masks = [self._masks(batch) for batch in batches]
        counts = [int(mask.sum()) for mask in masks]
        # Clips of one frame have none to predict; a step of nothing but those has a loss of 0 and no gradient.
        total = max(1.0, float(sum_over_ranks(torch.tensor([float(sum(counts))], device=self._setup.device))[0]))
        sums = torch.zeros(3, dtype=torch.float64, device=self._setup.device)
        norm: dict[str, float] = {}
        for batch, mask, count in zip(batches, masks, counts, strict=True):
            batch = batch.to(self._setup.device)
            found = engine(batch.waveform, batch.num_samples, mask)
            # DeepSpeed divides by ranks and micro-batches; undone here, what is left is the share of masked frames.
            backward(engine, found.loss * (count * world()[1] * len(batches) / total))
            norm = step_engine(engine)
            stats = torch.stack([found.loss.detach(), found.prediction_std, found.target_std])
            sums += stats.double() * (count / total)
        self._jepa.update_target()
        loss, prediction_std, target_std = sum_over_ranks(sums).tolist()
        stats_by_name = {"loss": loss, "prediction_std": prediction_std, "target_std": target_std}
        return stats_by_name | norm

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        """See :class:`syllabary.workers.training.loop.Stage`.

        Raises InputError: the clips are too short for any masked frame.
        """
        self._jepa.eval()
        sums = torch.zeros(3, dtype=torch.float64)
        latents, gates, predictions = [], [], []
        for batch in self._setup.validation:
            masked = self._masks(batch).to(self._setup.device)
            batch = batch.to(self._setup.device)
            encoded = self._jepa.target_encoder(batch.waveform, batch.num_samples)
            predicted = self._predict(batch, masked)
            wanted = encoded.latents.float()
            error = (predicted - wanted).square().mean(dim=1)[masked]
            cosine = F.cosine_similarity(predicted, wanted, dim=1)[masked]
            sums += torch.stack([error.sum(), cosine.sum(), masked.sum()]).double().cpu()
            valid = valid_mask(encoded.num_frames, wanted.shape[-1], wanted.device)
            latents.append(wanted.transpose(1, 2)[valid].cpu())
            gates.append(encoded.gate[valid].cpu())
            predictions.append(predicted.transpose(1, 2)[masked].cpu())
        error_sum, cosine_sum, count = sum(gather_from_ranks(sums)).tolist()  # type: ignore[union-attr]
        _require_masked_frames(count, self._jepa_config.mask_ratio)
        spread = float(rows_of_all_ranks(predictions).std(dim=0, correction=0).mean())
        targets = rows_of_all_ranks(latents)
        return {
            "loss": error_sum / count,
            "relative_loss": relative_loss(error_sum / count, targets),
            "target_prediction_cosine": cosine_sum / count,
            "prediction_std": spread,
            "collapsed": float(spread < COLLAPSED_STD),
            "ema_distance": ema_distance(self._jepa),
            **latent_health(targets),
            **per_dim("latent_std", targets.std(dim=0, correction=0)),
            **gate_health(rows_of_all_ranks(gates)),
            **daam_spread(self._jepa.context_encoder),
        }

    def warnings(self, found: Mapping[str, float]) -> list[str]:
        """Collapse: predictions that hardly vary (PAPER section stage 1)."""
        if not found["collapsed"]:
            return []
        return [f"predictions vary by {found['prediction_std']:.2g}, below {COLLAPSED_STD:g}: the latents collapse"]

    def illustrate(self, step: int) -> None:
        """Nothing to hear yet: latents have no sound before stage 2."""

    def publish(self) -> Mapping[str, Any]:
        """The encoder that the configuration asks for, and the configuration."""
        is_target = self._config.export_encoder == "target"
        encoder = self._jepa.target_encoder if is_target else self._jepa.context_encoder
        state = {k: v.detach().cpu().contiguous() for k, v in encoder.state_dict().items()}
        store.publish_bytes(store.join(self._job.run_uri, ENCODER_FILE), to_safetensors(state))
        config = pretty_json(self._job.recipe.model_dump(mode="json"))
        store.publish_bytes(store.join(self._job.run_uri, CONFIG_FILE), config)
        return {"num_parameters": sum(v.numel() for v in state.values())}

    def marks(self) -> list[tuple[int, str]]:
        """None: one phase from start to end."""
        return []

    def _masks(self, batch: Batch) -> Tensor:
        """Each clip's mask from its own seed: it does not depend on the batch [batch, frames]."""
        frames = [-(-n // self._hop) for n in batch.num_samples.tolist()]
        masks = torch.zeros(len(frames), batch.waveform.shape[-1] // self._hop, dtype=torch.bool)
        for row, count, slot in zip(masks, frames, batch.slots, strict=True):
            generator = torch.Generator().manual_seed(mix(slot.seed, 4) >> 1)
            row[:count] = sample_mask([count], self._jepa_config, generator)[0]
        return masks

    def _predict(self, batch: Batch, masked: Tensor) -> Tensor:
        context = self._jepa.forward_context(batch.waveform, batch.num_samples, masked)
        frames = -(-batch.num_samples // self._hop)
        valid = frame_mask(frames, context.shape[-1], context.device)
        return self._jepa.predictor(zero_invalid(context, valid), valid).float()


def _require_masked_frames(count: float, mask_ratio: float) -> None:
    if not count:
        raise InputError(
            explain(
                "frames to predict in the validation clips",
                value=0,
                expected=f"floor({mask_ratio:g} * frames) above 0 in some clip",
                fix="raise pretrain.crop_s or model.jepa.mask_ratio, or shard longer utterances",
            )
        )
