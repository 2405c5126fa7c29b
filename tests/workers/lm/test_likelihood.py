"""What a language model needs for utterances: by hand for one that knows nothing, token by token for one that does."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from syllabary.shards.archive.packing import Packing
from syllabary.shards.blocks.vocabulary import LmVocabulary
from syllabary.shards.errors import ConflictError
from syllabary.workers.lm.blocks_data import Vocabulary
from syllabary.workers.lm.directory import LoadedLm, load_model, save_model
from syllabary.workers.lm.likelihood import document_batches, require_encoder, utterance_bits
from syllabary.workers.lm.speech_lm import SpeechLm, make_model

CPU = torch.device("cpu")
PACKING = Packing(5, 4, 2, "first_most_significant")  # places of 16, 16 and 4 ids
SIZES = {"hidden_size": 16, "num_layers": 2, "num_heads": 2}


def vocabulary_of(packing: Packing = PACKING, block_size: int = 13, id_offset: int = 7, ends: str = "separator"):
    ids = LmVocabulary(packing, id_offset)
    own = {"num_dims": 5, "levels": 4, "group_size": packing.group_size, "digit_order": packing.digit_order}
    metadata = own | ids.ids() | {"vocabulary_size": ids.size, "block_size": block_size, "id_offset": id_offset}
    return Vocabulary(metadata | {"ends": ends, "encoder_digest": "e" * 64, "text_vocabulary_size": 0}, packing)


def loaded_of(vocabulary: Vocabulary) -> LoadedLm:
    torch.manual_seed(3)
    return LoadedLm(make_model(vocabulary, **SIZES).eval(), vocabulary, "d" * 64)


def tokens_of(num_frames: int, seed: int = 0, packing: Packing = PACKING) -> np.ndarray:
    return packing.pack(np.random.default_rng(seed).integers(0, 4, (num_frames, 5)).astype(np.uint8))


def test_a_model_that_knows_nothing_needs_the_logarithm_of_what_is_possible() -> None:
    loaded = loaded_of(vocabulary_of())
    loaded.model.lm_head.weight.data.zero_()
    frame = math.log2(16 + 2) + math.log2(16) + math.log2(4)  # a gap and an end may stand where a frame begins
    assert utterance_bits(loaded, [tokens_of(9), tokens_of(2, 1)], PACKING) == pytest.approx(11 * frame, rel=1e-5)


@pytest.mark.parametrize("ends", ["separator", "begin_end"])
def test_bits_are_those_of_the_model_token_by_token_block_by_block(ends: str) -> None:
    vocabulary = vocabulary_of(ends=ends)
    loaded, tokens = loaded_of(vocabulary), tokens_of(6)
    model: SpeechLm = loaded.model
    begin = vocabulary["separator" if ends == "separator" else "begin"]
    flat = [begin, *(tokens.reshape(-1).astype(int) + 7).tolist()]
    expected = 0.0
    for at in range(len(flat) - 1):
        first = at // 12 * 12  # four whole frames fit into a block of 13
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([flat[first : at + 1]])).logits[0, -1].double()
        own = list(range(7, 7 + PACKING.position_sizes[at % 3]))
        possible = own + ([vocabulary["gap"], vocabulary["end"]] if at % 3 == 0 else [])
        expected -= float(logits[flat[at + 1]] - torch.logsumexp(logits[possible], 0)) / math.log(2)
    assert utterance_bits(loaded, [tokens], PACKING) == pytest.approx(expected, rel=1e-5)


def test_tokens_of_another_packing_are_packed_as_the_model_knows_them() -> None:
    loaded, other = loaded_of(vocabulary_of()), Packing(5, 4, 5, "first_least_significant")
    tokens = tokens_of(4)
    again = other.pack(PACKING.unpack(tokens))
    assert utterance_bits(loaded, [again], other) == utterance_bits(loaded, [tokens], PACKING)


def test_every_token_is_a_label_once() -> None:
    vocabulary, tokens = vocabulary_of(), tokens_of(11)
    batches = list(document_batches(tokens, vocabulary, CPU))
    assert [batch["labels"].shape[1] for batch in batches] == [12, 12, 9]
    labels = torch.cat([batch["labels"][0] for batch in batches])
    assert (labels - 7).tolist() == tokens.reshape(-1).tolist()


def test_a_model_of_other_tokens_is_refused_and_a_saved_one_says_its_digest(tmp_path: Path) -> None:
    loaded = loaded_of(vocabulary_of())
    require_encoder(loaded, "e" * 64)
    with pytest.raises(ConflictError, match="of another encoder's tokens"):
        require_encoder(loaded, "f" * 64)
    digests = []
    for name, scale in (("a", 1.0), ("b", 1.0), ("c", 0.5)):
        loaded.model.lm_head.weight.data *= scale
        save_model(str(tmp_path / name), loaded.model, loaded.vocabulary, SIZES)
        digests.append(load_model(str(tmp_path / name), CPU).weights_digest)
    assert digests[0] == digests[1] != digests[2]
