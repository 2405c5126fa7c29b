"""Word errors: the distance against the textbook recursion, and text as read speech has it."""

from __future__ import annotations

from functools import cache

import pytest
from hypothesis import given
from hypothesis import strategies as st

from syllabary.workers.evaluation.word_errors import error_rates, words_of


def textbook(expected: str, found: str) -> int:
    @cache
    def distance(i: int, j: int) -> int:
        if not i or not j:
            return i + j
        substitute = distance(i - 1, j - 1) + (expected[i - 1] != found[j - 1])
        return min(substitute, distance(i - 1, j) + 1, distance(i, j - 1) + 1)

    return distance(len(expected), len(found))


@given(st.text("abc", min_size=1, max_size=12), st.text("abc", max_size=12))
def test_the_rates_are_levenshtein_s_distance_over_the_length(expected: str, found: str) -> None:
    """Of words of one letter each, then of the letters of one word."""
    words = error_rates(" ".join(expected), " ".join(found))["wer"]
    letters = error_rates(expected, found)["cer"]
    assert words.rate == letters.rate == textbook(expected, found) / len(expected)
    assert words.length == letters.length == len(expected)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("MRS. LYNDE'S brook, I say!", ["mrs", "lyndes", "brook", "i", "say"]),
        ("chapter 42: it’s 7", ["chapter", "forty", "two", "its", "seven"]),
        ("  ", []),
        ("year 1812", ["year", "1812"]),
    ],
)
def test_words_are_bare(text: str, words: list[str]) -> None:
    assert words_of(text) == words


def test_rates_count_against_the_reference() -> None:
    rates = error_rates("one two three four", "one too three")
    assert (rates["wer"].rate, rates["wer"].length) == (0.5, 4)
    assert rates["cer"].length == len("one two three four") and 0 < rates["cer"].rate < 0.5
    assert error_rates("a", "b c d")["wer"].rate == 3, "insertions can exceed the reference"
    with pytest.raises(ValueError, match="no word"):
        error_rates("...", "a")
