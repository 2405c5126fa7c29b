"""A tokenizer that breaks its contract does not reach the archive: frames, groups, salience, ids."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from syllabary.workers.archive.encode_shard import encode_shard
from syllabary.workers.tokenizer.tokenizer import Encoded, Tokenizer
from tests.helpers.archive_corpus import make_shards, make_tokenizer

SHARD = "train-000000"


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Tokenizer, str]:
    folder = tmp_path_factory.mktemp("contract")
    shards = make_shards(str(folder / "shards"), (SHARD,))
    return Tokenizer.load(make_tokenizer(str(folder / "tokenizer")), decoder=False), shards


def broken(tokenizer: Tokenizer, change: Callable[[Encoded], Encoded]) -> Tokenizer:
    """The tokenizer with a change of what it encodes its third utterance to."""
    other = object.__new__(Tokenizer)
    other.__dict__ |= tokenizer.__dict__
    count = iter(range(99))

    def encode(wav: np.ndarray, sample_rate: int) -> Encoded:
        found = tokenizer.encode(wav, sample_rate)
        return change(found) if next(count) == 2 else found

    other.encode = encode  # type: ignore[method-assign]
    return other


def with_token(encoded: Encoded, group: int, value: int) -> Encoded:
    tokens = encoded.tokens.copy()
    tokens[0, group] = value
    return replace(encoded, tokens=tokens)


BREACHES = {
    "a frame too many": lambda e: replace(e, tokens=np.concatenate([e.tokens, e.tokens[:1]])),
    "a frame too few": lambda e: replace(e, tokens=e.tokens[1:]),
    "a group too few": lambda e: replace(e, tokens=e.tokens[:, 1:]),
    "a salience too many": lambda e: replace(e, salience=np.append(e.salience, np.uint8(0))),
    "an id of no digit": lambda e: with_token(e, 0, 4**7),
    "an id beyond the last group's": lambda e: with_token(e, 18, 16),
}


@pytest.mark.parametrize("breach", sorted(BREACHES))
def test_a_breach_ends_the_shard(inputs: tuple[Tokenizer, str], breach: str) -> None:
    tokenizer, shards = inputs
    with pytest.raises((AssertionError, ValueError), match=r"tokens \(|salience \(|token .*position"):
        encode_shard(broken(tokenizer, BREACHES[breach]), shards, SHARD)


def test_what_keeps_the_contract_passes(inputs: tuple[Tokenizer, str]) -> None:
    tokenizer, shards = inputs
    part, ledger = encode_shard(broken(tokenizer, lambda e: with_token(e, 18, 15)), shards, SHARD)
    assert ledger.count("tokenized") == 4 and part[:4] == b"PAR1"
