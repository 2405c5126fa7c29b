"""The arithmetic of ``syllabary plan``: from rates and a recipe to hours, bytes, tokens and cost. Free of torch.

Every figure is one line of :data:`FORMULAS`, and is computed by the function that carries it; nothing else is assumed.
Hours are wall-clock hours, rates are seconds of audio per second of ONE worker: a core for ``shard``, and a GPU, or a
core where there is none, for the others.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from syllabary.workers.recipes.bitrates import rates_of
from syllabary.workers.recipes.recipe import CodecTrainConfig, Recipe, TrainConfig

Stage = Literal["shard", "pretrain", "codec", "tokenize", "restore"]
STAGES: tuple[Stage, ...] = ("shard", "pretrain", "codec", "tokenize", "restore")

# Measured on uniform digits, the worst case (infra/benchmarks/results, archive size): tokens against the bits of their
# digits, and everything else in a row, both with the padding of last frames.
TOKEN_BYTES_RATIO, OTHER_BYTES_PER_S = 1.07, 4.55
_WEIGHT, _ADAM, _PER_S_OF_HOUR = 4, 8, 3600

FORMULAS = {
    "stored_h": "hours x stored_fraction",
    "shard_h": "hours / (rate_shard x cores)",
    "clip_s": "min(crop_s, window, max_utterance_s)",
    "training_audio_h": "steps x global_batch x clip_s / 3600",
    "pretrain_h": "training_audio_h / (rate_pretrain x workers x efficiency)",
    "codec_h": "(audio before discriminators or vocoder / rate_codec + audio after / rate_adversarial)"
    " / (workers x efficiency)",
    "tokenize_h": "stored_h / (rate_encode x workers)",
    "restore_h": "stored_h / (rate_decode x workers)",
    "tokens": "stored_h x 3600 x tokens_per_s",
    "shards_bytes": "stored_h x 3600 x flac_bytes_per_s",
    "archive_bytes": f"stored_h x 3600 x (payload_bits_per_s / 8 x {TOKEN_BYTES_RATIO} + {OTHER_BYTES_PER_S})",
    "checkpoints_bytes": "(keep_checkpoints + 1) x (4 x parameters, averaged ones too, + 8 x trained parameters),"
    " both stages",
    "core_hours": "shard_h x cores + (hours of the other stages x workers, without GPUs)",
    "gpu_hours": "hours of the other stages x workers, with GPUs",
    "cost": "core_hours x price_core_hour + gpu_hours x price_gpu_hour",
}


class Value(BaseModel):
    """Base of the plan's values: frozen, unknown keys refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Corpus(Value):
    """The corpus to be tokenized.

    ``stored_fraction`` of its ``hours`` is kept by the ingest; ``flac_bytes_per_s`` is of a second that is kept.
    """

    name: str
    hours: float = Field(gt=0)
    stored_fraction: float = Field(default=1.0, gt=0, le=1)
    flac_bytes_per_s: float = Field(default=16_850, gt=0)


class Machine(Value):
    """Where: ``cores`` and ``gpus`` in all, and what an hour of one costs. ``efficiency`` is that of training on all
    workers against one."""

    name: str
    cores: int = Field(ge=1)
    gpus: int = Field(default=0, ge=0)
    efficiency: float = Field(default=1.0, gt=0, le=1)
    price_core_hour: float = Field(default=0.0, ge=0)
    price_gpu_hour: float = Field(default=0.0, ge=0)

    @property
    def workers(self) -> int:
        """Of the stages that run the model."""
        return self.gpus or self.cores


class StageRates(Value):
    """Seconds of audio per second of one worker. ``adversarial`` is stage 2 once the discriminators train, too.

    Of a stage 2 by its bottleneck first, ``codec`` is the first phase and ``adversarial`` the second.
    """

    shard: float = Field(gt=0)
    pretrain: float = Field(gt=0)
    codec: float = Field(gt=0)
    adversarial: float = Field(gt=0)
    encode: float = Field(gt=0)
    decode: float = Field(gt=0)


class Sizes(Value):
    """Parameters of the recipe's parts, as ``syllabary show`` counts them; ``mel_head`` is only for training."""

    encoder: int = Field(ge=0)
    predictor: int = Field(ge=0)
    decoder: int = Field(ge=0)
    discriminators: int = Field(ge=0)
    mel_head: int = Field(default=0, ge=0)


class Prediction(Value):
    """The figures of a plan; the formula of each field is in :data:`FORMULAS`."""

    stored_h: float
    shard_h: float
    pretrain_h: float
    codec_h: float
    tokenize_h: float
    restore_h: float
    tokens: float
    shards_bytes: float
    archive_bytes: float
    checkpoints_bytes: float
    core_hours: float
    gpu_hours: float
    cost: float

    @property
    def total_h(self) -> float:
        """Hours of all stages, one after the other."""
        return self.shard_h + self.model_h

    @property
    def model_h(self) -> float:
        """Hours of the stages that run the model."""
        return self.pretrain_h + self.codec_h + self.tokenize_h + self.restore_h


