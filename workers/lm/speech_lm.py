"""A small decoder-only language model of speech tokens: transformers' Llama with an embedding of the place in a frame.

The loss is computed over the ids that a place can hold: for place g the first ``position_sizes[g]`` tokens; for place 0
also the ids of a gap and of a document's end and, where blocks hold text, those of the text and of its borders. Places
of one size are multiplied with just these rows of the head, so that no mask over batch, position and vocabulary is
needed.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM

from syllabary.workers.lm.blocks_data import Vocabulary


class SpeechLm(LlamaForCausalLM):
    """Llama whose inputs carry the place of the id that follows; a frame has ``config.num_groups`` places.

    Attributes:
        num_before: in generation, the number of ids before the one that the first token follows; 0 after a lone
            separator.
    """

    num_before = 0

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__(config)
        self.place_embedding = nn.Embedding(config.num_groups, config.hidden_size)
        self.post_init()

    def hidden(self, input_ids: Tensor, position_ids: Tensor, place: Tensor, document_ids: Tensor) -> Tensor:
        """The hidden states [batch, position, width]; an id attends to the ids before it in its own document."""
        attend = (document_ids[:, :, None] == document_ids[:, None, :]).tril()
        embedded = self.model.embed_tokens(input_ids) + self.place_embedding(place)
        output = self.model(inputs_embeds=embedded, position_ids=position_ids, attention_mask=attend[:, None])
        return output.last_hidden_state

    def forward(self, input_ids: Tensor | None = None, position_ids: Tensor | None = None, **values: Any) -> Any:
        """The call that transformers' generation makes, for one document from its beginning: the place follows from
        the position."""
        if input_ids is None or "document_ids" in values:
            return super().forward(input_ids=input_ids, position_ids=position_ids, **values)
        cache = values.get("past_key_values")
        seen = cache.get_seq_length() if cache is not None else 0
        if position_ids is None:
            position_ids = torch.arange(seen, seen + input_ids.shape[1], device=input_ids.device)[None]
        spoken = position_ids[:, -input_ids.shape[1] :] - self.num_before
        place = torch.where(spoken < 0, 0, spoken % self.config.num_groups)
        embedded = self.model.embed_tokens(input_ids) + self.place_embedding(place)
        return super().forward(inputs_embeds=embedded, position_ids=position_ids, **values)


def make_model(vocabulary: Vocabulary, hidden_size: int, num_layers: int, num_heads: int) -> SpeechLm:
    """Make an untrained model; its weights are drawn from torch's random generator."""
    config = LlamaConfig(
        vocab_size=vocabulary["vocabulary_size"],
        hidden_size=hidden_size,
        intermediate_size=4 * hidden_size,
        num_hidden_layers=num_layers,
        num_attention_heads=num_heads,
        num_key_value_heads=num_heads,
        max_position_embeddings=max(vocabulary["block_size"], 4096),
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=None,
    )
    config.num_groups = vocabulary.packing.num_groups
    config._attn_implementation = "sdpa"
    return SpeechLm(config)


class LmLoss(nn.Module):
    """The model with its loss, as one module for data-parallel training."""

    def __init__(self, model: SpeechLm, vocabulary: Vocabulary) -> None:
        super().__init__()
        self.model = model
        self.vocabulary = vocabulary

    def forward(self, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """The negative log-likelihood in nats, summed over all labels, and their number."""
        names = ("input_ids", "position_ids", "place", "document_ids")
        hidden = self.model.hidden(*(batch[name] for name in names))
        nats = label_nats(hidden, batch["labels"], batch["place"], self.model.lm_head.weight, self.vocabulary)
        return nats.sum(), torch.tensor(len(nats), device=nats.device)


def label_nats(hidden: Tensor, labels: Tensor, place: Tensor, head: Tensor, vocabulary: Vocabulary) -> Tensor:
    """The negative log-likelihood in nats of every label that is not masked out, in no particular order, [labels].

    Args:
        hidden: [batch, position, width].
        labels: [batch, position]; a negative one is masked out.
        place: places of the labels in their frames, [batch, position].
        head: weights of the output layer, [ids, width].
        vocabulary: what the ids mean.

    Raises:
        ValueError: a label that its place cannot hold.
    """
    counted = labels >= 0
    hidden, labels, place = hidden[counted], labels[counted], place[counted]
    offset, ends = vocabulary["id_offset"], torch.tensor(vocabulary.ends, device=labels.device)
    num_text_ids = vocabulary.num_text_ids
    nats: list[Tensor] = []
    sizes = vocabulary.packing.position_sizes
    kinds: dict[tuple[int, bool], list[int]] = {}
    for number, size in enumerate(sizes):
        kinds.setdefault((size, number == 0), []).append(number)
    for (size, is_begin), places in kinds.items():
        own = torch.isin(place, torch.tensor(places, device=place.device))
        weights, targets = head[offset : offset + size], labels[own] - offset
        if is_begin:
            weights = torch.cat([weights, head[:num_text_ids], head[ends]])
            targets = torch.where(labels[own] < num_text_ids, size + labels[own], targets)
            for number, one in enumerate(vocabulary.ends):
                targets = torch.where(labels[own] == one, size + num_text_ids + number, targets)
        if targets.numel() and not (int(targets.min()) >= 0 and int(targets.max()) < len(weights)):
            raise ValueError("a label that its place cannot hold")
        nats.append(nn.functional.cross_entropy((hidden[own] @ weights.T).float(), targets, reduction="none"))
    return torch.cat(nats)
