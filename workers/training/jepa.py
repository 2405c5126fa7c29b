"""Stage 1 on one rank: 1. forward, 2. backward, 3. momentum update of the target (PAPER section stage 1).

The loss of a step is the mean over all masked frames of all ranks and micro-batches, so the same clips give the same
step however they are divided: each micro-batch is weighted by its share of the masked frames. Terms against collapse
(``jepa.variance_weight``, ``covariance_weight``) compare the clips of a micro-batch with one another: with them it
matters which ones are together, and a micro-batch of one clip has none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import save as to_safetensors
from torch import Tensor

from syllabary.model.codec import Fsq
from syllabary.model.cpu.accelerate import accelerate
from syllabary.model.jepa import Jepa
from syllabary.model.layers import frame_mask, valid_mask, zero_invalid
from syllabary.model.masking import sample_mask
from syllabary.model.measures.place import PlaceGroups, relative_loss
from syllabary.shards.errors import InputError
from syllabary.shards.store import Folder
from syllabary.workers.recipes.beginning import CONFIG_FILE
from syllabary.workers.recipes.recipe import Recipe
from syllabary.workers.training.data.clips import Batch
from syllabary.workers.training.data.epoch_order import mix
from syllabary.workers.training.driver import RankJob
from syllabary.workers.training.engine import (
    backward,
    build_engine,
    clips_of_all_ranks,
    gather_from_ranks,
    lowered,
    rows_of_all_ranks,
    set_learning_rate,
    step_engine,
    sum_over_ranks,
    world,
)
from syllabary.workers.training.history import Validation
from syllabary.workers.training.initial_weights import ENCODER_FILE, read_initial
from syllabary.workers.training.rank import RankSetup, run_rank
from syllabary.workers.training.watches.frames import held_out_frames
from syllabary.workers.training.watches.health import (
    daam_spread,
    ema_distance,
    gate_health,
    input_health,
    latent_health,
    per_dim,
    place_health,
)
from syllabary.workers.training.watches.training_warnings import Warned, Watched, warnings_of

COLLAPSED_STD, _MIN_STD = 0.01, 1e-3


@dataclass
class _Predictions:
    """What one rank predicted: sums over masked frames, predictions and targets clip by clip."""

    sums: Tensor = field(default_factory=lambda: torch.zeros(3, dtype=torch.float64))
    predicted: list[Tensor] = field(default_factory=list)
    wanted: list[Tensor] = field(default_factory=list)
    masked: list[Tensor] = field(default_factory=list)

    def add(self, predicted: Tensor, wanted: Tensor, masked: Tensor, num_frames: Tensor) -> None:
        """A batch's predictions and targets [batch, dim, frames], where ``masked`` [batch, frames]."""
        error = (predicted - wanted).square().mean(dim=1)[masked]
        cosine = F.cosine_similarity(predicted, wanted, dim=1)[masked]
        self.sums += torch.stack([error.sum(), cosine.sum(), masked.sum()]).double().cpu()
        for clip, count in enumerate(num_frames.tolist()):
            self.predicted.append(predicted[clip, :, :count].T.cpu())
            self.wanted.append(wanted[clip, :, :count].T.cpu())
            self.masked.append(masked[clip, :count].cpu())


@torch.no_grad()
def validate_jepa(
    jepa: Jepa, clips: list[tuple[Batch, Tensor]], device: torch.device, recipe: Recipe
) -> dict[str, float]:
    """Losses, collapse, and what of the target's latents is speech, joined over all ranks. Collective.

    Args:
        jepa: to judge; is left in evaluation mode.
        clips: this rank's held-out batches, each with the frames to predict [batch, frames].
        device: of the model.
        recipe: of the run.

    Raises:
        InputError: the clips are too short for any masked frame.
    """
    jepa.eval()
    predictions, latents, gates = _Predictions(), [], []
    for batch, mask in clips:
        batch, masked = batch.to(device), mask.to(device)
        encoded = jepa.target_encoder(batch.waveform, batch.num_samples)
        valid = valid_mask(encoded.num_frames, encoded.latents.shape[-1], device)
        latents.append(encoded.latents.transpose(1, 2)[valid].float().cpu())
        gates.append(encoded.gate[valid].cpu())
        predicted = _predict(jepa, batch, masked, encoded.num_frames)
        predictions.add(predicted, encoded.latents.float(), masked, encoded.num_frames)
    rows = rows_of_all_ranks(latents)
    return {
        **_losses(predictions, recipe.model.jepa.mask_ratio),
        "ema_distance": ema_distance(jepa),
        **latent_health(rows),
        **per_dim("latent_std", rows.std(dim=0, correction=0)),
        **_speech(jepa, [batch for batch, _ in clips], device, predictions, recipe),
        **gate_health(rows_of_all_ranks(gates)),
        **daam_spread(jepa.context_encoder),
    }


def _speech(
    jepa: Jepa, batches: list[Batch], device: torch.device, predictions: _Predictions, recipe: Recipe
) -> dict[str, float]:
    """What of the target's latents is speech and not the place in the clip, and how well that is predicted."""
    hop, min_clips = recipe.model.encoder.framing.hop_length, recipe.pretrain.watch.min_clips
    frames = held_out_frames(jepa.target_encoder, batches, device, hop, min_clips)
    health = place_health(frames, _digits(frames.latents, recipe), recipe.model.fsq.levels)
    return _relative(predictions, frames.latents, frames.groups) | health | input_health(frames)


def _predict(jepa: Jepa, batch: Batch, masked: Tensor, num_frames: Tensor) -> Tensor:
    """Predicted latents of all frames [batch, dim, frames]."""
    context = jepa.forward_context(batch.waveform, batch.num_samples, masked)
    valid = frame_mask(num_frames, context.shape[-1], context.device)
    return jepa.predictor(zero_invalid(context, valid), valid).float()


