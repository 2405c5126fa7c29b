"""Assign speakers to splits by a stable hash, so that adding data moves no speaker.

The hash places a name on 0..100 percent: below ``test_percent`` is test, the next ``valid_percent`` are valid, the rest
is train. With few names the shares are far from exact and a split may stay empty; ``split_by: recording`` hashes the
recording instead, and then a speaker may be on both sides.
"""

from __future__ import annotations

import hashlib
import unicodedata
from typing import Literal

from syllabary.shards.ingest.config import IngestConfig

Split = Literal["train", "valid", "test"]


def split_of(speaker: str, recording_id: str, config: IngestConfig) -> Split:
    """The split of a recording, from its speaker's or its own name alone."""
    name = speaker if config.split_by == "speaker" else recording_id
    percent = percentile(name)
    if percent < config.test_percent:
        return "test"
    return "valid" if percent < config.test_percent + config.valid_percent else "train"


def percentile(name: str) -> float:
    """Where the hash of a name falls, in [0, 100)."""
    name = unicodedata.normalize("NFC", name)
    head = hashlib.sha256(name.encode("utf-8", "surrogateescape")).digest()[:6]
    return int.from_bytes(head) * 100 / (1 << 48)
