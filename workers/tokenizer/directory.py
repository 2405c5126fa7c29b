"""A tokenizer directory: ``config.json``, ``encoder.safetensors``, ``decoder.safetensors``, ``README.md``.

The *encoder digest* is the sha256 of the encoder's and FSQ's configuration and every encoder tensor (name, shape, and
its numbers as fp32): it fixes the tokens. The *decoder digest* is that of the decoder's: it fixes the sound only. Both
stand in ``config.json``, which is written last: where it is, the directory is complete.

Weights may be stored in half precision. They are rounded first; the tokenizer computes with the rounded numbers as
fp32, and the digests are taken from these. So the type of the files changes their size, and neither tokens nor digests.

``mel_head.safetensors`` is there when the training had one. It is no part of the tokenizer; a training that begins with
this tokenizer goes on with it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

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
    NotFoundError,
    first_fault,
    require_version,
)
from syllabary.shards.outputs import digest
from syllabary.shards.store import Folder
from syllabary.workers.recipes.bitrates import rates_of

_CARD = """# Syllabary tokenizer: {name}

Speech to tokens and back. In Python: `from syllabary import Tokenizer`, then
`Tokenizer.from_pretrained("<this directory>")`.

| | |
| --- | --- |
| sample rate | {sample_rate:,} Hz mono |
| hop length | {hop_length:,} samples |
| frames | {frame_rate:g} per second |
| tokens | {num_groups} per frame, {tokens_per_s:g} per second, vocabulary {vocabulary:,} |
| bit rate | {payload:g} bit/s payload, {nominal:g} nominal, {stored:g} as uint16 |
| levels, group size, digit order | {levels}, {group_size}, {digit_order} |
| longest clip encoded whole | {window_s:g} s |
| precision of the encoder | {precision} |
| weights stored as | {stored_as} |
| encoder digest (fixes the tokens) | `{encoder_digest}` |
| decoder digest (fixes the sound) | `{decoder_digest}` |

Tokens of one utterance do not depend on its batch, on padding or on the number of threads or workers. They are
promised bit for bit on one kind of processor; on another, a frame whose margin is near zero may differ.

`config.json` holds the resolved recipe. How well the tokenizer keeps speech intelligible depends on its training:
measure it on speech of your own before relying on it.
"""


_HUB = """---
library_name: syllabary
pipeline_tag: audio-to-audio
tags:
- speech
- audio
- tokenizer
- codec
---

