"""The mask of blocks allows exactly the ids that can come next; splits are by speaker."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from syllabary.shards.archive.packing import Packing
from syllabary.shards.blocks.blocks import make_blocks
from syllabary.shards.blocks.layout import cut
from syllabary.shards.blocks.splits import shuffle_key, speaker_split
from syllabary.shards.blocks.tape import ROWS, make_tape
from syllabary.shards.blocks.vocabulary import LmVocabulary

VOCABULARY = LmVocabulary(Packing(8, 4, 3))  # 3 tokens per frame: 64, 64, 16 ids


@given(st.lists(st.integers(1, 9), min_size=1, max_size=5), st.integers(0, 99), st.integers(0, 50))
def test_the_mask_allows_whatever_follows_and_forbids_what_cannot(lengths: list[int], seed: int, offset: int) -> None:
    vocabulary = LmVocabulary(VOCABULARY.packing, offset)
    mask, rng = vocabulary.mask(), np.random.default_rng(seed)
    tokens = [np.stack([rng.integers(0, size, n) for size in vocabulary.packing.position_sizes], 1) for n in lengths]
    columns = {name: [None] * len(lengths) for name in ROWS.names}
    columns |= {name: [0] * len(lengths) for name in ("key", "copy", "archive", "start_sample", "num_samples")}
    columns |= {"document_id": [f"d{i}" for i in range(len(lengths))], "sample_rate": [1] * len(lengths)}
    columns |= {"tokens": [own.reshape(-1).tolist() for own in tokens]}
    tape = make_tape(pa.table(columns, schema=ROWS), vocabulary, 0.4)
    made, _ = make_blocks(tape, cut(tape, 400, "stream"), np.arange(1), tape.document_of_id())
    told = made.labels[0] >= 0
    assert mask[made.place[0][told], made.labels[0][told]].all() and told.sum() == 3 * sum(lengths)
    assert mask.sum(1).tolist() == [67, 64, 16] and not mask[:, vocabulary.padding].any()
    assert not mask[:, :offset].any()


@given(st.integers(0, 5), st.text(max_size=9))
def test_a_speaker_has_one_split_and_keys_are_in_range(seed: int, speaker: str) -> None:
    assert speaker_split(seed, speaker, 10, 10) == speaker_split(seed, speaker, 10, 10)
    assert speaker_split(seed, speaker, 0, 100) == "test" and speaker_split(seed, speaker, 0, 0) == "train"
    assert 0 <= shuffle_key(seed, speaker) < 1 << 63


def test_ids_above_uint16_get_int32() -> None:
    assert LmVocabulary(Packing(8, 4, 7)).dtype == np.uint16
    assert LmVocabulary(Packing(8, 4, 8)).dtype == np.int32
