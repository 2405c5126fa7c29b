"""Measure the bits that a language model needs for given utterances, each a document of its own."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from syllabary.shards.archive.packing import Packing
from syllabary.shards.blocks.blocks import IGNORED
from syllabary.shards.errors import ConflictError, InputError
from syllabary.workers.lm.blocks_data import Batch, Vocabulary
from syllabary.workers.lm.directory import LoadedLm
from syllabary.workers.lm.speech_lm import LmLoss


def require_encoder(loaded: LoadedLm, encoder_digest: str) -> None:
    """Refuse a model that was trained on another encoder's tokens.

    Raises:
        ConflictError: the encoders differ.
        InputError: the model knows speech only after its text.
    """
    own = str(loaded.vocabulary.metadata["encoder_digest"])
    if own != encoder_digest:
        what, fix = "a language model of another encoder's tokens", "train one on tokens of this encoder"
        raise ConflictError(what, value=own[:16], expected=encoder_digest[:16], fix=fix)
    if loaded.vocabulary.metadata.get("interleave") == "text_to_speech":
        what, fix = "a language model of speech that follows its text", "train one on blocks without --interleave"
        raise InputError(what, value="text_to_speech", fix=fix)


def utterance_bits(loaded: LoadedLm, utterances: Sequence[NDArray[np.uint16]], packing: Packing) -> float:
    """The bits that the model needs for all utterances, tokens uint16 [F, G] in ``packing``; every token counts once.

    The tokens are first packed as the model knows them. An utterance longer than a block of the model's training is cut
    between two frames, and the rest begins without context, as it did in training.
    """
    vocabulary, loss = loaded.vocabulary, LmLoss(loaded.model, loaded.vocabulary)
    device = loaded.model.device
    nats = 0.0
    with torch.no_grad():
        for tokens in utterances:
            own = vocabulary.packing.pack(packing.unpack(tokens))
            for batch in document_batches(own, vocabulary, device):
                nats += float(loss(batch)[0])
    return nats / math.log(2)


def document_batches(tokens: NDArray[np.uint16], vocabulary: Vocabulary, device: torch.device) -> Iterator[Batch]:
    """Cut a document of tokens [F, G] into blocks, as batches of one row; each token is a label once."""
    groups, before = vocabulary.packing.num_groups, vocabulary.begin
    flat = tokens.reshape(-1).astype(np.int64) + vocabulary["id_offset"]
    step = (vocabulary["block_size"] - len(before) + 1) // groups * groups
    for first in range(0, len(flat), step):
        head = before if first == 0 else (int(flat[first - 1]),)
        labels = np.concatenate([np.full(len(head) - 1, IGNORED), flat[first : first + step]])
        columns = {
            "input_ids": np.concatenate([head, flat[first : first + step][:-1]]),
            "labels": labels,
            "position_ids": np.arange(len(labels)),
            "place": np.maximum(np.arange(len(labels)) - len(head) + 1, 0) % groups,
            "document_ids": np.zeros(len(labels), np.int64),
        }
        yield {name: torch.from_numpy(values[None]).to(device) for name, values in columns.items()}
