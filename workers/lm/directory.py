"""A language model as a directory: ``config.json``, ``model.safetensors``, ``README.md``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from syllabary.shards import outputs
from syllabary.shards.errors import DamageError, FormatError
from syllabary.shards.store import Folder
from syllabary.workers.lm.blocks_data import Vocabulary
from syllabary.workers.lm.speech_lm import SpeechLm, make_model

CONFIG, WEIGHTS, CARD = "config.json", "model.safetensors", "README.md"
KIND = "language-model"
_CARD = """# A language model of speech tokens

A decoder-only model ({num_layers} layers of {hidden_size}, {num_parameters:,} parameters) of the tokens of the encoder
`{encoder_digest}`. `syllabary lm-eval` says how many bits per second it needs, `syllabary lm-sample` lets it speak.

`config.json` holds its sizes and what each id means (`blocks`), `model.safetensors` its weights.
"""


@dataclass(frozen=True)
class LoadedLm:
    """A model, ready to evaluate, the vocabulary of its ids, and the digest of its weights."""

    model: SpeechLm
    vocabulary: Vocabulary
    weights_digest: str


def save_model(uri: str, model: SpeechLm, vocabulary: Vocabulary, sizes: dict[str, int]) -> None:
    """Write the directory; ``config.json`` comes last and says that it is whole."""
    state = {name: own.detach().cpu().float().contiguous().clone() for name, own in sorted(model.state_dict().items())}
    folder = Folder(uri)
    state.pop("lm_head.weight", None)  # tied to the embedding
    folder.publish(WEIGHTS, safetensors.torch.save(state))
    num_parameters = sum(one.numel() for one in state.values())
    card = _CARD.format(**sizes, num_parameters=num_parameters, encoder_digest=vocabulary.metadata["encoder_digest"])
    folder.publish(CARD, card.encode())
    description = {"kind": KIND, "format_version": 1, "sizes": sizes, "blocks": vocabulary.metadata,
                   "weights_digest": outputs.digest(_digests(state))}  # fmt: skip
    folder.publish_json(CONFIG, description)


def load_model(uri: str, device: torch.device) -> LoadedLm:
    """Read a model directory.

    Raises:
        NotFoundError: there is none.
        FormatError: something else is there.
        DamageError: weights and configuration do not fit.
    """
    folder = Folder(uri)
    description = folder.read_json(CONFIG)
    if description.get("kind") != KIND or description.get("format_version") != 1:
        fix = "give the model folder of `syllabary lm-train`"
        raise FormatError("not a language model", value=description.get("kind"), expected=KIND, fix=fix)
    vocabulary = Vocabulary.of_metadata(description["blocks"])
    model = make_model(vocabulary, **description["sizes"])
    try:
        state = safetensors.torch.load(folder.read(WEIGHTS))
        missing, unexpected = model.load_state_dict(state, strict=False)
    except (safetensors.SafetensorError, RuntimeError, ValueError) as error:
        raise DamageError(f"weights do not load ({error})", value=uri) from error
    wrong = [name for name in (*missing, *unexpected) if name != "lm_head.weight"]
    if wrong or outputs.digest(_digests(state)) != description["weights_digest"]:
        raise DamageError("weights have changed", value=uri, fix="restore the folder from a backup")
    model.to(device)  # type: ignore[arg-type]
    return LoadedLm(model.eval(), vocabulary, str(description["weights_digest"]))


def _digests(state: dict[str, Tensor]) -> dict[str, Any]:
    import hashlib

    return {name: hashlib.sha256(one.contiguous().numpy().tobytes()).hexdigest() for name, one in sorted(state.items())}
