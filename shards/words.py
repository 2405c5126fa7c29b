"""Numbers in words, as people read them in lines and pages."""

from __future__ import annotations


def counted(count: int, noun: str) -> str:
    """``1 speaker``, ``1,204 speakers``; ``noun`` in the singular, one whose plural ends in s."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"