"""


def model_card(
    config: ModelConfig, name: str, encoder_digest: str, decoder_digest: str, stored_as: str = "float32"
) -> str:
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
        stored_as=stored_as,
        encoder_digest=encoder_digest,
        decoder_digest=decoder_digest,
    )


FORMAT_VERSION = 1
CONFIG, ENCODER, DECODER, CARD = "config.json", "encoder.safetensors", "decoder.safetensors", "README.md"
MEL_HEAD = "mel_head.safetensors"

State = Mapping[str, Tensor]
Stored = Literal["float32", "float16", "bfloat16"]
_TYPES: dict[str, torch.dtype] = {name: getattr(torch, name) for name in get_args(Stored)}


@dataclass(frozen=True)
class Digests:
    """``encoder`` fixes the tokens, ``decoder`` only the sound; both sha256 in hex."""

    encoder: str
    decoder: str


@dataclass(frozen=True)
class TokenizerFiles:
    """A tokenizer directory, read from ``uri`` and checked; ``decoder_state`` is None when only the encoder was asked
    for.

    A Tokenizer made from it empties both states: it holds the weights in another form.
    """

    config: ModelConfig
    recipe: dict[str, Any]
    digests: Digests
    encoder_state: dict[str, Tensor]
    decoder_state: dict[str, Tensor] | None
    uri: str = ""


def publish_card(folder: Folder, mark: str, text: bytes) -> None:
    """Write the card of a folder, before all else in it: while ``mark`` is not there, it may be anybody's folder.

    Raises:
        ConflictError: it holds somebody's own README.md.
    """
    if folder.exists(mark):
        folder.publish(CARD, text)
    else:
        store.publish_new(folder.join(CARD), text)


def save_tokenizer(
    uri: str,
    config: ModelConfig,
    encoder_state: State,
    decoder_state: State,
    *,
    recipe: Mapping[str, Any],
    stored_as: Stored = "float32",
    mel_head: State | None = None,
) -> Digests:
    """Write a tokenizer directory and return its digests. The same tokenizer again is a no-op with the same bytes.

    Args:
        uri: the directory.
        config: the model that the states fit.
        encoder_state: of ``syllabary.model.encoder.Encoder``, keys without prefix.
        decoder_state: of the generator, keys without prefix.
        recipe: the resolved recipe that made it, stored as it is.
        stored_as: type of the stored weights; the digests are those of the weights rounded to it.
        mel_head: of the training, for those that begin with this tokenizer; stored in fp32.

    Raises:
        InputError: a state does not fit the configuration, holds values that are not finite, or that the type cannot
            hold.
        ConflictError: another tokenizer is already there, or a README.md of somebody's own.
    """
    encoder = rounded_weights("encoder", encoder_state, stored_as)
    decoder = rounded_weights("decoder", decoder_state, stored_as)
    _require_fit("encoder", encoder, _encoder_shapes(config), InputError)
    _require_fit("decoder", decoder, _decoder_shapes(config), InputError)
    digests = Digests(encoder_digest(config, encoder), decoder_digest(config, decoder))
    folder = Folder(uri)
    _require_vacant(folder, digests)
    card = model_card(config, str(recipe.get("name")), digests.encoder, digests.decoder, stored_as)
    publish_card(folder, CONFIG, card.encode())
    for name, state in ((ENCODER, encoder), (DECODER, decoder)):
        narrow = {key: value.to(_TYPES[stored_as]) for key, value in state.items()}
        folder.publish(name, safetensors.torch.save(narrow))
    heads = {} if mel_head is None else {"mel_head_digest": _publish_mel_head(folder, mel_head)}
    description = {
        "kind": "tokenizer",
        "format_version": FORMAT_VERSION,
        "encoder_digest": digests.encoder,
        "decoder_digest": digests.decoder,
        **heads,
        "stored_as": stored_as,
        "model": config.model_dump(mode="json"),
        "recipe": dict(recipe),
    }
    folder.publish_json(CONFIG, description)
    return digests


def load_tokenizer(uri: str, *, decoder: bool = True) -> TokenizerFiles:
    """Read a tokenizer directory and check every name, shape, type and digest in it; weights come as fp32.

    Raises:
        InputError: an unknown builtin; names those that there are.
        NotFoundError: no tokenizer there.
        FormatError, VersionError: something else is there.
        DamageError: the files do not fit one another any more.
    """
    folder = Folder(uri)
    description = _read_description(folder)
    config = _read_config(uri, description)
    encoder_state = _read_state(folder, ENCODER, _encoder_shapes(config))
    _require_digest(folder, ENCODER, description["encoder_digest"], encoder_digest(config, encoder_state))
    decoder_state = None
    if decoder:
        decoder_state = _read_state(folder, DECODER, _decoder_shapes(config))
        _require_digest(folder, DECODER, description["decoder_digest"], decoder_digest(config, decoder_state))
    digests = Digests(str(description["encoder_digest"]), str(description["decoder_digest"]))
    return TokenizerFiles(config, description["recipe"], digests, encoder_state, decoder_state, uri)


def copy_tokenizer(uri: str, target: str, digests: Digests) -> None:
    """Copy a tokenizer directory, its card with what a model hub reads of it in front (YAML between two rules).

    Raises:
        ConflictError: another tokenizer is at ``target``, or a README.md of somebody's own.
        DamageError: what is at ``uri`` is not, or no longer, the tokenizer of these digests.
    """
    files, source, copy = load_tokenizer(uri), Folder(uri), Folder(target)
    _require_digest(source, ENCODER, digests.encoder, files.digests.encoder)
    _require_digest(source, DECODER, digests.decoder, files.digests.decoder)
    _require_vacant(copy, digests)
    card = source.read(CARD).decode()
    publish_card(copy, CONFIG, (card if card.startswith("---\n") else _HUB + card).encode())
    head = [MEL_HEAD] if source.exists(MEL_HEAD) else []
    for name in (ENCODER, DECODER, *head):
        copy.publish(name, source.read(name))
    copy.publish(CONFIG, source.read(CONFIG))


def at_hand(archive: str, encoder_digest: str) -> str | None:
    """URI of a tokenizer with that encoder: the archive's own where it holds the weights, the one beside it in a run's
    folder, or a builtin; None for none."""
    beside = archive.rstrip("/").rpartition("/")[0] or "."
    places = [folder.uri for uri in (archive, beside) if (folder := Folder(uri) / "tokenizer").exists(DECODER)]
    for uri in (*places, *(store.BUILTIN + name for name in store.builtin_names())):
        if stated_encoder_digest(uri) == encoder_digest:
            return uri
    return None


def stated_encoder_digest(uri: str) -> str:
    """The encoder digest that a tokenizer directory states, without reading weights; empty where it states none."""
    return str(Folder(uri).read_json(CONFIG).get("encoder_digest", ""))


def load_mel_head(uri: str) -> dict[str, Tensor]:
    """The mel head that the tokenizer's training ended with, in fp32; empty where there is none. Raises DamageError."""
    folder = Folder(uri)
    stated = _read_description(folder).get("mel_head_digest")
    if stated is None:
        return {}
    state = _read_safetensors(folder, MEL_HEAD)
    _require_digest(folder, MEL_HEAD, stated, digest(_tensor_digests(state)))
    return state


