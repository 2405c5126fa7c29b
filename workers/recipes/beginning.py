"""Check what a training may begin with instead of nothing, by its configuration alone. Free of torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from syllabary.shards import outputs, store
from syllabary.shards.errors import ConfigError, InputError
from syllabary.shards.store import Folder
from syllabary.workers.recipes.recipe import Recipe, validate

CONFIG_FILE = "config.json"
Kind = Literal["pretrain", "codec", "tokenizer"]
Part = Literal["encoder", "decoder"]


def fitting_kind(uri: str, recipe: Recipe) -> Kind:
    """The kind of what is at ``uri``, when a training by ``recipe`` can begin with it.

    Raises:
        ConfigError: its encoder or decoder is not this recipe's; names the first value that differs.
        InputError: it is an unfinished run, or an unknown builtin.
        FormatError, NotFoundError: it is no run of a stage and no tokenizer.
    """
    kind, model = described(uri)
    parts: tuple[Part, ...] = ("encoder",) if kind == "pretrain" else ("encoder", "decoder")
    for part in parts:
        require_fitting(uri, part, model[part], recipe)
    return kind


def claimed(uri: str, recipe: Recipe) -> dict[str, str]:
    """Describe what is begun with, for the claim of a run: its URI, its kind, the digests that a tokenizer states.

    Raises as :func:`fitting_kind` does.
    """
    kind = fitting_kind(uri, recipe)
    claim = {"uri": store.normalize(uri), "kind": str(kind)}
    if kind == "tokenizer":
        description = Folder(uri).read_json(CONFIG_FILE)
        claim |= {key: str(description.get(key)) for key in ("encoder_digest", "decoder_digest")}
    return claim


def described(uri: str) -> tuple[Kind, dict[str, Any]]:
    """Kind of what is at ``uri``, and its model's configuration. Raises as :func:`fitting_kind` does of no recipe."""
    description = Folder(uri).read_json(CONFIG_FILE)
    if description.get("kind") == "tokenizer":
        return "tokenizer", description["model"]
    kind = outputs.read_claim(uri).get("kind")
    if kind not in ("pretrain", "codec"):
        raise InputError("nothing to begin a training with", value=uri, expected="a run of a stage or a tokenizer")
    if outputs.read_done(uri) is None:
        raise InputError("the run to begin with is not complete", value=uri, fix="run it again first: it resumes")
    return kind, validate(description).model.model_dump(mode="json")


def require_fitting(uri: str, part: Part, trained: Mapping[str, Any], recipe: Recipe, option: str = "init") -> None:
    """Refuse weights of another architecture: ``trained`` is the configuration of their encoder or decoder, ``option``
    what named them.

    Raises:
        ConfigError: it is not the recipe's; names the first value that differs.
    """
    wanted = recipe.model.model_dump(mode="json")[part]
    for key in sorted({*trained, *wanted}):
        if trained.get(key) != wanted.get(key):
            raise ConfigError(
                f"model.{part}.{key} is {wanted.get(key)!r}, but the {part} at {uri} was trained with "
                f"{trained.get(key)!r}",
                fix=f"use the recipe it was trained with, or begin with nothing (--{option} none)",
            )
