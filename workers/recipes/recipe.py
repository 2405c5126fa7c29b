"""A recipe: the whole configuration of a run, and what is laid over one. Free of torch."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from syllabary.model.config import ModelConfig
from syllabary.shards import store
from syllabary.shards.errors import ConfigError, first_fault
from syllabary.shards.ingest.config import IngestConfig
from syllabary.workers.recipes.training import CodecTrainConfig, PretrainConfig


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
