"""Word and character error rates: jiwer over normalized text."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass

_ONES = (
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve",
    "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen",
)  # fmt: skip
_TENS = ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")


@dataclass(frozen=True)
class ErrorRate:
    """Edits over the reference's length, and that length."""

    rate: float
    length: int


def error_rates(reference: str, found: str) -> dict[str, ErrorRate]:
    """``wer`` and ``cer``. Raises ValueError for a reference without words."""
    import jiwer  # of the extra `evaluate`

    expected, heard = words_of(reference), words_of(found)
    if not expected:
        raise ValueError("the reference has no word")
    letters, heard_letters = " ".join(expected), " ".join(heard)
    return {
        "wer": ErrorRate(float(jiwer.wer(letters, heard_letters)), len(expected)),
        "cer": ErrorRate(float(jiwer.cer(letters, heard_letters)), len(letters)),
    }


def words_of(text: str) -> list[str]:
    """Lower-case words without punctuation; numbers below a hundred spelled out, as read speech has them."""
    plain = unicodedata.normalize("NFKC", text).lower().replace("’", "'")
    words = re.sub(r"[^\w' ]|_", " ", plain).split()
    stripped = [word.strip("'").replace("'", "") for word in words]
    return [part for word in stripped for part in _spelled(word)]


def _spelled(word: str) -> list[str]:
    if not (word.isdecimal() and word.isascii() and len(word) <= 2):
        return [word] if word else []
    number = int(word)
    if number < 20:
        return [_ONES[number]]
    return [_TENS[number // 10 - 2]] + ([_ONES[number % 10]] if number % 10 else [])
