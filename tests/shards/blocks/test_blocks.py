"""Blocks against a plain reference: every id once, labels that follow, positions that restart, cuts where allowed."""

from __future__ import annotations

import itertools

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from syllabary.shards.archive.packing import Packing
from syllabary.shards.blocks.blocks import make_blocks
from syllabary.shards.blocks.layout import cut, require_block_size
from syllabary.shards.blocks.splits import num_copies
from syllabary.shards.blocks.tape import ROWS, Tape, make_tape
from syllabary.shards.blocks.vocabulary import SPECIALS, LmVocabulary
from syllabary.shards.errors import InputError

PACKING = Packing(5, 4, 2)  # three places: 16, 16 and 4 ids
GROUPS, RATE, HOP_S = 3, 1000, 0.4
VOCABULARY = LmVocabulary(PACKING)


def rows_of(documents: list[list[int]], gap_samples: int = 100) -> pa.Table:
    """A document a list, an utterance of so many frames each item; tokens count up within their places."""
    rows, count = [], 0
    for number, utterances in enumerate(documents):
        at = 50 * number
        for frames in utterances:
            tokens = [(count + i) % (4 if i % GROUPS == 2 else 16) for i in range(frames * GROUPS)]
            count += len(tokens)
            num_samples = max(int(frames * HOP_S * RATE) - 30, 0)
            place = {"document_id": f"d{number}", "utterance_id": f"d{number}@{at}", "recording_id": f"r{number}"}
            sound = {"start_sample": at, "num_samples": num_samples, "sample_rate": RATE, "tokens": tokens}
            beside = {"key": number * 7 % 5, "copy": 0, "archive": 0, "speaker": "s", "text": "t", "text_first": None}
            rows.append(place | sound | beside)
            at += num_samples + gap_samples
    return pa.Table.from_pylist(rows, schema=ROWS)


def tape_of(documents: list[list[int]], **options) -> Tape:
    return make_tape(rows_of(documents), VOCABULARY, HOP_S, **options)


def documents_of(tape: Tape) -> list[list[int]]:
    edges = [*tape.starts.tolist(), len(tape.ids)]
    return [tape.ids[a:b].tolist() for a, b in itertools.pairwise(edges)]


DOCUMENTS = st.lists(st.lists(st.integers(0, 9), min_size=1, max_size=4), min_size=1, max_size=8)


@settings(max_examples=60, deadline=None)
@given(DOCUMENTS, st.sampled_from(["stream", "frames", "whole"]), st.integers(4, 40), st.booleans())
def test_blocks_are_what_a_plain_walk_over_the_documents_gives(documents, layout, block_size, begin_end) -> None:
    tape = tape_of(documents, ends="begin_end" if begin_end else "separator")
    blocks = cut(tape, block_size, layout)
    made, sources = make_blocks(tape, blocks, np.arange(blocks.num_blocks), tape.document_of_id())
    follows: dict[int, list[int]] = {}
    seen: list[int] = []
    edges = blocks.firsts.tolist()
    for block in range(blocks.num_blocks):
        ids, labels, positions, places, numbers = ([], [], [], [], [])
        number = -1
        for span in range(edges[block], edges[block + 1]):
            previous = None
            for at in range(int(blocks.starts[span]), int(blocks.stops[span])):
                document = int(np.searchsorted(tape.starts, at, side="right")) - 1
                begins = document != previous
                number, previous = number + begins, document
                last = at + 1 == len(tape.ids) or at + 1 in tape.starts
                ids.append(int(tape.ids[at]))
                labels.append(-100 if last else int(tape.ids[at + 1]))
                positions.append(0 if begins else positions[-1] + 1)
                places.append(int(tape.place[at]))
                numbers.append(number)
                seen.append(at)
        rest = block_size - len(ids)
        assert made.input_ids[block].tolist() == ids + [VOCABULARY.padding] * rest
        assert made.labels[block].tolist() == labels + [-100] * rest
        assert made.position_ids[block].tolist() == positions + list(range(rest))
        assert made.place[block].tolist() == places + [0] * rest
        assert made.document_ids[block].tolist() == numbers + [-1] * rest
    assert sorted(seen) == list(range(len(tape.ids))), "every id is in one block"
    assert made.position_ids.max(initial=0) < block_size and {*made.place.reshape(-1).tolist()} <= set(range(GROUPS))
    sizes = np.array(PACKING.position_sizes)[made.place]
    is_token = (made.labels >= 0) & (made.labels < PACKING.vocabulary)
    assert (made.labels < sizes)[is_token].all() and not follows
    in_sources = sum(sources["num_ids"].to_pylist())
    assert in_sources == tape.num_tokens


def test_cumulative_lengths_are_one_line() -> None:
    tape = tape_of([[2], [1], [3]])
    made, _ = make_blocks(tape, cut(tape, 30, "stream"), np.arange(1), tape.document_of_id())
    cu_seqlens = np.flatnonzero(np.append(made.position_ids[0] == 0, True))
    assert cu_seqlens.tolist() == [0, 7, 17, 21, 30] or cu_seqlens.tolist() == [0, 7, 11, 21, 30]
    assert np.diff(cu_seqlens).sum() == 30


