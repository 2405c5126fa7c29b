"""Wrong tokens of three kinds, on one rank and on two."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from syllabary.workers.training.watches.token_gain import constant, others, shuffled, token_gain, tokens_to_try
from tests.helpers.training_testing import Gang


def clip(*frames: int) -> torch.Tensor:
    return torch.tensor(frames, dtype=torch.uint8)[:, None]


def test_no_frame_stays_where_it_was_and_none_is_lost():
    for length in (2, 3, 4, 9, 38):
        for seed in range(20):
            found = shuffled(torch.arange(length)[:, None], seed).flatten()
            assert sorted(found.tolist()) == list(range(length)) and not (found == torch.arange(length)).any()
    assert shuffled(clip(3), 0).tolist() == [[3]]


def test_the_constant_frame_has_the_most_common_digit_of_each_dim():
    everyone = [torch.tensor([[0, 3], [0, 3], [1, 2]]), torch.tensor([[1, 1], [0, 1], [2, 3]])]
    assert constant(everyone[:1], everyone, 4)[0].tolist() == [[0, 3]] * 3


def test_the_next_clips_tokens_are_cut_or_repeated_to_length():
    everyone = [clip(1, 2, 3), clip(4, 5), clip(6)]
    assert [c.flatten().tolist() for c in others(everyone, everyone, [0, 1, 2])] == [[4, 5, 4], [6, 6], [1]]
    assert [c.flatten().tolist() for c in others(everyone[::2], everyone, [0, 2])] == [[4, 5, 4], [1]]


def test_the_gain_is_over_the_least_of_the_wrong_ones():
    losses = {"mel_right": 1.0, "mel_other": 2.0, "mel_constant": 1.25}
    assert token_gain(losses) == losses | {"token_gain": pytest.approx(0.2)}
    assert token_gain({"mel_right": 1.0}) == {"mel_right": 1.0}


def _of_rank(clips: list[list[int]]) -> dict[str, Any]:
    from syllabary.workers.training.engine import join_process_group, world

    join_process_group(torch.device("cpu"))
    mine = [clip(*frames) for frames in clips[world()[0] :: world()[1]]]
    return {kind: [c.flatten().tolist() for c in tokens] for kind, tokens in tokens_to_try(mine, 10).items()}


def test_every_rank_takes_the_next_clip_of_all_ranks_and_the_same_constant():
    with Gang(2) as pair:
        zero, one = pair.run(_of_rank, [[1, 2], [3, 4], [1, 2], [1, 6]])  # rank 0: first and third, rank 1: the others
        alone, empty = pair.run(_of_rank, [[1, 2]])
    assert zero == {"right": [[1, 2], [1, 2]], "constant": [[1, 1], [1, 1]], "shuffled": [[2, 1], [2, 1]],
                    "other": [[3, 4], [1, 6]]}  # fmt: skip
    assert one == {"right": [[3, 4], [1, 6]], "constant": [[1, 1], [1, 1]], "shuffled": [[4, 3], [6, 1]],
                   "other": [[1, 2], [1, 2]]}  # fmt: skip
    assert set(alone) == set(empty) == {"right", "constant", "shuffled"} and empty["right"] == []


def test_wrong_tokens_are_the_same_however_the_clips_are_divided():
    clips = [[(7 * k + frame) % 10 for frame in range(5 + k)] for k in range(5)]
    with Gang(2) as pair, Gang(1) as single:
        zero, one = pair.run(_of_rank, clips)
        (alone,) = single.run(_of_rank, clips)
    for kind, tokens in alone.items():
        assert zero[kind] == tokens[::2] and one[kind] == tokens[1::2], kind
