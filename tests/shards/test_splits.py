"""Splits by the published test vectors of SHA-256, which tell where a name falls."""

from __future__ import annotations

import pytest

from syllabary.shards.ingest.config import IngestConfig
from syllabary.shards.ingest.splits import percentile, split_of

# FIPS 180-2 and its usual companions: the first 48 bits of the digest.
VECTORS = {"abc": 0xBA7816BF8F01, "": 0xE3B0C44298FC, "ABC": 0xB5D4045C3F46, "a": 0xCA978112CA1B}


@pytest.mark.parametrize("name", sorted(VECTORS))
def test_a_name_falls_where_its_sha256_says(name: str) -> None:
    assert percentile(name) == VECTORS[name] * 100 / 2**48


def test_speakers_that_differ_in_case_are_two_speakers() -> None:
    assert percentile("ABC") == pytest.approx(71.0267, abs=1e-3)
    assert percentile("abc") == pytest.approx(72.8395, abs=1e-3)
    config = IngestConfig(test_percent=72, valid_percent=10)
    assert (split_of("ABC", "r", config), split_of("abc", "r", config)) == ("test", "valid")


@pytest.mark.parametrize(
    ("test", "valid", "split"),
    [(73, 0, "test"), (72, 1, "valid"), (0, 73, "valid"), (72, 0, "train"), (2, 70, "train"), (0, 0, "train")],
)
def test_test_lies_below_valid_below_train(test: float, valid: float, split: str) -> None:
    """ "abc" falls on 72.84."""
    assert split_of("abc", "another", IngestConfig(test_percent=test, valid_percent=valid)) == split


def test_a_name_on_a_border_lies_above_it() -> None:
    """Shares are half open, [0, test) and [test, test + valid): nobody belongs to two."""
    border = VECTORS["abc"] * 100 / 2**48
    assert split_of("abc", "r", IngestConfig(test_percent=border, valid_percent=1)) == "valid"
    assert split_of("abc", "r", IngestConfig(test_percent=0, valid_percent=border)) == "train"


def test_by_recording_the_recordings_name_is_hashed() -> None:
    config = IngestConfig(test_percent=72, valid_percent=1, split_by="recording")
    assert (split_of("abc", "ABC", config), split_of("ABC", "abc", config)) == ("test", "valid")
