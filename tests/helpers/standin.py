"""A tokenizer that stands in for the shipped one: random weights in half precision, below a folder of builtins."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from syllabary.model.codec import Codec
from syllabary.model.config import ModelConfig
from syllabary.shards import store
from syllabary.workers.recipes.recipe import Recipe
from syllabary.workers.tokenizer.directory import Digests, Stored, save_tokenizer

NAME = "standin"
URI = f"builtin:{NAME}"


def save_untrained(
    folder: Path, recipe: Recipe | ModelConfig, stored_as: Stored = "float16", *, seed: int = 0
) -> Digests:
    """Save an untrained tokenizer of a recipe, or of a bare model."""
    torch.manual_seed(seed)
    model = recipe.model if isinstance(recipe, Recipe) else recipe
    told = recipe.model_dump(mode="json") if isinstance(recipe, Recipe) else {"name": NAME}
    codec = Codec(model)
    states = codec.encoder.state_dict(), codec.generator.state_dict()
    return save_tokenizer(str(folder), model, *states, recipe=told, stored_as=stored_as)


def ship(folder: Path, monkeypatch: pytest.MonkeyPatch, recipe: Recipe | ModelConfig) -> Path:
    """Let the package ship the stand-in, and nothing else; returns its directory."""
    save_untrained(folder / NAME, recipe)
    monkeypatch.setattr(store, "BUILTIN_FOLDER", folder)
    return folder / NAME
