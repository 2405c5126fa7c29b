"""Weights that a training begins with instead of drawing them: those of a tokenizer, or of a complete run of a stage.

What the source does not have (a decoder after stage 1, discriminators anywhere) begins untrained. Optimizer states are
never taken over: this is a new training, with its own warm-up, not a run resumed.
"""

from __future__ import annotations

from dataclasses import dataclass

from safetensors.torch import load as from_safetensors
from torch import Tensor, nn

from syllabary.shards import outputs, store
from syllabary.shards.store import Folder
from syllabary.workers.recipes.beginning import described, fitting_kind
from syllabary.workers.recipes.recipe import Recipe
from syllabary.workers.recipes.shipped import NOTHING
from syllabary.workers.tokenizer.directory import load_mel_head, load_tokenizer

ENCODER_FILE, CODEC_FILE, HEAD_FILE = "encoder.safetensors", "codec.safetensors", "mel_head.safetensors"
State = dict[str, Tensor]


@dataclass(frozen=True)
class InitialWeights:
    """States of the parts that a source has; an empty one is left as it was drawn."""

    encoder: State
    generator: State
    head: State

    def put_into(self, part: nn.Module, state: State) -> None:
        """Load one part's state, if there is one."""
        if state:
            part.load_state_dict(state)


def initial_digest(uri: str, recipe: Recipe) -> str:
    """What the source at ``uri`` is, for the run's claim: digests of its weights; "none" where nothing is asked for.

    Raises as :func:`syllabary.workers.recipes.beginning.fitting_kind` does.
    """
    if uri == NOTHING:
        return NOTHING
    kind = fitting_kind(uri, recipe)
    names = {"pretrain": [ENCODER_FILE], "codec": [CODEC_FILE], "tokenizer": [ENCODER_FILE, "decoder.safetensors"]}
    folder = Folder(uri)
    heads = [HEAD_FILE] if kind != "pretrain" and folder.exists(HEAD_FILE) else []
    return outputs.digest([store.sha256_of(folder.join(name)) for name in names[kind] + heads])


def read_initial(uri: str) -> InitialWeights:
    """The states at ``uri``; "none" gives empty ones. Raises as :func:`initial_digest` does, and DamageError."""
    if uri == NOTHING:
        return InitialWeights({}, {}, {})
    (kind, _), folder = described(uri), Folder(uri)
    if kind == "tokenizer":
        files = load_tokenizer(uri)
        return InitialWeights(dict(files.encoder_state), dict(files.decoder_state or {}), load_mel_head(uri))
    if kind == "pretrain":
        return InitialWeights(from_safetensors(folder.read(ENCODER_FILE)), {}, {})
    state = from_safetensors(folder.read(CODEC_FILE))
    heads = from_safetensors(folder.read(HEAD_FILE)) if folder.exists(HEAD_FILE) else {}
    return InitialWeights(_part(state, "encoder."), _part(state, "generator."), heads)


def _part(state: State, prefix: str) -> State:
    return {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