def predict(corpus: Corpus, machine: Machine, rates: StageRates, recipe: Recipe, sizes: Sizes) -> Prediction:
    """Every figure of a plan."""
    stored_h = corpus.hours * corpus.stored_fraction
    stored_s, workers = stored_h * _PER_S_OF_HOUR, machine.workers
    trainers = workers * machine.efficiency
    tokens_per_s = rates_of(recipe.model).tokens_per_s
    hours = {
        "shard_h": corpus.hours / (rates.shard * machine.cores),
        "pretrain_h": training_audio_h(recipe, recipe.pretrain) / (rates.pretrain * trainers),
        "codec_h": _codec_worker_h(recipe, rates) / trainers,
        "tokenize_h": stored_h / (rates.encode * workers),
        "restore_h": stored_h / (rates.decode * workers),
    }
    model_h = sum(hours.values()) - hours["shard_h"]
    core_hours = hours["shard_h"] * machine.cores + (0.0 if machine.gpus else model_h * workers)
    gpu_hours = model_h * workers if machine.gpus else 0.0
    return Prediction(
        stored_h=stored_h,
        **hours,
        tokens=stored_s * tokens_per_s,
        shards_bytes=stored_s * corpus.flac_bytes_per_s,
        archive_bytes=stored_s * archive_bytes_per_s(recipe),
        checkpoints_bytes=checkpoint_bytes(recipe, sizes),
        core_hours=core_hours,
        gpu_hours=gpu_hours,
        cost=core_hours * machine.price_core_hour + gpu_hours * machine.price_gpu_hour,
    )


def clip_s(recipe: Recipe, train: TrainConfig) -> float:
    """The longest clip that a step of this training sees, in seconds."""
    window = recipe.model.framing.window_samples / recipe.model.encoder.sample_rate
    return min(window, recipe.ingest.max_utterance_s, train.crop_s or window)


def training_audio_h(recipe: Recipe, train: TrainConfig, steps: int | None = None) -> float:
    """Hours of audio that ``steps`` (default all) steps of a training see, at most."""
    batch = train.num_workers * train.micro_batch_size * train.grad_accum_steps
    return (train.num_steps if steps is None else steps) * batch * clip_s(recipe, train) / _PER_S_OF_HOUR


def archive_bytes_per_s(recipe: Recipe) -> float:
    """Bytes of the archive per second of audio, at most."""
    return rates_of(recipe.model).payload_bits_per_s / 8 * TOKEN_BYTES_RATIO + OTHER_BYTES_PER_S


def checkpoint_bytes(recipe: Recipe, sizes: Sizes) -> float:
    """Bytes of the checkpoints that both stages keep: the newest ones and the best."""
    jepa = sizes.encoder + sizes.predictor
    first = _WEIGHT * (jepa + sizes.encoder) + _ADAM * jepa
    second = _WEIGHT * _kept_of_codec(recipe.codec, sizes) + _ADAM * _trained_of_codec(recipe.codec, sizes)
    return (recipe.pretrain.keep_checkpoints + 1) * first + (recipe.codec.keep_checkpoints + 1) * second


def _codec_worker_h(recipe: Recipe, rates: StageRates) -> float:
    before = steps_before(recipe.codec)
    after = recipe.codec.num_steps - before
    return (
        training_audio_h(recipe, recipe.codec, before) / rates.codec
        + training_audio_h(recipe, recipe.codec, after) / rates.adversarial
    )


def steps_before(codec: CodecTrainConfig) -> int:
    """Steps of stage 2 before the discriminators start, or before the vocoder does."""
    if codec.method == "bottleneck_first":
        return codec.bottleneck_steps
    return min(codec.num_steps, codec.discriminator_start_step)


def _trained_of_codec(codec: CodecTrainConfig, sizes: Sizes) -> int:
    """Parameters that stage 2 trains."""
    if codec.method == "bottleneck_first":
        encoder = sizes.encoder if codec.bottleneck.encoder_lr_fraction else 0
        return encoder + sizes.mel_head + sizes.decoder + sizes.discriminators
    return sizes.decoder + sizes.discriminators + (sizes.encoder if codec.train_encoder == "finetune" else 0)


def _kept_of_codec(codec: CodecTrainConfig, sizes: Sizes) -> int:
    """Parameters in a checkpoint of stage 2: what is trained, and averages of all but the discriminators."""
    if codec.method == "bottleneck_first":
        return 2 * (sizes.encoder + sizes.mel_head + sizes.decoder) + sizes.discriminators
    return _trained_of_codec(codec, sizes)
