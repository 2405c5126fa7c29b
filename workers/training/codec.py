"""Stage 2 on one rank: the engines of generator and discriminators (PAPER section stage 2).

Both engines step from the same weights: a micro-batch first gives the discriminators their gradient (on detached
speech), then the generator its own through discriminators whose parameters are frozen, so that none of it leaks into
them; at the end of the step both move. With a frozen encoder the generator alone is in its engine: the encoder has no
gradient, no optimizer state, no place in checkpoints, and runs once a step, or once an utterance with cached latents:
in fp32 whatever the precision, so that the decoder learns from the digits that tokenizing will give.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from safetensors.torch import load as from_safetensors
from safetensors.torch import save as to_safetensors
from torch import Tensor

from syllabary.model.bottleneck import Bottleneck, bottleneck_mel, mel_l1
from syllabary.model.codec import Codec, Fsq, Routing
from syllabary.model.config import ModelConfig
from syllabary.model.cpu.accelerate import accelerate
from syllabary.model.discriminators import DiscriminatorOutput, Discriminators
from syllabary.model.losses import (
    GeneratorLosses,
    discriminator_loss,
    generator_losses,
    mean_score,
    mrstft_loss,
    waveform_loss,
)
from syllabary.model.measures.usage import level_usage
from syllabary.model.spectral.istft import Trunk
from syllabary.model.spectral.mel import LogMel, mel_windows
from syllabary.model.spectral.pitch import pitch_errors, track_pitch
from syllabary.shards import audio
from syllabary.shards.archive.packing import Packing
from syllabary.shards.errors import ConfigError
from syllabary.shards.store import Folder
from syllabary.workers.recipes.beginning import CONFIG_FILE
from syllabary.workers.recipes.recipe import WatchConfig
from syllabary.workers.training.curves import spectrograms
from syllabary.workers.training.data.clips import Batch
from syllabary.workers.training.driver import RankJob
from syllabary.workers.training.engine import (
    backward,
    build_engine,
    frozen,
    gather_from_ranks,
    lowered,
    rows_of_all_ranks,
    set_learning_rate,
    step_engine,
    sum_over_ranks,
    world,
)
from syllabary.workers.training.history import Validation
from syllabary.workers.training.initial_weights import (
    CODEC_FILE,
    ENCODER_FILE,
    NOTHING,
    InitialWeights,
    read_initial,
)
from syllabary.workers.training.rank import RankSetup
from syllabary.workers.training.standardize import standardize_latents
from syllabary.workers.training.watches.frames import held_out_frames
from syllabary.workers.training.watches.health import (
    input_health,
    latent_health,
    per_dim,
    place_health,
    token_perplexity,
)
from syllabary.workers.training.watches.token_gain import (
    RIGHT,
    Headline,
    Means,
    decode,
    digits_to_values,
    token_gain,
    tokens_to_try,
    try_tokens,
)
from syllabary.workers.training.watches.training_warnings import Warned, codec_warnings

SAMPLES = "samples"


@torch.no_grad()
def validate_codec(
    codec: Codec,
    batches: list[Batch],
    device: torch.device,
    config: ModelConfig,
    headline: Headline,
    watch: WatchConfig,
    *,
    is_heard: bool = True,
) -> dict[str, float]:
    """Measure losses, use of the code, and how much of it is speech, on the held-out clips of all ranks.

    The headline is measured with the right tokens and with wrong ones. Collective.

    Args:
        codec: to judge; is left in evaluation mode.
        batches: this rank's held-out clips.
        device: of the codec.
        config: of the model.
        headline: the loss to try wrong tokens by.
        watch: which places count, and how many clips are tried with wrong tokens.
        is_heard: whether the generator has learned anything yet that its sound could be judged by.
    """
    codec.eval()
    latents, digits = [], []
    for batch in batches:
        encoded = codec.encoder(batch.waveform.to(device), batch.num_samples)
        indices = codec.fsq(encoded.latents).level_indices.transpose(1, 2).cpu()
        for row, count in enumerate(encoded.num_frames.tolist()):
            digits.append(indices[row, :count])
            latents.append(encoded.latents[row, :, :count].T.float().cpu())
    frames = rows_of_all_ranks(latents)
    spread = latent_health(frames) | per_dim("latent_std", frames.std(dim=0, correction=0))
    kinds = tokens_to_try(digits, config.fsq.levels)
    heard = _losses(codec, batches, device, kinds[RIGHT], config) if is_heard else {}
    listened = token_gain(try_tokens(headline, codec.fsq, kinds, batches, device, watch.num_swapped_clips))
    use = _code_use(rows_of_all_ranks(digits), config)
    return heard | listened | use | spread | _speech(codec, batches, device, config, watch)


def _speech(
    codec: Codec, batches: list[Batch], device: torch.device, config: ModelConfig, watch: WatchConfig
) -> dict[str, float]:
    """How much of latents and digits is speech rather than the place in the clip. Collective."""
    hop = config.encoder.framing.hop_length
    frames = held_out_frames(codec.encoder, batches, device, hop, watch.min_clips)
    digits = Fsq(config.fsq, config.encoder.latent_dim)(frames.latents.T[None]).level_indices[0].T
    return place_health(frames, digits, config.fsq.levels) | input_health(frames)


def _losses(
    codec: Codec, batches: list[Batch], device: torch.device, digits: list[Tensor], config: ModelConfig
) -> dict[str, float]:
    """Losses of the decoded sound, over all held-out clips. Collective."""
    means, mel, first = Means(("mrstft", "waveform", "mel")), bottleneck_mel(config).to(device), 0
    for batch in batches:
        batch, chosen = batch.to(device), slice(first, first + len(batch.slots))
        spoken = decode(codec, digits_to_values(codec.fsq, digits[chosen], device), batch)
        means.add(
            (
                mrstft_loss(spoken, batch.waveform, batch.num_samples, config.losses),
                waveform_loss(spoken, batch.waveform, batch.num_samples),
                mel_l1(mel(spoken), mel(batch.waveform), batch.num_samples, mel.hop_length),
            ),
            batch,
        )
        first = chosen.stop
    return means.over_ranks()


def heard_mrstft(codec: Codec, config: ModelConfig) -> Headline:
    """The multi-resolution STFT loss of a codec's sound."""

    def loss(values: Tensor, batch: Batch) -> Tensor:
        return mrstft_loss(decode(codec, values, batch), batch.waveform, batch.num_samples, config.losses)

    return Headline("mrstft", loss)


