"""A tokenizer directory: ``config.json``, ``encoder.safetensors``, ``decoder.safetensors``, ``README.md``.

The *encoder digest* is the sha256 of the encoder's and FSQ's configuration and every encoder tensor (name, type,
shape, bytes): it fixes the tokens. The *decoder digest* is that of the decoder's: it fixes the sound only. Both stand
in ``config.json``, which is written last, so that its presence says the directory is whole.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import safetensors.torch
import torch
from pydantic import ValidationError
from torch import Tensor

from syllabary.model.codec import make_generator
from syllabary.model.config import ModelConfig
from syllabary.model.encoder import Encoder
from syllabary.shards import store
from syllabary.shards.errors import (
    ConflictError,
    DamageError,
    FormatError,
    InputError,
    first_fault,
    require_version,
)
from syllabary.shards.outputs import digest, pretty_json, read_json
from syllabary.workers.recipes.bitrates import rates_of

_CARD = """# Syllabary tokenizer: {name}

Speech to tokens and back. Load it with `Tokenizer.load("<this directory>")`
(module `syllabary.workers.tokenizer.tokenizer`).

| | |
| --- | --- |
| sample rate | {sample_rate:,} Hz mono |
| hop length | {hop_length:,} samples |
| frames | {frame_rate:g} a second |
| tokens | {num_groups} a frame, {tokens_per_s:g} a second, vocabulary {vocabulary:,} |
| bit rate | {payload:g} bit/s payload, {nominal:g} nominal, {stored:g} as uint16 |
| levels, group size, digit order | {levels}, {group_size}, {digit_order} |
| longest clip encoded whole | {window_s:g} s |
| precision of the encoder | {precision} |
| encoder digest (fixes the tokens) | `{encoder_digest}` |
| decoder digest (fixes the sound) | `{decoder_digest}` |

Tokens of one utterance do not depend on its batch, on padding or on the number of threads or workers. They are
promised bit for bit on one kind of processor; on another, a frame whose margin is near zero may differ.

