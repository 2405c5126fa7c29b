"""A recipe: the whole configuration of a run, and what is laid over one. Free of torch.

Its parts are the shards' (``shards/ingest/config.py``), the model's (``model/config.py``) and, here, how the two stages
are trained: steps, batches, optimizer, schedule, engine and health limits.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from syllabary.model.config import ModelConfig
from syllabary.shards import store
from syllabary.shards.errors import ConfigError, first_fault
from syllabary.shards.ingest.config import IngestConfig


class Config(BaseModel):
    """Base of the training configurations: frozen, unknown keys refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class OptimizerConfig(Config):
    """AdamW (PAPER section stage 1) with linear warm-up and optional cosine decay to ``final_lr_fraction``."""

    lr: float = Field(default=1.5e-4, gt=0)
    betas: tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]] = (0.8, 0.99)
    weight_decay: float = Field(default=1e-3, ge=0)
    warmup_steps: int = Field(default=0, ge=0)
    final_lr_fraction: float = Field(default=1.0, ge=0, le=1)
    clip_norm: float = Field(default=1.0, ge=0)


class AugmentConfig(Config):
    """Changes to a clip, seeded for each; the paper uses nothing of it, so all is off unless asked for.

    Attributes:
        gain_db: a gain drawn from [-gain_db, gain_db].
        noise_snr_db: white noise so far below the speech, in input and target alike.
        speed_percent: half of the clips are played faster or slower by up to so much, pitch with tempo.
        input_noise_share: share of the clips to which noise is added in the input only: what is to be restored stays
            clean. Half of it white, half low; its distance below the speech is drawn from ``input_noise_snr_db``.
    """

    gain_db: float = Field(default=0.0, ge=0)
    noise_snr_db: float | None = None
    speed_percent: float = Field(default=0.0, ge=0, le=30)
    input_noise_share: float = Field(default=0.0, ge=0, le=1)
    input_noise_snr_db: tuple[float, float] = (12.0, 40.0)


class WatchConfig(Config):
    """Below which figures of a validation a run warns; they change no result, only what is said of it.

    ``min_clips`` is how many held-out clips must have a frame at a place for that place to count. A relative loss is
    judged from ``late_fraction`` of the steps on, and in a long run from 500 steps past the warm-up on; a token gain
    from the first validation past the warm-up on; a loss that stands still, or digits that do, from ``late_fraction``.
    """

    min_clips: int = Field(default=4, ge=2)
    num_swapped_clips: int = Field(default=16, ge=1, description="held-out clips decoded from wrong tokens too")
    min_between_clips: float = Field(default=0.3, ge=0, le=1)
    min_entropy_given_place_bits: float = Field(default=0.5, ge=0)
    min_rank_fraction: float = Field(default=0.2, ge=0, le=1, description="of the dims, once the place is taken out")
    max_relative_loss: float = Field(default=0.95, gt=0)
    min_token_gain: float = Field(default=0.02, ge=0, le=1)
    late_fraction: float = Field(default=0.5, ge=0, le=1)


class TrainConfig(Config):
    """What both stages share.

    ``crop_s`` is the longest crop of an utterance (None: the encoder's window). ``corpus_in_memory`` "auto" keeps the
    speech in a GPU's memory when it takes at most half of what is free there. ``compile`` "auto" compiles large blocks
    on a GPU (see ``syllabary.workers.training.compiling``). ``precision`` other than fp32 is autocast: weights,
    optimizer state and EMA stay fp32 under every ZeRO stage. "auto" is bf16 where the processor multiplies in it, else
    fp32; a run keeps what it began with (see ``syllabary.workers.training.precision``).
    """

    seed: int = 0
    num_steps: int = Field(default=24_000, ge=1)
    micro_batch_size: int = Field(default=32, ge=1)
    grad_accum_steps: int = Field(default=1, ge=1)
    num_workers: int = Field(default=1, ge=1)
    threads_per_worker: int = Field(default=1, ge=1)
    device: Literal["cpu", "cuda", "auto"] = "auto"
    corpus_in_memory: Literal["auto", "never"] = "auto"
    compile: Literal["auto", "never"] = "auto"
    crop_s: float | None = Field(default=None, gt=0)
    augment: AugmentConfig = AugmentConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "fp32"
    zero_stage: int = Field(default=0, ge=0)
    checkpoint_every: int = Field(default=1000, ge=1)
    keep_checkpoints: int = Field(default=3, ge=1)
    validate_every: int = Field(default=500, ge=1)
    num_validation_utterances: int = Field(default=64, ge=1)
    log_every: int = Field(default=10, ge=1)
    max_quarantined_percent: float = Field(default=5.0, ge=0, le=100)
    watch: WatchConfig = WatchConfig()
    max_restarts: int = Field(default=3, ge=0)
    collective_timeout_s: int = Field(default=600, ge=1)

    @field_validator("zero_stage")
    @classmethod
    def _zero_keeps_whole_parameters(cls, value: int) -> int:
        if value > 2:
            raise ValueError(
                "ZeRO 3 splits the parameters, and the EMA target and the shared discriminators need them "
                "whole; use zero_stage 0, 1 or 2"
            )
        return value