def heard_mel(codec: Codec, mel: LogMel) -> Headline:
    """The L1 of log-mel spectra of a codec's sound."""

    def loss(values: Tensor, batch: Batch) -> Tensor:
        spoken = decode(codec, values, batch)
        return mel_l1(mel(spoken), mel(batch.waveform), batch.num_samples, mel.hop_length)

    return Headline("mel", loss)


def head_mel(bottleneck: Bottleneck, mel: LogMel) -> Headline:
    """The L1 of the log-mel spectra that the mel head gives."""

    def loss(values: Tensor, batch: Batch) -> Tensor:
        num_frames = -(-batch.num_samples // (batch.waveform.shape[-1] // values.shape[-1]))
        predicted = bottleneck.mel_of(values, num_frames)
        return mel_l1(predicted, mel(batch.waveform), batch.num_samples, mel.hop_length)

    return Headline("mel", loss)


def heard_pitch(trunk: Trunk, batch: Batch) -> Tensor:
    """The pitch in Hz of each position of the trunk, tracked in what the batch's clips sound like; 0 if unvoiced."""
    return track_pitch(batch.waveform, batch.num_samples, trunk.sample_rate, trunk.samples_per_position)


@torch.no_grad()
def validate_heads(bottleneck: Bottleneck, mel: LogMel, batches: list[Batch], device: torch.device) -> dict[str, float]:
    """Measure what the heads predict from tokens of the held-out clips. Collective.

    ``mel_head``: L1 of the spectra. ``voicing_wrong``: share of positions that are voiced in one and not in the other.
    ``pitch_wrong``: share, of those voiced in both, that are more than a semitone off.
    """
    sums = torch.zeros(6, dtype=torch.float64)
    for batch in batches:
        batch = batch.to(device)
        output = bottleneck(batch.waveform, batch.num_samples, Routing())
        apart = mel_l1(output.mel, mel(batch.waveform), batch.num_samples, mel.hop_length)
        count = float(batch.num_samples.sum())
        trunk = bottleneck.trunk
        wrong = pitch_errors(output.pitch, heard_pitch(trunk, batch), batch.num_samples, trunk.samples_per_position)
        sums += torch.tensor([count * float(apart), count, *map(float, wrong)], dtype=torch.float64)
    apart_sum, total, *wrong_sums = sum(gather_from_ranks(sums)).tolist()  # type: ignore[union-attr]
    voicing, positions, pitch, voiced = wrong_sums
    return {
        "mel_head": apart_sum / total,
        "voicing_wrong": voicing / positions,
        "pitch_wrong": pitch / max(1.0, voiced),
    }


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
        folder = Folder(setup.job.run_uri) / SAMPLES / f"clip-{number}"
        waveform = torch.from_numpy(clip)[None].to(setup.device)
        rebuilt = codec(waveform, torch.tensor([len(clip)])).waveform[0, : len(clip)].float().cpu().numpy()
        titles = [(f"original (utterance {slot_id})", clip), (f"reconstructed at step {step:,}", rebuilt)]
        folder.publish("original.flac", audio.encode_flac(clip, rate))
        folder.publish(f"step-{step:08d}.flac", audio.encode_flac(rebuilt, rate))
        folder.publish(f"step-{step:08d}.png", spectrograms(titles, rate))


def _first_clips(batches: list[Batch], count: int) -> list[tuple[np.ndarray, int]]:
    clips = [
        (waveform[:n].numpy(), slot.utterance)
        for batch in batches
        for waveform, n, slot in zip(batch.waveform, batch.num_samples.tolist(), batch.slots, strict=True)
    ]
    return clips[:count]


@dataclass(frozen=True)
class Share:
    """A micro-batch's part of the step: ``weight`` times its mean is its part of the mean over all ranks.

    ``scale`` is the weight as DeepSpeed needs it, which divides by ranks and micro-batches.
    """

    weight: float
    scale: float


def shares_of(batches: list[Batch], device: torch.device) -> list[Share]:
    """Weights of a step's micro-batches by valid samples, over all ranks. Collective."""
    return shares_by([float(batch.num_samples.sum()) for batch in batches], device)


def shares_by(counts: Sequence[float], device: torch.device) -> list[Share]:
    """Weights of a step's micro-batches by what is counted of each, over all ranks. Collective."""
    total = float(sum_over_ranks(torch.tensor([sum(counts)], dtype=torch.float64, device=device))[0])
    spread = world()[1] * len(counts)
    return [Share(count / total, count / total * spread) for count in counts]


class CodecStage:
    """The codec, its discriminators and their engines."""

    name, headline, unit = "train-codec", "mrstft", "multi-resolution STFT loss"

    def __init__(self, setup: RankSetup) -> None:
        self._setup, self._job = setup, setup.job
        self._config, self._model = setup.job.recipe.codec, setup.job.recipe.model
        self._codec = accelerate(Codec(self._model)).to(setup.device)
        begin_codec(self._codec, setup)
        self._is_frozen = self._config.train_encoder == "frozen"
        if self._is_frozen:
            self._codec.freeze_encoder()
        self._discriminators = Discriminators(self._model.discriminator).to(setup.device)
        self._mels = mel_windows(self._model.losses, self._model.encoder.sample_rate, setup.device)
        self._latents: dict[int, Tensor] = {}
        self.engines: Mapping[str, Any] = self._build_engines()

    def _build_engines(self) -> dict[str, Any]:
        trained = self._codec.generator if self._is_frozen else self._codec
        lr, universal = self._config.optimizer.lr, self._setup.load_universal
        judged_lr = lr * self._config.discriminator_lr_fraction
        judges = self._discriminators
        return {
            "generator": build_engine(trained, [(trained, 1.0)], self._config, lr, load_universal=universal),
            "discriminators": build_engine(judges, [(judges, 1.0)], self._config, judged_lr, load_universal=universal),
        }  # fmt: skip

    def train_step(self, step: int, batches: list[Batch], lr: float, *, detailed: bool) -> dict[str, float]:
        """See :class:`syllabary.workers.training.loop.Stage`."""
        adversarial = step > self._config.discriminator_start_step
        self._prepare(lr)
        sums: dict[str, Tensor] = {}
        norms: dict[str, float] = {}
        for batch, share in zip(batches, shares_of(batches, self._setup.device), strict=True):
            terms = self._micro_step(batch.to(self._setup.device), share, adversarial)
            for name, value in terms.items():
                sums[name] = sums.get(name, 0) + value.double() * share.weight
            norms = self._step_engines(adversarial)
        means = sum_over_ranks(torch.stack(list(sums.values()))).tolist()
        return dict(zip(sums, means, strict=True)) | norms

    def _step_engines(self, adversarial: bool) -> dict[str, float]:
        norms = step_engine(self.engines["generator"])
        if adversarial:
            judged = step_engine(self.engines["discriminators"])
            norms |= {f"discriminator_{name}": value for name, value in judged.items()}
        return norms

    def _prepare(self, lr: float) -> None:
        self._codec.train()
        self._discriminators.train()
        set_learning_rate(self.engines["generator"], lr)
        set_learning_rate(self.engines["discriminators"], lr * self._config.discriminator_lr_fraction)

    def _micro_step(self, batch: Batch, share: Share, adversarial: bool) -> dict[str, Tensor]:
        generated = self._generate(batch)
        stats: dict[str, Tensor] = {}
        judged = None
        if adversarial:
            real, stats = self._judge(batch, generated.detach(), share)
            judges = self._discriminators
            with frozen(judges), lowered(self._config, self._setup.device):
                judged = (real, judges(generated, batch.num_samples))
        losses = generator_losses(
            generated, batch.waveform, batch.num_samples, self._model.losses, judged=judged, mels=self._mels
        )
        backward(self.engines["generator"], losses.total * share.scale)
        return stats | _named(losses)

    def _generate(self, batch: Batch) -> Tensor:
        """Reconstructed speech, as long as the batch [batch, samples]."""
        engine, length = self.engines["generator"], batch.waveform.shape[-1]
        if not self._is_frozen:
            generated: Tensor = engine(batch.heard, batch.num_samples).waveform
        else:
            values = self._codec.fsq(self._encode(batch)).values
            generated = engine(values, batch.num_samples)
        return generated[:, :length].float()

    @torch.no_grad()
    def _encode(self, batch: Batch) -> Tensor:
        """Latents of the frozen encoder [batch, dim, frames], kept for the next epoch when they are cached."""
        if not self._config.cache_latents:
            return self._codec.encoder(batch.heard, batch.num_samples).latents
        rows = [self._cached(batch, i) for i in range(len(batch.slots))]
        frames = max(row.shape[-1] for row in rows)
        return torch.stack([torch.nn.functional.pad(row, (0, frames - row.shape[-1])) for row in rows])

    def _cached(self, batch: Batch, i: int) -> Tensor:
        # Each clip is encoded alone, so that its latents are the same bits whatever batch it is first met in.
        utterance = batch.slots[i].utterance
        if utterance not in self._latents:
            n = batch.num_samples[i : i + 1]
            self._latents[utterance] = self._codec.encoder(batch.waveform[i : i + 1, : int(n)], n).latents[0]
        return self._latents[utterance]

    def _judge(self, batch: Batch, generated: Tensor, share: Share) -> tuple[DiscriminatorOutput, dict[str, Tensor]]:
        """The discriminators' own gradient; returns what they make of real speech, and their statistics."""
        engine = self.engines["discriminators"]
        real, fake = engine(batch.waveform, batch.num_samples), engine(generated, batch.num_samples)
        loss = discriminator_loss(real, fake)
        backward(engine, loss * share.scale)
        return real, {
            "discriminator_loss": loss.detach(),
            "discriminator_real": mean_score(real),
            "discriminator_generated": mean_score(fake),
        }

    def validate(self) -> dict[str, float]:
        """See :class:`syllabary.workers.training.loop.Stage`."""
        setup, headline = self._setup, heard_mrstft(self._codec, self._model)
        # With a frozen encoder all is judged in fp32: its digits are fp32's in training too, and what is heard of them
        # is what restoring gives. An encoder that learns is judged as it is computed.
        with contextlib.nullcontext() if self._is_frozen else lowered(self._config, setup.device):
            return validate_codec(
                self._codec, setup.validation, setup.device, self._model, headline, self._config.watch
            )

    def warnings(self, validations: Sequence[Validation]) -> list[Warned]:
        """Warn of a code that holds little, and of tokens that carry no speech or that the decoder ignores."""
        name, learns = self.headline, not self._is_frozen
        return codec_warnings(self._job.recipe, validations, name, loss=name, learns=learns)

    def illustrate(self, step: int) -> None:
        """Publish reconstructions of the first held-out clips: FLAC and spectrograms."""
        illustrate(self._codec, self._setup, step, self._config.num_samples_kept)

    def publish(self) -> Mapping[str, Any]:
        """Publish encoder and generator, and the configuration they were trained by."""
        return publish_codec(self._codec, self._job)

    def marks(self) -> list[tuple[int, str]]:
        """Where the discriminators start."""
        return [(self._config.discriminator_start_step, "discriminators start")]


def publish_codec(codec: Codec, job: RankJob) -> Mapping[str, Any]:
    """Store the codec's weights and the recipe in the run's folder; returns their entries for done.json."""
    state = {k: v.detach().cpu().contiguous() for k, v in codec.state_dict().items()}
    run = Folder(job.run_uri)
    run.publish(CODEC_FILE, to_safetensors(state))
    run.publish_json(CONFIG_FILE, job.recipe.model_dump(mode="json"))
    return {"num_parameters": sum(v.numel() for v in state.values())}


def begin_codec(codec: Codec, setup: RankSetup) -> InitialWeights:
    """Give the codec the weights that the job begins with, latents standardized unless a decoder knows them already.

    Raises:
        ConfigError, InputError: see :func:`load_encoder`, ``read_initial`` and ``standardize_latents``.
    """
    initial = read_initial(setup.job.init)
    initial.put_into(codec.encoder, initial.encoder)
    initial.put_into(codec.generator, initial.generator)
    load_encoder(codec, setup.job.encoder_uri)
    if setup.job.recipe.codec.standardize_latents and not initial.generator:
        standardize_latents(codec.encoder, setup)
    return initial


def load_encoder(codec: Codec, encoder_uri: str) -> None:
    """Put the stage-1 run's encoder into the codec; "none" leaves it as it is.

    Raises:
        ConfigError: its weights do not fit the recipe's encoder.
    """
    if encoder_uri == NOTHING:
        return
    state = from_safetensors(Folder(encoder_uri).read(ENCODER_FILE))
    expected = codec.encoder.state_dict()
    wrong = sorted(k for k in {*state, *expected}
                   if k not in state or k not in expected or state[k].shape != expected[k].shape)  # fmt: skip
    if wrong:
        raise ConfigError(
            f"the encoder at {encoder_uri} does not fit this recipe: {len(wrong)} weights differ, the first",
            value=wrong[0],
            fix="use the recipe it was trained with",
        )
    codec.encoder.load_state_dict(state)


def _named(losses: GeneratorLosses) -> dict[str, Tensor]:
    return {f.name: getattr(losses, f.name).detach() for f in fields(losses)}