@settings(max_examples=60, deadline=None)
@given(DOCUMENTS, st.integers(4, 40))
def test_cuts_are_where_each_layout_may_have_them(documents, block_size: int) -> None:
    tape = tape_of(documents)
    lengths = tape.document_lengths
    for layout in ("frames", "whole"):
        blocks = cut(tape, block_size, layout)
        assert np.isin(np.concatenate([blocks.starts, blocks.stops]), tape.cuts()).all()
        used = [int((blocks.stops - blocks.starts)[a:b].sum())
                for a, b in zip(blocks.firsts[:-1], blocks.firsts[1:], strict=True)]  # fmt: skip
        assert all(0 < one <= block_size for one in used)
    is_cut = np.setdiff1d(blocks.starts, tape.starts)
    owners = np.unique(np.searchsorted(tape.starts, is_cut, side="right") - 1)
    assert owners.tolist() == np.flatnonzero(lengths > block_size).tolist(), "only what is longer than a block is cut"
    assert blocks.num_cut_documents == len(owners)


def test_best_fit_fills_blocks_that_come_out_even() -> None:
    tape = tape_of([[3], [1], [2], [2], [1], [3]])  # 10, 4, 7, 7, 4, 10 ids
    assert cut(tape, 14, "whole").num_blocks == 3
    assert cut(tape, 14, "stream").num_blocks == 3
    first = cut(tape, 14, "whole")
    assert sorted((first.stops - first.starts).tolist()) == [4, 4, 7, 7, 10, 10]


def test_sources_say_the_second_of_every_piece_and_the_time_between_utterances() -> None:
    tape = tape_of([[2, 1]], mark_gaps_s=None)
    _, sources = make_blocks(tape, cut(tape, 5, "stream"), np.arange(2), tape.document_of_id())
    assert documents_of(tape) == [[VOCABULARY.separator, *range(2), 2, 3, 4, 1, *[6, 7, 0]]]
    rows = sources.to_pylist()
    assert [(r["block"], r["first"], r["num_ids"], r["start_s"], r["end_s"]) for r in rows] == [
        (0, 1, 4, 0.0, 0.77), (1, 0, 2, 0.4, 0.77), (1, 2, 3, 0.87, 1.24),
    ]  # fmt: skip
    assert [r["gap_s"] for r in rows] == [None, None, 0.1]
    assert [r["utterance_id"] for r in rows] == ["d0@0", "d0@0", "d0@870"]


def test_gaps_of_that_length_are_marked() -> None:
    gap = VOCABULARY.gap
    assert gap in documents_of(tape_of([[1, 1]], mark_gaps_s=0.1))[0]
    assert gap not in documents_of(tape_of([[1, 1]], mark_gaps_s=0.11))[0]
    marked = documents_of(tape_of([[1, 1], [1]], mark_gaps_s=0.05))
    assert [one.count(gap) for one in marked] in ([1, 0], [0, 1]) and marked[0][1] != gap


def test_begin_and_end_stand_around_every_document() -> None:
    tape = tape_of([[1], [2, 1]], ends="begin_end")
    for ids in documents_of(tape):
        assert ids[0] == VOCABULARY.begin and ids[-1] == VOCABULARY.end and VOCABULARY.separator not in ids
    made, _ = make_blocks(tape, cut(tape, 40, "stream"), np.arange(1), tape.document_of_id())
    assert (made.labels[0] == VOCABULARY.end).sum() == 2, "the end is learned"
    assert (made.labels[0][made.input_ids[0] == VOCABULARY.end] == -100).all(), "what comes after it is not"


@pytest.mark.parametrize(("text_first", "expected"), [(True, "text"), (False, "speech")])
def test_text_stands_on_its_side_of_the_speech(text_first: bool, expected: str) -> None:
    rows = rows_of([[1]]).set_column(ROWS.get_field_index("text_first"), ROWS.field("text_first"), [[text_first]])
    vocabulary = LmVocabulary(PACKING, 50)
    tape = make_tape(rows, vocabulary, HOP_S, text_ids=lambda texts: [[10, 11] for _ in texts])
    speech, text = [vocabulary.speech, 50, 51, 52], [vocabulary.text, 10, 11]
    order = text + speech if expected == "text" else speech + text
    assert tape.ids.tolist() == [vocabulary.separator, *order]
    assert tape.place.tolist()[order.index(vocabulary.speech) + 1 :][:4] == [0, 1, 2, 0]


def test_ids_stand_where_the_offset_puts_them() -> None:
    vocabulary = LmVocabulary(Packing(128, 4, 7), 32_000)
    ids = vocabulary.ids()
    assert list(ids) == list(SPECIALS) and ids["padding"] == 32_000 + 16_384 and vocabulary.dtype == np.uint16
    assert all(getattr(vocabulary, name) == one for name, one in ids.items())
    assert max(ids.values()) == vocabulary.separator == vocabulary.size - 1
    assert LmVocabulary(Packing(128, 4, 7), 60_000).dtype == np.int32
    mask = LmVocabulary(PACKING, 3).mask()
    assert mask.sum(1).tolist() == [19, 16, 4] and not mask[:, :3].any()
    with pytest.raises(InputError, match="id offset: -1"):
        LmVocabulary(PACKING, -1)
    with pytest.raises(InputError, match="do not fit into 32 bits"):
        LmVocabulary(PACKING, 1 << 31)


def test_a_block_that_holds_no_frame_is_refused() -> None:
    require_block_size(4, 3)
    with pytest.raises(InputError, match=r"smaller than a frame of 3 tokens.*: 3; expected 4 or more"):
        require_block_size(3, 3)


def test_copies_are_the_weight_on_average() -> None:
    copies = [num_copies(0, f"d{i}", 2.25) for i in range(4000)]
    assert set(copies) == {2, 3} and np.mean(copies) == pytest.approx(2.25, abs=0.03)
    assert {num_copies(0, f"d{i}", 1.0) for i in range(100)} == {1} and num_copies(0, "d", 0.0) == 0