class PretrainConfig(TrainConfig):
    """Stage 1: the JEPA encoder. ``export_encoder`` "context" is the one that the paper goes on with; the "target", its
    moving average, collapses more slowly in short runs."""

    export_encoder: Literal["context", "target"] = "context"


class RoutingPhase(Config):
    """Up to ``until`` of the steps, so many of a batch's clips are rounded and so many get noise; the rest stay as they
    are (see ``syllabary.model.codec.Routing``)."""

    until: float = Field(gt=0, le=1)
    rounded: float = Field(ge=0, le=1)
    noisy: float = Field(ge=0, le=1)


class BottleneckConfig(Config):
    """First phase of ``bottleneck_first``: encoder, FSQ and trunk learn log-mel spectra, for ``share`` of the steps.

    The last routing phase rounds every clip, so that what is learned is what is used.
    """

    share: float = Field(default=0.75, gt=0, lt=1)
    encoder_lr_fraction: float = Field(default=1.0, ge=0, description="0 leaves the encoder at rest")
    spread_weight: float = Field(default=0.3, ge=0)
    pitch_weight: float = Field(default=0.15, ge=0, description="of the cross entropy of the pitch")
    routing: tuple[RoutingPhase, ...] = (
        RoutingPhase(until=0.15, rounded=0.5, noisy=0.5),
        RoutingPhase(until=0.75, rounded=0.5, noisy=0.25),
        RoutingPhase(until=1.0, rounded=1.0, noisy=0.0),
    )

    @field_validator("routing")
    @classmethod
    def _ends_rounded(cls, value: tuple[RoutingPhase, ...]) -> tuple[RoutingPhase, ...]:
        untils = [phase.until for phase in value]
        if untils != sorted(untils) or not untils or untils[-1] != 1 or value[-1].rounded != 1:
            raise ValueError(
                "the phases of routing must follow one another up to 1.0, and the last round every clip, so that the "
                "decoder learns what it will be given"
            )
        return value


class VocoderConfig(Config):
    """Second phase of ``bottleneck_first``: the vocoder learns waveforms on crops, the rest being at rest.

    ``crops_per_clip`` crops of ``crop_s`` are taken from each clip: encoder and trunk have to hear all of it anyway.
    ``discriminate_every`` steps the discriminators learn, from ``discriminator_start_step`` of this phase on.
    ``trunk_lr_fraction`` above 0 lets the trunk learn from them too, at that fraction of the rate, and go on with its
    spectra and pitch: spectra alone teach it the mean of all that a token may stand for, which sounds muffled.
    """

    optimizer: OptimizerConfig = OptimizerConfig(
        lr=8e-4, betas=(0.8, 0.95), warmup_steps=50, final_lr_fraction=0.05, clip_norm=5.0
    )
    discriminator_lr: float = Field(default=3e-4, gt=0)
    crop_s: float = Field(default=0.64, gt=0)
    crops_per_clip: int = Field(default=2, ge=1)
    discriminator_start_step: int = Field(default=200, ge=0)
    discriminate_every: int = Field(default=2, ge=1)
    trunk_lr_fraction: float = Field(default=0.0, ge=0, description="0 leaves the trunk at rest")


class CodecTrainConfig(TrainConfig):
    """Stage 2: FSQ and decoder.

    Attributes:
        method: "joint" is the paper's: everything learns the waveform at once. "bottleneck_first" learns log-mel
            spectra through the tokens first, and the waveform from there; it needs a spectral decoder.
        train_encoder: "finetune" follows the paper's text, "frozen" its code; for "joint".
        standardize_latents: start from an encoder whose every dim has mean 0 and standard deviation 1 on training clips
            (see ``syllabary.workers.training.standardize``); the paper takes latents as they come.
        cache_latents: (frozen only) encode each utterance once, with one fixed crop, and keep its latents in memory.
        bottleneck, vocoder: the two phases of "bottleneck_first".
        average_decay: (bottleneck_first) of the moving average of the weights, which is what is exported.
        discriminator_start_step, discriminator_lr_fraction: for "joint".
    """

    num_steps: int = Field(default=29_000, ge=1)
    micro_batch_size: int = Field(default=8, ge=1)
    train_encoder: Literal["frozen", "finetune"] = "frozen"
    standardize_latents: bool = True
    cache_latents: bool = False
    method: Literal["joint", "bottleneck_first"] = "joint"
    bottleneck: BottleneckConfig = BottleneckConfig()
    vocoder: VocoderConfig = VocoderConfig()
    average_decay: float = Field(default=0.998, ge=0, lt=1)
    discriminator_start_step: int = Field(default=5_000, ge=0)
    discriminator_lr_fraction: float = Field(default=0.5, gt=0)
    num_samples_kept: int = Field(default=2, ge=0, description="validation utterances reconstructed at intervals")

    @property
    def bottleneck_steps(self) -> int:
        """Steps of the first phase of bottleneck_first: at least one, and one is left for the second."""
        return min(max(1, round(self.bottleneck.share * self.num_steps)), max(1, self.num_steps - 1))

    @model_validator(mode="after")
    def _frozen_is_said_to_the_method(self) -> Self:
        if self.method == "bottleneck_first" and self.train_encoder == "frozen":
            raise ValueError(
                "train_encoder frozen is for method joint; for bottleneck_first set train_encoder=finetune, and "
                "bottleneck.encoder_lr_fraction=0 to leave the encoder at rest"
            )
        return self

    @model_validator(mode="after")
    def _cache_needs_a_fixed_encoder(self) -> Self:
        if self.cache_latents and self.train_encoder != "frozen":
            raise ValueError(
                "cache_latents needs train_encoder frozen: a fine-tuned encoder's latents change; change one of them"
            )
        if self.cache_latents and self.augment != AugmentConfig():
            raise ValueError("cache_latents needs augment off: each epoch would need other latents; change one of them")
        return self


