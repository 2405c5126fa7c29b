"""Blocks lose no token, say where each stands, and their mask allows exactly the ids that can come next."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from syllabary.shards.archive.packing import Packing
from syllabary.shards.blocks.documents import Block, LmVocabulary, Tape, shuffle_key, speaker_split

VOCABULARY = LmVocabulary(Packing(8, 4, 3))  # 3 tokens a frame: 64, 64, 16 ids


def documents_of(lengths: list[int], seed: int) -> list[tuple[str, np.ndarray]]:
    rng = np.random.default_rng(seed)
    frames = [np.stack([rng.integers(0, size, n) for size in VOCABULARY.packing.position_sizes], 1) for n in lengths]
    return [(f"d{i}", own.reshape(-1)) for i, own in enumerate(frames)]


def blocks_of(documents: list[tuple[str, np.ndarray]], size: int) -> list[Block]:
    tokens = np.concatenate([np.empty(0, np.uint16), *(own for _, own in documents)])
    names, lengths = pa.array([n for n, _ in documents], pa.string()), np.array([len(own) for _, own in documents], int)
    tape = Tape.of(names, lengths, tokens, VOCABULARY)
    assert tape.lengths.tolist() == [n + 1 for n in lengths]
    return [tape.block(number, size) for number in range(tape.num_blocks(size))]


@given(st.lists(st.integers(0, 9), max_size=8), st.integers(2, 40), st.integers(0, 99))
def test_documents_come_back_from_blocks_by_position_and_number(lengths: list[int], size: int, seed: int) -> None:
    documents = documents_of(lengths, seed)
    blocks = blocks_of(documents, size)
    back: dict[str, dict[int, int]] = {name: {} for name, _ in documents}
    for block in blocks:
        assert len(block.ids) == len(block.positions) == len(block.document_numbers) == size
        for token, position, number in zip(block.ids, block.positions, block.document_numbers, strict=True):
            if number < 0:
                assert token == VOCABULARY.padding and position == -1
            else:
                back[block.document_ids[number]][int(position)] = int(token)
    for name, tokens in documents:
        assert [back[name][p] for p in range(len(tokens) + 1)] == [VOCABULARY.separator, *tokens.tolist()]
    assert all((block.document_numbers >= 0).all() for block in blocks[:-1])


@given(st.lists(st.integers(1, 9), min_size=1, max_size=5), st.integers(0, 99))
def test_the_mask_allows_whatever_follows_and_forbids_what_cannot(lengths: list[int], seed: int) -> None:
    mask = VOCABULARY.mask()
    (block,) = blocks_of(documents_of(lengths, seed), 400)
    for at in range(399):
        if block.document_numbers[at + 1] >= 0:
            place = block.positions[at] % VOCABULARY.packing.num_groups
            assert mask[place, block.ids[at + 1]]
    assert mask.sum(1).tolist() == [65, 64, 16] and not mask[:, VOCABULARY.padding].any()


@given(st.integers(0, 5), st.text(max_size=9))
def test_a_speaker_has_one_split_and_keys_are_in_range(seed: int, speaker: str) -> None:
    assert speaker_split(seed, speaker, 10, 10) == speaker_split(seed, speaker, 10, 10)
    assert speaker_split(seed, speaker, 0, 100) == "test" and speaker_split(seed, speaker, 0, 0) == "train"
    assert 0 <= shuffle_key(seed, speaker) < 1 << 63


def test_ids_above_uint16_get_int32() -> None:
    assert LmVocabulary(Packing(8, 4, 7)).dtype == np.uint16
    assert LmVocabulary(Packing(8, 4, 8)).dtype == np.int32
