"""Configurations that no model can be built from are refused in one line, by whatever number is wrong in them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from syllabary.model.config import EncoderConfig, HifiganDecoderConfig
from syllabary.shards.errors import ConfigError
from syllabary.workers.operate.show import parameters_of
from syllabary.workers.recipes.named import RECIPES, resolve


def leaves(values: Mapping[str, Any], path: str = "model") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        yield from leaves(value, f"{path}.{key}") if isinstance(value, dict) else ((f"{path}.{key}", value),)


def changed(value: Any) -> list[Any]:
    if value is None or value == [] or isinstance(value, bool | str):
        return []
    if isinstance(value, list):
        return [[], *([first, *value[1:]] for first in changed(value[0]))]
    return [0, -1, value + 1]


@pytest.mark.parametrize("recipe", ["tiny_paper", "fast16k_small"])
def test_a_wrong_number_is_refused_in_one_line_or_makes_a_model(recipe: str) -> None:
    refused = 0
    for path, value in leaves(RECIPES[recipe]().model_dump(mode="json")["model"]):
        for other in changed(value):
            try:
                found = resolve(recipe, overrides=[f"{path}={json.dumps(other)}"])
            except ConfigError as error:
                assert "\n" not in str(error)
                refused += 1
            else:
                parameters_of(found.model)
    assert refused > 60


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("model.encoder.front_end.residual_kernel=4", "kernel 4 is even and has no centre; use 3 or 5"),
        ("model.decoder.mrf_kernels=[3, 8]", "kernel 8 is even"),
        ("model.jepa.predictor.hidden_dim=66", "predictor.hidden_dim 66 is not a multiple of its num_heads 4"),
        ("model.discriminator.channel_divisor=3", "channel_divisor is 3; expected a power of two"),
        ("model.discriminator={periods: [], num_scales: 0}", "expected one sub-discriminator"),
        ("pretrain.optimizer.betas=[0.8, 1.0]", "pretrain.optimizer.betas.1: Input should be less than 1"),
    ],
)
def test_the_message_names_the_value_and_the_rule(override: str, message: str) -> None:
    with pytest.raises(ConfigError) as refused:
        resolve("tiny_paper", overrides=[override])
    assert message in str(refused.value)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("model.encoder.front_end.n_fft=500", "encoder.front_end.n_fft 500 does not fit its hop 320; expected a mult"),
        ("model.decoder.n_fft=160", None),
        (
            "model.decoder.strides=[5, 4, 3, 160]",
            "decoder.strides multiply to 9600 and encoder.front_end.strides to 6400",
        ),
        ("model.decoder.strides=[5, 4, 2]", "decoder: channels, strides and num_blocks have 4, 3 and 4 entries"),
        (
            "model.encoder.front_end.channels=[96, 192]",
            "encoder.front_end: channels, strides and num_blocks have 2, 3 and",
        ),
        (
            "model.decoder={channels: [256], strides: [6400], num_blocks: [1], n_fft: 6400, attention_layers: []}",
            "decoder has one stage; expected two or more: a trunk and a vocoder",
        ),
        (
            "model.decoder.attention_layers=[0, 1]",
            "decoder.attention_layers has 2 entries; expected one per stage (4) or none",
        ),
        (
            "model.decoder.attention_layers=[2, 0, 0, 0]",
            "asks for 2 layers in a stage of 1 blocks; expected at most one per block",
        ),
        ("model.decoder.attention_heads=3", "decoder: 256 channels do not divide into 3 heads of an even size"),
        (
            "model.encoder.front_end.attention_heads=192",
            "front_end: 192 channels do not divide into 192 heads of an even",
        ),
        ("model.encoder.conformer.num_heads=128", "128 channels in 128 heads are of an odd size, and rotary positions"),
        ("model.jepa.predictor.num_heads=256", "predictor: 256 channels in 256 heads are of an odd size"),
        ("model.losses.mel_bands=[80]", "losses.mel_ffts has 5 entries and mel_bands 1; expected equally many"),
        ("model.discriminator={periods: [], spectral_ffts: []}", "no periods, no spectral_ffts and num_scales 0"),
        ("model.encoder.loudness_dbfs=-70", "loudness_dbfs: Input should be greater than or equal to -60"),
        ("codec.train_encoder=frozen", "bottleneck.encoder_lr_fraction=0 to leave the encoder at rest"),
        ("codec.bottleneck.routing=[{until: 1.0, rounded: 0.5, noisy: 0.0}]", "and the last round every clip"),
        ("codec.bottleneck.routing=[{until: 0.5, rounded: 1.0, noisy: 0.0}]", "must follow one another up to 1.0"),
    ],
)
def test_a_spectral_recipe_says_what_does_not_fit(override: str, message: str | None) -> None:
    if message is None:
        resolve("tiny", overrides=[override])
        return
    with pytest.raises(ConfigError) as refused:
        resolve("tiny", overrides=[override])
    assert message in str(refused.value) and "\n" not in str(refused.value)


def test_only_a_spectral_decoder_has_a_trunk_to_train_first() -> None:
    with pytest.raises(ConfigError, match=r"a decoder of kind hifigan has no trunk to train first; .*kind istft; use"):
        resolve("small", overrides=["codec.method=bottleneck_first", "codec.train_encoder=finetune"])
    resolve("fast16k", overrides=["codec.method=joint"])


def test_taps_that_training_never_reaches_are_not_encoded_with() -> None:
    """Residual block i has taps 3^i and 5^i away: at 3,000 positions a second, 5^6 is 5.2 s, 5^7 26 s."""
    encoder = EncoderConfig()
    assert encoder.untrained_dilations(15.0) == encoder.untrained_dilations(20.0) == ()
    assert 5**6 in encoder.untrained_dilations(5.2) and 5**7 not in encoder.untrained_dilations(5.2)
    assert 5**6 not in encoder.untrained_dilations(5.6)
    for override, name in (("pretrain.crop_s=4", "pretrain.crop_s 4"), ("ingest.max_utterance_s=5", "ingest.max")):
        with pytest.raises(ConfigError, match=rf"{name}.* without ever being trained; set both alike"):
            resolve("paper", overrides=[override])
    resolve("paper", overrides=["pretrain.crop_s=4", "model.encoder.window_s=4"])
    resolve("small", overrides=["pretrain.crop_s=4"])  # two residual blocks: no tap is further than 5 positions
    resolve("fast16k", overrides=["pretrain.crop_s=4"])


def test_six_listed_kernels_need_six_dilations() -> None:
    with pytest.raises(ValueError, match="mrf_kernels has 6 entries and mrf_dilations 3"):
        HifiganDecoderConfig(mrf_kernels=(3, 7, 11, 15, 23, 33))
