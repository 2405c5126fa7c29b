"""The order and the splits of documents: both by hash, so that they depend on a seed and on names alone."""

from __future__ import annotations

import hashlib

KEY_RANGE = 1 << 63  # of shuffle keys


def shuffle_key(seed: int, document_id: str) -> int:
    """Where a document comes in the shuffled order: 63 bits that depend on seed and id alone."""
    return int.from_bytes(hashlib.sha256(f"{seed}:{document_id}".encode()).digest()[:8], "big") >> 1


def speaker_split(seed: int, speaker: str, valid_percent: float, test_percent: float) -> str:
    """The split of a speaker, by hash: all of a speaker's recordings go the same way."""
    percent = shuffle_key(seed, f"split:{speaker}") / KEY_RANGE * 100
    if percent < test_percent:
        return "test"
    return "valid" if percent < test_percent + valid_percent else "train"


def num_copies(seed: int, document_id: str, weight: float) -> int:
    """How often a document comes where its archive has that weight: 2.25 is twice, and for a quarter three times."""
    whole = int(weight)
    return whole + (shuffle_key(seed, f"copies:{document_id}") / KEY_RANGE < weight - whole)
