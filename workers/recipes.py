"""Recipes: named functions that return a whole configuration, and the overrides on top of them. Free of torch."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from model.config import (
    ConformerConfig,
    DiscriminatorConfig,
    EncoderConfig,
    HifiganDecoderConfig,
    JepaConfig,
    ModelConfig,
    PredictorConfig,
    WaveformFrontEndConfig,
)
from shards import store
from shards.errors import ConfigError, explain
from shards.ingest_config import IngestConfig
from shards.outputs import digest
from workers.training_config import CodecTrainConfig, OptimizerConfig, PretrainConfig


class Recipe(BaseModel):
    """The whole configuration of a run: one value for each verb to take its part from."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    name: str
    ingest: IngestConfig = IngestConfig()
    model: ModelConfig = ModelConfig()
    pretrain: PretrainConfig = PretrainConfig()
    codec: CodecTrainConfig = CodecTrainConfig()


def paper() -> Recipe:
    """The paper's tokenizer at 24 kHz: 2.5 frames/s, 47.5 tokens/s, 640 bit/s; 191 M parameters at inference."""
    return Recipe(name="paper")


def tiny() -> Recipe:
    """The paper's architecture made small enough to train in minutes on two cores: 16 kHz, 2.5 frames/s."""
    encoder = EncoderConfig(
        sample_rate=16_000,
        window_s=4.8,
        front_end=WaveformFrontEndConfig(
            channels=(8, 16, 32, 48, 64, 64), strides=(8, 8, 5, 5, 4), num_residual_blocks=2
        ),
        conformer=ConformerConfig(num_layers=2, num_heads=4, conv_kernel=7),
    )
    decoder = HifiganDecoderConfig(
        channels=(64, 48, 32, 32, 16, 8), strides=(4, 5, 5, 8, 8), mrf_kernels=(3, 7), mrf_dilations=((1, 3), (1, 3))
    )
    predictor = PredictorConfig(hidden_dim=64, num_heads=4, conv_kernel=7)
    model = ModelConfig(
        encoder=encoder,
        decoder=decoder,
        jepa=JepaConfig(predictor=predictor),
        discriminator=DiscriminatorConfig(periods=(2, 5), num_scales=1, channel_divisor=16),
    )
    return Recipe(
        name="tiny",
        model=model,
        ingest=IngestConfig(
            max_utterance_s=4.8, max_sample_rate=16_000, shard_size_mb=4, valid_percent=10, test_percent=10
        ),
        pretrain=_tiny_pretrain(),
        codec=_tiny_codec(),
    )


def _tiny_pretrain() -> PretrainConfig:
    return PretrainConfig(
        num_steps=120,
        num_workers=2,
        micro_batch_size=4,
        optimizer=OptimizerConfig(lr=1e-3, warmup_steps=20, final_lr_fraction=0.1),
        checkpoint_every=40,
        validate_every=40,
        num_validation_utterances=32,
        log_every=5,
    )


def _tiny_codec() -> CodecTrainConfig:
    return CodecTrainConfig(
        num_steps=240,
        num_workers=2,
        micro_batch_size=4,
        crop_s=1.6,
        optimizer=OptimizerConfig(lr=2e-3, warmup_steps=20, final_lr_fraction=0.1),
        discriminator_start_step=160,
        checkpoint_every=40,
        validate_every=80,
        num_validation_utterances=32,
        log_every=5,
    )


RECIPES: Mapping[str, Callable[[], Recipe]] = {f.__name__: f for f in (paper, tiny)}


def resolve(name: str, *, config_uri: str | None = None, overrides: Iterable[str] = ()) -> Recipe:
    """A recipe with a YAML file and then ``a.b=c`` overrides laid over it.

    Raises:
        ConfigError: unknown recipe, unknown key, or a value that breaks a rule; the message names value, rule and fix.
    """
    if name not in RECIPES:
        raise ConfigError(
            explain(
                "unknown recipe",
                value=name,
                expected=f"one of {', '.join(sorted(RECIPES))}",
                fix="see `syllabary recipes`",
            )
        )
    values = RECIPES[name]().model_dump(mode="json")
    if config_uri:
        _merge(values, _read_yaml(config_uri), path="")
    for override in overrides:
        _override(values, override)
    return validate(values)


def validate(values: Mapping[str, Any]) -> Recipe:
    """A recipe from its resolved dictionary. Raises ConfigError with one line for the first broken rule."""
    try:
        return Recipe.model_validate_json(json.dumps(values))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        message = first["msg"].removeprefix("Value error, ")
        shown = None if isinstance(first["input"], dict) else first["input"]
        raise ConfigError(
            explain(
                f"{where or 'recipe'}: {message}",
                value=shown,
                fix="see `syllabary show " + str(values.get("name")) + "`",
            )
        ) from error


@cache
def digest_of(recipe: Recipe, *sections: str) -> str:
    """sha256 (hex) of the named sections of a recipe (all when none is named)."""
    values = recipe.model_dump(mode="json")
    return digest({key: values[key] for key in sections} if sections else values)


def _read_yaml(uri: str) -> dict[str, Any]:
    try:
        values = yaml.safe_load(store.read_bytes(uri))
    except yaml.YAMLError as error:
        raise ConfigError(explain(f"not YAML ({error})", value=uri)) from error
    if not isinstance(values, dict):
        raise ConfigError(explain("configuration file is not a mapping", value=uri, expected="sections and keys"))
    return values


def _merge(base: dict[str, Any], extra: Mapping[str, Any], path: str) -> None:
    for key, value in extra.items():
        where = f"{path}{key}"
        if key not in base:
            raise ConfigError(
                explain("unknown configuration key", value=where, expected=f"one of {', '.join(sorted(base))}")
            )
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
        raise ConfigError(explain("override is not key=value", value=override, expected="--set a.b=c"))
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(explain(f"override value is not YAML ({error})", value=override)) from error
    tree: Any = value
    for part in reversed(path.split(".")):
        tree = {part: tree}
    _merge(values, tree, path="")