def _publish_mel_head(folder: Folder, state: State) -> str:
    """Write the mel head and return its digest."""
    head = rounded_weights("mel head", state, "float32")
    folder.publish(MEL_HEAD, safetensors.torch.save(head))
    return digest(_tensor_digests(head))


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


def rounded_weights(what: str, state: State, stored_as: Stored) -> dict[str, Tensor]:
    """Round every number to the type of the file; returns fp32 tensors, contiguous, on the CPU, sorted by name.

    Equal weights give equal bytes, and weights that are rounded already stay as they are.

    Raises:
        InputError: values that are not finite, or too large for the type; ``what`` and the weight are named.
    """
    rounded = {}
    for name in sorted(state):
        exact = state[name].detach().to("cpu", torch.float32)
        if not bool(torch.isfinite(exact).all()):
            raise InputError(
                f"{what} weight {name} holds values that are not finite",
                fix="the training run diverged: use an earlier checkpoint",
            )
        rounded[name] = exact.to(_TYPES[stored_as]).float().contiguous().clone()
        if not bool(torch.isfinite(rounded[name]).all()):
            raise InputError(
                f"{what} weight {name} does not fit into {stored_as}, its largest value",
                value=float(exact.abs().max()),
                expected=f"at most {torch.finfo(_TYPES[stored_as]).max:g}",
                fix="use bfloat16 or float32",
            )
    return rounded


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


def _require_vacant(folder: Folder, digests: Digests) -> None:
    if not folder.exists(CONFIG):
        return
    present = _read_description(folder)
    for part, own in (("encoder", digests.encoder), ("decoder", digests.decoder)):
        if (found := present.get(f"{part}_digest")) != own:
            what = f"another tokenizer is at {folder.uri}: {part} digest"
            raise ConflictError(what, value=str(found)[:16], expected=own[:16], fix="use another --out")


def _read_description(folder: Folder) -> dict[str, Any]:
    try:
        description = folder.read_json(CONFIG)
    except NotFoundError as error:
        there = " or ".join(store.BUILTIN + name for name in store.builtin_names())
        expected = f"a tokenizer directory, with {CONFIG}" + (f", or {there}, which ships" if there else "")
        raise NotFoundError("no tokenizer, nothing there", value=folder.uri, expected=expected) from error
    if description.get("kind") != "tokenizer":
        raise FormatError(
            f"not a tokenizer directory: {folder.uri} has kind",
            value=description.get("kind"),
            expected="tokenizer",
            fix="give the directory that `syllabary export` wrote",
        )
    require_version(description.get("format_version"), FORMAT_VERSION, f"tokenizer format version at {folder.uri}")
    return description


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


def _read_state(folder: Folder, name: str, expected: Mapping[str, list[int]]) -> dict[str, Tensor]:
    state = _read_safetensors(folder, name)
    _require_fit(folder.join(name), state, expected, DamageError)
    return state


def _read_safetensors(folder: Folder, name: str) -> dict[str, Tensor]:
    """The tensors of a file in fp32, whichever type they are stored as."""
    target = folder.join(name)
    try:
        state = safetensors.torch.load(folder.read(name))
    except (safetensors.SafetensorError, ValueError, KeyError) as error:
        raise DamageError(
            f"not a readable safetensors file ({error})", value=target, fix="restore the file from a backup"
        ) from error
    for weight, tensor in state.items():
        if tensor.dtype not in _TYPES.values():
            raise DamageError(
                f"{target} weight {weight} has type",
                value=str(tensor.dtype),
                expected=" or ".join(map(str, _TYPES.values())),
                fix="restore the file from a backup",
            )
    return {weight: tensor.float() for weight, tensor in state.items()}


def _require_digest(folder: Folder, name: str, stated: object, found: str) -> None:
    if stated != found:
        raise DamageError(
            f"{folder.join(name)} or its configuration has changed: digest",
            value=found[:16],
            expected=str(stated)[:16],
            fix="restore the directory from a backup",
        )
