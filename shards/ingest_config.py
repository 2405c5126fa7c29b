"""How a corpus becomes shards: coverage, filters, splits and sizes, as one frozen configuration."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class Config(BaseModel):
    """Base of all shard configurations: frozen, unknown keys refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class IngestConfig(Config):
    """Configuration of ``syllabary shard``. Durations in seconds.

    ``coverage`` "speech" cuts by voice activity into utterances between ``min_utterance_s`` and ``max_utterance_s``;
    "all" tiles every recording completely. ``max_sample_rate`` caps the rate at the model's need.
    """

    coverage: Literal["speech", "all"] = "speech"
    min_utterance_s: float = Field(default=1.0, gt=0)
    max_utterance_s: float = Field(default=15.0, gt=0)
    max_sample_rate: int = Field(default=24_000, gt=0)
    shard_size_mb: float = Field(default=64.0, gt=0)
    valid_percent: float = Field(default=2.0, ge=0, le=100)
    test_percent: float = Field(default=2.0, ge=0, le=100)
    max_quarantined_percent: float = Field(default=5.0, ge=0, le=100)