def _losses(predictions: _Predictions, mask_ratio: float) -> dict[str, float]:
    """Loss and cosine over masked frames, and how far the predictions vary. Collective."""
    error, cosine, count = sum(gather_from_ranks(predictions.sums)).tolist()  # type: ignore[union-attr]
    _require_masked_frames(count, mask_ratio)
    rows = [predicted[masked] for predicted, masked in zip(predictions.predicted, predictions.masked, strict=True)]
    spread = float(rows_of_all_ranks(rows).std(dim=0, correction=0).mean())
    return {
        "loss": error / count,
        "target_prediction_cosine": cosine / count,
        "prediction_std": spread,
        "collapsed": float(spread < COLLAPSED_STD),
    }


def _relative(predictions: _Predictions, latents: Tensor, groups: PlaceGroups) -> dict[str, float]:
    """The loss over the targets' variance between clips: of the predictions, and of those for another clip.

    ``relative_loss_other`` judges each clip's predictions by the next clip's targets at the same places: what a
    predictor gets that is given another clip's context. Where it equals ``relative_loss``, the context says nothing.
    Either is left out when it does not exist. Collective.
    """
    losses = {"relative_loss": predictions.sums[[0, 2]], "relative_loss_other": _other_clips(predictions)}
    relative: dict[str, float] = {}
    for name, sums in losses.items():
        error, count = sum(gather_from_ranks(sums)).tolist()  # type: ignore[union-attr]
        value = relative_loss(error / count, latents, groups) if count else None
        relative |= {} if value is None else {name: value}
    return relative


def _other_clips(predictions: _Predictions) -> Tensor:
    """Squared error of this rank's predictions as those of the next clip's targets, and the frames it sums over [2].

    The next one of all clips, whichever rank has it. Collective.
    """
    sums = torch.zeros(2, dtype=torch.float64)
    everyone, places = clips_of_all_ranks(predictions.wanted)
    if len(everyone) < 2:
        return sums
    for predicted, masked, place in zip(predictions.predicted, predictions.masked, places, strict=True):
        other = everyone[(place + 1) % len(everyone)]
        shared = min(len(predicted), len(other))
        error = (predicted[:shared] - other[:shared]).square().mean(dim=1)[masked[:shared]]
        sums += torch.stack([error.double().sum(), torch.tensor(len(error)).double()])
    return sums


def _digits(latents: Tensor, recipe: Recipe) -> Tensor:
    """The digits [rows, dim] that stage 2 would begin with: of standardized latents where it standardizes."""
    if recipe.codec.standardize_latents:
        latents = (latents - latents.mean(dim=0)) / latents.std(dim=0, correction=0).clamp(min=_MIN_STD)
    fsq = Fsq(recipe.model.fsq, latents.shape[1])
    return fsq(latents.T[None]).level_indices[0].T


def _require_masked_frames(count: float, mask_ratio: float) -> None:
    if not count:
        raise InputError(
            "frames to predict in the validation clips",
            value=0,
            expected=f"floor({mask_ratio:g} * frames) above 0 in some clip",
            fix="raise pretrain.crop_s or model.jepa.mask_ratio, or shard longer utterances",
        )


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
        self._jepa = accelerate(Jepa(encoder, self._jepa_config)).to(setup.device)
        initial = read_initial(setup.job.init)
        for part in (self._jepa.context_encoder, self._jepa.target_encoder):
            initial.put_into(part, initial.encoder)
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
            output = engine(batch.waveform, batch.num_samples, mask)
            # DeepSpeed divides by ranks and micro-batches; undone here, what is left is the share of masked frames.
            backward(engine, output.total * (count * world()[1] * len(batches) / total))
            norm = step_engine(engine)
            stats = torch.stack([output.loss.detach(), output.prediction_std, output.target_std])
            sums += stats.double() * (count / total)
        self._jepa.update_target()
        loss, prediction_std, target_std = sum_over_ranks(sums).tolist()
        stats_by_name = {"loss": loss, "prediction_std": prediction_std, "target_std": target_std}
        return stats_by_name | norm

    def validate(self) -> dict[str, float]:
        """See :class:`syllabary.workers.training.loop.Stage`.

        Raises InputError: the clips are too short for any masked frame.
        """
        clips = [(batch, self._masks(batch)) for batch in self._setup.validation]
        with lowered(self._config, self._setup.device):
            return validate_jepa(self._jepa, clips, self._setup.device, self._job.recipe)

    def warnings(self, validations: Sequence[Validation]) -> list[Warned]:
        """Collapse: predictions that hardly vary (PAPER section stage 1), and latents that carry no speech."""
        levels = self._job.recipe.model.fsq.levels
        watched = Watched(validations, self._config, "pretrain", "relative_loss", levels, learns_digits=True)
        spread = watched.last("prediction_std") or 0.0
        text = f"predictions vary by {spread:.2g}, below {COLLAPSED_STD:g}: the latents collapse"
        return ([Warned("collapsed", text)] if watched.last("collapsed") else []) + warnings_of(watched)

    def illustrate(self, step: int) -> None:
        """Nothing to hear yet: latents have no sound before stage 2."""

    def publish(self) -> Mapping[str, Any]:
        """The encoder that the configuration asks for, and the configuration."""
        is_target = self._config.export_encoder == "target"
        encoder = self._jepa.target_encoder if is_target else self._jepa.context_encoder
        state = {k: v.detach().cpu().contiguous() for k, v in encoder.state_dict().items()}
        run = Folder(self._job.run_uri)
        run.publish(ENCODER_FILE, to_safetensors(state))
        run.publish_json(CONFIG_FILE, self._job.recipe.model_dump(mode="json"))
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