class Recipe(BaseModel):
    """The whole configuration of a run: one value for each verb to take its part from."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    name: str
    ingest: IngestConfig = IngestConfig()
    model: ModelConfig = ModelConfig()
    pretrain: PretrainConfig = PretrainConfig()
    codec: CodecTrainConfig = CodecTrainConfig()

    @model_validator(mode="after")
    def _has_a_trunk_to_train_first(self) -> Recipe:
        if self.codec.method == "bottleneck_first" and self.model.decoder.kind != "istft":
            raise ValueError(
                f"codec.method is bottleneck_first, and a decoder of kind {self.model.decoder.kind} has no trunk to "
                "train first; expected model.decoder.kind istft; use codec.method=joint, or recipe fast16k_small"
            )
        return self

    @model_validator(mode="after")
    def _trains_what_it_encodes_with(self) -> Recipe:
        crop_s, most_s = self.pretrain.crop_s, self.ingest.max_utterance_s
        longest_s = min(most_s, crop_s or most_s)
        untrained = self.model.encoder.untrained_dilations(longest_s)
        if untrained:
            name = "pretrain.crop_s" if longest_s == crop_s else "ingest.max_utterance_s"
            raise ValueError(
                f"{name} {longest_s:g} is shorter than model.encoder.window_s {self.model.encoder.window_s:g}: taps of "
                f"dilation {', '.join(map(str, untrained))} would be used without ever being trained; set both alike"
            )
        return self


def validate(values: Mapping[str, Any]) -> Recipe:
    """A recipe from its resolved dictionary. Raises ConfigError with one line for the first broken rule."""
    try:
        return Recipe.model_validate_json(json.dumps(values))
    except ValidationError as error:
        where, message, value = first_fault(error)
        raise ConfigError(
            f"{where or 'recipe'}: {message}",
            value=None if isinstance(value, dict) else value,
            fix="see `syllabary show " + str(values.get("name")) + "`",
        ) from error


def varied(recipe: Recipe, changes: Mapping[str, Any]) -> Recipe:
    """A recipe with some values changed, section by section. Raises ConfigError: there is no such key."""
    values = recipe.model_dump(mode="json")
    _merge(values, changes, path="")
    return Recipe.model_validate(values)


def overlaid(recipe: Recipe, *, config_uri: str | None = None, overrides: Iterable[str] = ()) -> Recipe:
    """A recipe with a YAML file and then ``a.b=c`` overrides laid over it.

    Raises:
        ConfigError: an unknown key, or a value that breaks a rule; the message names value, rule and fix.
    """
    values = recipe.model_dump(mode="json")
    if config_uri:
        _merge(values, _read_yaml(config_uri), path="")
    for override in overrides:
        _override(values, override)
    return validate(values)


def _read_yaml(uri: str) -> dict[str, Any]:
    try:
        values = yaml.safe_load(store.read_bytes(uri))
    except yaml.YAMLError as error:
        raise ConfigError(f"not YAML ({error})", value=uri) from error
    if not isinstance(values, dict):
        raise ConfigError("configuration file is not a mapping", value=uri, expected="sections and keys")
    return values


def _merge(base: dict[str, Any], extra: Mapping[str, Any], path: str) -> None:
    for key, value in extra.items():
        where = f"{path}{key}"
        if key not in base:
            raise ConfigError("unknown configuration key", value=where, expected=f"one of {', '.join(sorted(base))}")
        if (
            isinstance(value, dict)
            and isinstance(base[key], dict)
            and value.get("kind", base[key].get("kind")) == base[key].get("kind")
        ):
            _merge(base[key], value, where + ".")
        else:
            base[key] = value


def _override(values: dict[str, Any], override: str) -> None:
    path, equals, text = override.partition("=")
    if not equals or not path:
        raise ConfigError("override is not key=value", value=override, expected="--set a.b=c")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"override value is not YAML ({error})", value=override) from error
    tree: Any = value
    for part in reversed(path.split(".")):
        tree = {part: tree}
    _merge(values, tree, path="")