`config.json` holds the resolved recipe. How well the tokenizer keeps speech intelligible depends on its training:
measure it on speech of your own before relying on it.
"""


def model_card(config: ModelConfig, name: str, encoder_digest: str, decoder_digest: str) -> str:
    """Markdown that says what the tokenizer is, without anything that changes from run to run."""
    rates = rates_of(config)
    return _CARD.format(
        name=name,
        sample_rate=config.encoder.sample_rate,
        hop_length=config.framing.hop_length,
        frame_rate=float(config.framing.frame_rate),
        num_groups=rates.num_groups,
        tokens_per_s=rates.tokens_per_s,
        vocabulary=rates.vocabulary,
        payload=rates.payload_bits_per_s,
        nominal=rates.nominal_bits_per_s,
        stored=rates.stored_bits_per_s,
        levels=config.fsq.levels,
        group_size=config.fsq.group_size,
        digit_order=config.fsq.digit_order,
        window_s=config.framing.window_samples / config.encoder.sample_rate,
        precision=config.encoder.precision,
        encoder_digest=encoder_digest,
        decoder_digest=decoder_digest,
    )


FORMAT_VERSION = 1
CONFIG, ENCODER, DECODER, CARD = "config.json", "encoder.safetensors", "decoder.safetensors", "README.md"

State = Mapping[str, Tensor]


@dataclass(frozen=True)
class Digests:
    """``encoder`` fixes the tokens, ``decoder`` only the sound; both sha256 in hex."""

    encoder: str
    decoder: str


@dataclass(frozen=True)
class TokenizerFiles:
    """A tokenizer directory, read and checked; ``decoder_state`` is None when only the encoder was asked for.

    A Tokenizer made from it empties both states: it holds the weights in another form.
    """

    config: ModelConfig
    recipe: dict[str, Any]
    digests: Digests
    encoder_state: dict[str, Tensor]
    decoder_state: dict[str, Tensor] | None


def save_tokenizer(
    uri: str, config: ModelConfig, encoder_state: State, decoder_state: State, *, recipe: Mapping[str, Any]
) -> Digests:
    """Write a tokenizer directory and return its digests. The same tokenizer again is a no-op with the same bytes.

    Args:
        uri: the directory.
        config: the model that the states fit.
        encoder_state: of ``syllabary.model.encoder.Encoder``, keys without prefix.
        decoder_state: of the generator, keys without prefix.
        recipe: the resolved recipe that made it, stored as it is.

    Raises:
        InputError: a state does not fit the configuration or holds values that are not finite.
        ConflictError: another tokenizer is already there.
    """
    encoder, decoder = _canonical("encoder", encoder_state), _canonical("decoder", decoder_state)
    _require_fit("encoder", encoder, _encoder_shapes(config), InputError)
    _require_fit("decoder", decoder, _decoder_shapes(config), InputError)
    digests = Digests(encoder_digest(config, encoder), decoder_digest(config, decoder))
    _require_vacant(uri, digests)
    store.publish_bytes(store.join(uri, ENCODER), safetensors.torch.save(encoder))
    store.publish_bytes(store.join(uri, DECODER), safetensors.torch.save(decoder))
    card = model_card(config, str(recipe.get("name")), digests.encoder, digests.decoder)
    store.publish_bytes(store.join(uri, CARD), card.encode())
    description = {
        "kind": "tokenizer",
        "format_version": FORMAT_VERSION,
        "encoder_digest": digests.encoder,
        "decoder_digest": digests.decoder,
        "model": config.model_dump(mode="json"),
        "recipe": dict(recipe),
    }
    store.publish_bytes(store.join(uri, CONFIG), pretty_json(description))
    return digests


def load_tokenizer(uri: str, *, decoder: bool = True) -> TokenizerFiles:
    """Read a tokenizer directory and check every name, shape, type and digest in it.

    Raises:
        NotFoundError: no tokenizer there.
        FormatError, VersionError: something else is there.
        DamageError: the files do not fit one another any more.
    """
    description = _read_description(uri)
    config = _read_config(uri, description)
    encoder_state = _read_state(uri, ENCODER, _encoder_shapes(config))
    _require_digest(uri, ENCODER, description["encoder_digest"], encoder_digest(config, encoder_state))
    decoder_state = None
    if decoder:
        decoder_state = _read_state(uri, DECODER, _decoder_shapes(config))
        _require_digest(uri, DECODER, description["decoder_digest"], decoder_digest(config, decoder_state))
    digests = Digests(str(description["encoder_digest"]), str(description["decoder_digest"]))
    return TokenizerFiles(config, description["recipe"], digests, encoder_state, decoder_state)


def encoder_digest(config: ModelConfig, state: State) -> str:
    """What fixes the tokens: configuration (precision, window and packing included) and weights of the encoder."""
    parts = {"encoder": config.encoder.model_dump(mode="json"), "fsq": config.fsq.model_dump(mode="json")}
    return digest({"config": parts, "tensors": _tensor_digests(state)})


def decoder_digest(config: ModelConfig, state: State) -> str:
    """What fixes the sound of given tokens: configuration and weights of the decoder."""
    return digest({"config": config.decoder.model_dump(mode="json"), "tensors": _tensor_digests(state)})


def _tensor_digests(state: State) -> dict[str, list[Any]]:
    return {
        name: [str(t.dtype), list(t.shape), hashlib.sha256(t.contiguous().numpy().tobytes()).hexdigest()]
        for name, t in sorted(state.items())
    }


def _canonical(what: str, state: State) -> dict[str, Tensor]:
    """fp32, contiguous, on the CPU, sorted by name: equal weights give equal bytes."""
    found = {name: state[name].detach().to("cpu", torch.float32).contiguous().clone() for name in sorted(state)}
    for name, tensor in found.items():
        if not bool(torch.isfinite(tensor).all()):
            raise InputError(
                f"{what} weight {name} holds values that are not finite",
                fix="the training run diverged: use an earlier checkpoint",
            )
    return found


def _encoder_shapes(config: ModelConfig) -> dict[str, list[int]]:
    with torch.device("meta"):
        return {name: list(t.shape) for name, t in Encoder(config.encoder).state_dict().items()}


def _decoder_shapes(config: ModelConfig) -> dict[str, list[int]]:
    with torch.device("meta"):
        return {name: list(t.shape) for name, t in make_generator(config).state_dict().items()}


def _require_fit(
    what: str, state: State, expected: Mapping[str, list[int]], error: type[InputError] | type[DamageError]
) -> None:
    fix = "use the weights and the configuration of one and the same run"
    for name in sorted({*state, *expected}):
        if name not in state:
            raise error(f"{what} lacks weight", value=name, expected=f"shape {expected[name]}", fix=fix)
        if name not in expected:
            raise error(f"{what} has an unknown weight", value=name, fix=fix)
        if list(state[name].shape) != expected[name]:
            raise error(
                f"{what} weight {name} has shape", value=list(state[name].shape), expected=str(expected[name]), fix=fix
            )
        if state[name].dtype != torch.float32:
            raise error(
                f"{what} weight {name} has type", value=str(state[name].dtype), expected="torch.float32", fix=fix
            )


def _require_vacant(uri: str, digests: Digests) -> None:
    if not store.exists(store.join(uri, CONFIG)):
        return
    found = _read_description(uri)
    if (found.get("encoder_digest"), found.get("decoder_digest")) != (digests.encoder, digests.decoder):
        raise ConflictError(
            f"another tokenizer is at {uri}: encoder digest",
            value=str(found.get("encoder_digest"))[:16],
            expected=digests.encoder[:16],
            fix="use another --out",
        )


def _read_description(uri: str) -> dict[str, Any]:
    found = read_json(store.join(uri, CONFIG))
    if found.get("kind") != "tokenizer":
        raise FormatError(
            f"not a tokenizer directory: {uri} has kind",
            value=found.get("kind"),
            expected="tokenizer",
            fix="give the directory that `syllabary export` wrote",
        )
    require_version(found.get("format_version"), FORMAT_VERSION, f"tokenizer format version at {uri}")
    return found


def _read_config(uri: str, description: Mapping[str, Any]) -> ModelConfig:
    fix = "restore config.json from a backup"
    for key in ("model", "recipe", "encoder_digest", "decoder_digest"):
        if key not in description:
            raise DamageError(f"config.json of the tokenizer at {uri} has no key", value=key, fix=fix)
    try:
        return ModelConfig.model_validate(description["model"])
    except ValidationError as error:
        line = first_fault(error).message
        raise DamageError(f"configuration of the tokenizer at {uri} does not resolve ({line})", fix=fix) from (error)


def _read_state(uri: str, name: str, expected: Mapping[str, list[int]]) -> dict[str, Tensor]:
    target = store.join(uri, name)
    try:
        state = safetensors.torch.load(store.read_bytes(target))
    except (safetensors.SafetensorError, ValueError, KeyError) as error:
        raise DamageError(
            f"not a readable safetensors file ({error})", value=target, fix="restore the file from a backup"
        ) from error
    _require_fit(target, state, expected, DamageError)
    return state


def _require_digest(uri: str, name: str, stated: object, found: str) -> None:
    if stated != found:
        raise DamageError(
            f"{store.join(uri, name)} or its configuration has changed: digest",
            value=found[:16],
            expected=str(stated)[:16],
            fix="restore the directory from a backup",
        )
