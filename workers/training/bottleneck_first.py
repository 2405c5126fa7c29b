"""Stage 2 with its bottleneck first (beyond the paper): tokens learn log-mel spectra, then a vocoder learns waveforms.

Phase 1, ``codec.bottleneck``: encoder, FSQ routed by clip, trunk and mel head, no adversary. Phase 2,
``codec.vocoder``: the moving average of all that stays at rest, and the vocoder learns on short crops of its features,
with mel losses and discriminators; the trunk may learn on with it, the encoder, by which tokens are read, does not.
Each phase has its engine, warm-up and schedule; what is validated, heard and exported is the average.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

import torch
from safetensors.torch import save as to_safetensors
from torch import Tensor

from syllabary.model.averaging import Averaged
from syllabary.model.bottleneck import Bottleneck, bottleneck_mel, mel_l1, mel_loss_in_time, random_crops
from syllabary.model.codec import Codec, Routing
from syllabary.model.config import IstftDecoderConfig
from syllabary.model.cpu.accelerate import accelerate
from syllabary.model.discriminators import DiscriminatorOutput, Discriminators
from syllabary.model.losses import discriminator_loss, generator_losses, mean_score, spread_loss
from syllabary.model.spectral.istft import Generator, Vocoder
from syllabary.model.spectral.mel import mel_windows
from syllabary.model.spectral.pitch import pitch_loss
from syllabary.model.spectral.source import NUM_SOURCE_CHANNELS
from syllabary.shards.store import Folder
from syllabary.workers.training.codec import (
    CodecStage,
    Share,
    begin_codec,
    head_mel,
    heard_mel,
    heard_pitch,
    illustrate,
    publish_codec,
    shares_by,
    shares_of,
    validate_codec,
    validate_heads,
)
from syllabary.workers.training.data.clips import Batch
from syllabary.workers.training.driver import RankJob
from syllabary.workers.training.engine import (
    backward,
    build_engine,
    frozen,
    gradient_of,
    learning_rate,
    lowered,
    set_learning_rate,
    step_engine,
    sum_over_ranks,
)
from syllabary.workers.training.history import Validation
from syllabary.workers.training.initial_weights import HEAD_FILE
from syllabary.workers.training.rank import RankSetup, run_rank
from syllabary.workers.training.watches.training_warnings import JUDGED_BY_EAR, JUDGED_BY_RATE, Warned, codec_warnings


def train_codec_rank(job: RankJob) -> None:
    """Train the codec on one rank, by the method that the recipe names."""
    is_joint = job.recipe.codec.method == "joint"
    run_rank(job, job.recipe.codec, CodecStage if is_joint else PhasedCodecStage)


class PhasedCodecStage:
    """Bottleneck, vocoder and discriminators, each with its engine."""

    name, headline, unit = "train-codec", "mel", "L1 of log-mel spectra"

    def __init__(self, setup: RankSetup) -> None:
        self._setup, self._job = setup, setup.job
        self._config, self._model = setup.job.recipe.codec, setup.job.recipe.model
        decoder = self._model.decoder
        assert isinstance(decoder, IstftDecoderConfig)
        codec = accelerate(Codec(self._model)).to(setup.device)
        assert isinstance(codec.generator, Generator)
        initial = begin_codec(codec, setup)
        decay, bottleneck = self._config.average_decay, Bottleneck(codec, decoder).to(setup.device)
        initial.put_into(bottleneck.head, initial.head)
        self._bottleneck = Averaged(bottleneck, decay)
        self._vocoder: Averaged[Vocoder] = Averaged(codec.generator.vocoder, decay)
        self._discriminators = Discriminators(self._model.discriminator).to(setup.device)
        self._mel = bottleneck_mel(self._model).to(setup.device)
        self._mels = mel_windows(self._model.losses, self._model.encoder.sample_rate, setup.device)
        averages = self._bottleneck.average, self._vocoder.average
        # Validation hears what losses hear; samples have the formants that decoding will give them.
        self._averaged = _averaged_codec(codec, *averages, formant_gain=0.0)
        self._played = _averaged_codec(codec, *averages, formant_gain=decoder.formant_gain)
        self.engines: Mapping[str, Any] = self._build_engines()

    def _build_engines(self) -> dict[str, Any]:
        config, universal = self._config, self._setup.load_universal
        vocoder = config.model_copy(update={"optimizer": config.vocoder.optimizer})
        fraction = config.bottleneck.encoder_lr_fraction
        live, judges = self._bottleneck.live, self._discriminators
        if not fraction:
            live.encoder.requires_grad_(False)
        groups = [(live.encoder, fraction), (live.trunk, 1.0), (live.head, 1.0)]
        return {
            "bottleneck": build_engine(
                self._bottleneck, groups, config, config.optimizer.lr, load_universal=universal
            ),
            "vocoder": build_engine(
                self._vocoder, [(self._vocoder.live, 1.0)], vocoder, vocoder.optimizer.lr, load_universal=universal
            ),
            "discriminators": build_engine(
                judges, [(judges, 1.0)], vocoder, config.vocoder.discriminator_lr, load_universal=universal
            ),
        }  # fmt: skip

    def train_step(self, step: int, batches: list[Batch], lr: float, *, detailed: bool) -> dict[str, float]:
        """See :class:`syllabary.workers.training.loop.Stage`; each phase follows its own schedule, not ``lr``."""
        first, device = self._config.bottleneck_steps, self._setup.device
        sums: dict[str, Tensor] = {}
        whole = shares_of(batches, device)
        # Crops are equally long, whatever the clips they are taken from.
        cropped = shares_by([len(batch.slots) for batch in batches], device) if step > first else whole
        norms: dict[str, float] = {}
        for batch, of_clips, of_crops in zip(batches, whole, cropped, strict=True):
            if step <= first:
                terms, norms = self._bottleneck_step(step, batch.to(device), of_clips)
            else:
                terms, norms = self._vocoder_step(step - first, batch.to(device), of_clips, of_crops)
            for name, value in terms.items():
                sums[name] = sums.get(name, 0) + value
        self._follow(is_first_phase=step <= first)
        means = sum_over_ranks(torch.stack(list(sums.values()))).tolist()
        return dict(zip(sums, means, strict=True)) | norms

    def _follow(self, *, is_first_phase: bool) -> None:
        if is_first_phase:
            self._bottleneck.update()
            return
        self._vocoder.update()
        if self._trunk_learns:
            self._bottleneck.update("trunk", "head")

    @property
    def _trunk_learns(self) -> bool:
        """Whether the trunk learns on in the second phase."""
        return self._config.vocoder.trunk_lr_fraction > 0

    def _bottleneck_step(self, step: int, batch: Batch, share: Share) -> tuple[dict[str, Tensor], dict[str, float]]:
        """Add a micro-batch's gradient; returns its parts of the step's terms, and what is not summed."""
        engine, steps = self.engines["bottleneck"], self._config.bottleneck_steps
        engine.train()
        if not self._config.bottleneck.encoder_lr_fraction:
            self._bottleneck.live.encoder.eval()  # at rest: no dropout either
        rate = learning_rate(self._config.optimizer, step, steps)
        set_learning_rate(engine, rate)
        output = engine(batch.heard, batch.num_samples, self._routing(step / steps))
        spread = spread_loss(output.latents, output.num_frames)
        spectral, terms = self._spectral_losses(output.mel, output.pitch, batch)
        total = spectral + self._config.bottleneck.spread_weight * spread
        backward(engine, total * share.scale)
        stats = _parts({"total": total} | terms | {"spread": spread}, share)
        return stats, step_engine(engine) | {"bottleneck_learning_rate": rate}

    def _spectral_losses(self, mel: Tensor, scores: Tensor, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """What the mel head and the pitch layer have to learn, weighted, and the terms of it."""
        wanted, hop = self._mel(batch.waveform), self._mel.hop_length
        in_time = mel_loss_in_time(mel, wanted, batch.num_samples, hop)
        hertz = heard_pitch(self._bottleneck.live.trunk, batch)
        pitch = pitch_loss(scores, hertz, batch.num_samples, self._vocoder.live.samples_per_position)
        plain = mel_l1(mel.detach(), wanted, batch.num_samples, hop)
        total = in_time + self._config.bottleneck.pitch_weight * pitch
        return total, {"mel": plain, "mel_in_time": in_time, "pitch": pitch}

    def _routing(self, progress: float) -> Routing:
        phases = self._config.bottleneck.routing
        phase = next(phase for phase in phases if progress <= phase.until or phase is phases[-1])
        return Routing(phase.rounded, phase.noisy)

    def _vocoder_step(
        self, step: int, batch: Batch, of_clips: Share, of_crops: Share
    ) -> tuple[dict[str, Tensor], dict[str, float]]:
        """The same for the second phase; the trunk learns from whole clips, the rest from crops."""
        config = self._config.vocoder
        rates = self._set_vocoder_rates(step)
        engine, features = self.engines["vocoder"], self._features(batch)
        heard = features.detach().requires_grad_(self._trunk_learns)
        crops, target = self._crops(heard, batch)
        lengths = torch.full((len(target),), target.shape[1])
        engine.train()
        generated = engine(crops, None).float()
        stats: dict[str, Tensor] = {}
        judged, learns = None, False
        if step > config.discriminator_start_step:
            learns = step % config.discriminate_every == 0
            judged, stats = self._judge(generated, target, lengths, of_crops, learns)
        losses = generator_losses(generated, target, lengths, self._model.losses, judged=judged, mels=self._mels)
        backward(engine, losses.total * of_crops.scale)
        stats = _parts(stats | {f.name: getattr(losses, f.name) for f in fields(losses)}, of_crops)
        if self._trunk_learns:
            stats |= self._teach_trunk(features, gradient_of(heard, engine), batch, of_clips)
        return stats, rates | self._step_engines(learns)

    def _step_engines(self, learns: bool) -> dict[str, float]:
        """All from the same weights, so that a step is the same however its clips are divided."""
        norms = step_engine(self.engines["vocoder"])
        for name, steps in (("discriminators", learns), ("bottleneck", self._trunk_learns)):
            if steps:
                stepped = step_engine(self.engines[name])
                norms |= {f"{name.removesuffix('s')}_{key}": value for key, value in stepped.items()}
        return norms

    def _set_vocoder_rates(self, step: int) -> dict[str, float]:
        """Set the rates of vocoder (returned), trunk and discriminators: all follow the vocoder's schedule."""
        config, steps = self._config.vocoder, self._config.num_steps - self._config.bottleneck_steps
        rate = learning_rate(config.optimizer, step, steps)
        set_learning_rate(self.engines["vocoder"], rate)
        set_learning_rate(self.engines["discriminators"], rate / config.optimizer.lr * config.discriminator_lr)
        if self._trunk_learns:
            encoder = int(self._config.bottleneck.encoder_lr_fraction > 0)
            set_learning_rate(self.engines["bottleneck"], rate * config.trunk_lr_fraction, num_resting=encoder)
        return {"vocoder_learning_rate": rate}

    def _features(self, batch: Batch) -> Tensor:
        """The trunk's features and source of a batch: of the average at rest, or of the live trunk, which then learns.

        Tokens are the averaged encoder's either way.
        """
        rest, learns = self._bottleneck.average, self._trunk_learns
        trunk = self._bottleneck.live.trunk if learns else rest.trunk
        with torch.no_grad(), lowered(self._config, self._setup.device):
            encoded = rest.encoder(batch.heard, batch.num_samples)
            values, mask = rest.fsq(encoded.latents).values, _mask(encoded.num_frames, encoded.latents)
        with torch.set_grad_enabled(learns), lowered(self._config, self._setup.device):
            features = trunk(values, mask)
        with torch.set_grad_enabled(learns):
            return trunk.with_source(features, mask, heard_pitch(trunk, batch))

    def _teach_trunk(self, features: Tensor, gradient: Tensor, batch: Batch, share: Share) -> dict[str, Tensor]:
        """Add to the bottleneck's gradient what vocoder and judges want of the features, and what spectra and pitch do.

        ``gradient`` is that of the weighted losses of the waveform.
        """
        live = self._bottleneck.live
        plain = features[:, :-NUM_SOURCE_CHANNELS]
        with lowered(self._config, self._setup.device):
            mel, scores = live.head(plain), live.trunk.pitch(plain)
        spectral, terms = self._spectral_losses(mel.float(), scores.float(), batch)
        backward(self.engines["bottleneck"], (features * gradient).sum() + spectral * share.scale)
        return _parts({f"trunk_{name}": term for name, term in terms.items()}, share)

    def _crops(self, features: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """Crops of features and of the samples they stand for, several from each clip."""
        config = self._config.vocoder
        k = self._vocoder.live.samples_per_position
        length = max(1, round(config.crop_s * self._model.encoder.sample_rate / k))
        positions = -(-batch.num_samples // k)
        pairs = [random_crops(features, batch.waveform, positions, length, k) for _ in range(config.crops_per_clip)]
        return torch.cat([f for f, _ in pairs]), torch.cat([w for _, w in pairs])

    def _judge(
        self, generated: Tensor, target: Tensor, lengths: Tensor, share: Share, learns: bool
    ) -> tuple[tuple[DiscriminatorOutput, DiscriminatorOutput], dict[str, Tensor]]:
        """What the discriminators make of real and generated crops, and their gradient when it is their turn."""
        engine, judges = self.engines["discriminators"], self._discriminators
        stats: dict[str, Tensor] = {}
        if learns:
            engine.train()
            real, fake = engine(target, lengths), engine(generated.detach(), lengths)
            loss = discriminator_loss(real, fake)
            backward(engine, loss * share.scale)
            stats = {
                "discriminator_loss": loss.detach(),
                "discriminator_real": mean_score(real),
                "discriminator_generated": mean_score(fake),
            }
        with frozen(judges), lowered(self._config, self._setup.device):
            if not learns:
                real = judges(target, lengths)
            return (real, judges(generated, lengths)), stats

    def validate(self) -> dict[str, float]:
        """See :class:`syllabary.workers.training.loop.Stage`: figures of the average, by mel head until the vocoder
        learns."""
        device, batches, rest = self._setup.device, self._setup.validation, self._bottleneck.average
        speaks = float(self._vocoder.num_updates) > 0
        headline = heard_mel(self._averaged, self._mel) if speaks else head_mel(rest, self._mel)
        with lowered(self._config, device):
            heard = validate_codec(
                self._averaged, batches, device, self._model, headline, self._config.watch, is_heard=speaks
            )
            head = validate_heads(rest, self._mel, batches, device)
        return {"mel": head["mel_head"]} | heard | head

    def warnings(self, validations: Sequence[Validation]) -> list[Warned]:
        """Warn of a code that holds little, and of tokens that carry no speech or that the decoder ignores."""
        learns = self._config.bottleneck.encoder_lr_fraction > 0
        # The headline jumps where the vocoder takes over from the head, so learning is judged by the head's.
        warned = codec_warnings(self._job.recipe, validations, self.headline, loss="mel_head", learns=learns)
        unjudged = set(JUDGED_BY_EAR) if self._vocoder_is_new(validations[-1].step) else set()
        if self._config.bottleneck_steps <= self._config.optimizer.warmup_steps:
            unjudged |= set(JUDGED_BY_RATE)  # the head hardly learns: this run is the vocoder's
        return [warning for warning in warned if warning.name not in unjudged]

    def _vocoder_is_new(self, step: int) -> bool:
        """Whether the sound is still the vocoder's first attempts, by which tokens cannot be judged."""
        config = self._config
        return 0 < step - config.bottleneck_steps <= config.vocoder.optimizer.warmup_steps

    def illustrate(self, step: int) -> None:
        """Publish reconstructions of the first held-out clips, once the vocoder has begun."""
        if step > self._config.bottleneck_steps:
            illustrate(self._played, self._setup, step, self._config.num_samples_kept)

    def publish(self) -> Mapping[str, Any]:
        """Publish averaged encoder and generator, their configuration, and the mel head for further training."""
        head = {k: v.detach().cpu().contiguous() for k, v in self._bottleneck.average.head.state_dict().items()}
        Folder(self._job.run_uri).publish(HEAD_FILE, to_safetensors(head))
        return publish_codec(self._averaged, self._job)

    def marks(self) -> list[tuple[int, str]]:
        """Where the vocoder and the discriminators start."""
        first = self._config.bottleneck_steps
        return [(first, "vocoder"), (first + self._config.vocoder.discriminator_start_step, "discriminators")]


def _averaged_codec(codec: Codec, bottleneck: Bottleneck, vocoder: Vocoder, *, formant_gain: float) -> Codec:
    """A codec around averaged weights, which stay the very tensors that follow."""
    averaged: Codec = copy.deepcopy(codec).requires_grad_(False).eval()
    assert isinstance(averaged.generator, Generator)
    averaged.encoder = bottleneck.encoder
    averaged.generator.trunk, averaged.generator.vocoder = bottleneck.trunk, vocoder
    averaged.generator.formant_gain = formant_gain
    return averaged


def _mask(num_frames: Tensor, latents: Tensor) -> Tensor | None:
    from syllabary.model.layers import frame_mask

    return frame_mask(num_frames, latents.shape[-1], latents.device)


def _parts(terms: Mapping[str, Tensor], share: Share) -> dict[str, Tensor]:
    """What a micro-batch's means add to the step's."""
    return {name: term.detach().double() * share.weight for name, term in terms.items()}
