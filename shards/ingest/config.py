"""The configuration of sharding a corpus: coverage, filters, splits and sizes."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from syllabary.shards.ingest.layouts import Layout


class Config(BaseModel):
    """Base of all shard configurations: frozen, unknown keys refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class IngestConfig(Config):
    """Configuration of ``syllabary shard``. Durations in seconds.

    Attributes:
        layout: what the source is; "auto" goes by its content. "librilight" reads speaker and voice activity from the
            JSON beside each FLAC, "folder" takes any audio and detects voice itself; "manifest" (one JSON object a
            line), "nemo", "lhotse" and "table" (CSV, TSV) are files that list audio, "kaldi" is a data directory,
            "parquet" holds the audio itself. See docs/sources.md.
        coverage: "speech" cuts by voice activity into utterances between ``min_utterance_s`` and
            ``max_utterance_s``; "all" tiles every recording completely.
        join_gap_s: pauses up to this length stay inside an utterance.
        max_sample_rate: caps the rate at the model's need; lower rates stay as they are.
        shard_size_mb: target size; a recording is never divided between shards.
        split_by: what the stable hash decides train, valid or test by. "recording" is for corpora of a handful of
            speakers, which "speaker" would leave without held-out data; its splits share speakers.
        transcribed: "whole" keeps a recording that comes with its text as one utterance, uncut, where it is no longer
            than ``max_utterance_s``, so that words and sound agree; "cut" cuts it like any other.
        vad_aggressiveness: of the voice detector for sources without voice activity, 0 (keeps most) to 3.
        min_sample_rate: filters recordings below it: they hold no speech that a model could learn.
        cancelling_channels: what becomes of a recording whose channels cancel each other (their mean has less than a
            thousandth of their power): "choose" takes the loudest channel, "quarantine" refuses it, "mean" is silence.
        dead_channel_db: a channel this far below the loudest is left out of the mean; None keeps all.
        max_peak: samples between full scale, 1, and this are clipped, as every player does.
        over_full_scale: what becomes of an utterance with a higher peak: "scale" makes it the full scale, "filter"
            drops the utterance, "clip" clips it.
        max_value: a larger sample is no sound, as one that is not a number: the utterance is quarantined.
        constant: "filter" drops a recording of which every sample is the same (all zero too), "keep" takes it.
        min_snr_db: drops utterances below it; the source's own figure, or else an estimate.
        max_clipping_percent: drops utterances with more samples than this at full scale.
        drop_duplicates: keeps the first of recordings with identical samples.
        languages: keeps recordings with one of these language tags; empty keeps all.
        max_quarantined_percent: the run fails above this share of recordings, once more than
            ``quarantine_allowance`` of them are quarantined.
        tar_md5: what the md5 of a ``.tar`` source must be.
    """

    layout: Layout = "auto"
    coverage: Literal["speech", "all"] = "speech"
    min_utterance_s: float = Field(default=1.0, gt=0)
    max_utterance_s: float = Field(default=15.0, gt=0)
    join_gap_s: float = Field(default=0.5, ge=0)
    max_sample_rate: int = Field(default=24_000, gt=0)
    shard_size_mb: float = Field(default=64.0, gt=0)
    split_by: Literal["speaker", "recording"] = "speaker"
    valid_percent: float = Field(default=2.0, ge=0, le=100)
    test_percent: float = Field(default=2.0, ge=0, le=100)
    transcribed: Literal["whole", "cut"] = "whole"
    vad_aggressiveness: int = Field(default=2, ge=0, le=3)
    min_sample_rate: int = Field(default=6000, ge=0)
    cancelling_channels: Literal["choose", "quarantine", "mean"] = "choose"
    dead_channel_db: float | None = Field(default=60.0, gt=0)
    max_peak: float = Field(default=1.25, ge=1)
    over_full_scale: Literal["scale", "filter", "clip"] = "scale"
    max_value: float = Field(default=100.0, ge=1)
    constant: Literal["filter", "keep"] = "filter"
    min_snr_db: float | None = None
    max_clipping_percent: float | None = Field(default=None, ge=0, le=100)
    drop_duplicates: bool = False
    languages: tuple[str, ...] = ()
    max_quarantined_percent: float = Field(default=5.0, ge=0, le=100)
    quarantine_allowance: int = Field(default=10, ge=0)
    tar_md5: str | None = Field(default=None, pattern="^[0-9a-f]{32}$")

    @model_validator(mode="after")
    def _lengths_and_shares_fit(self) -> Self:
        if self.min_utterance_s > self.max_utterance_s / 2:
            raise ValueError(
                f"min_utterance_s {self.min_utterance_s} is above half of max_utterance_s {self.max_utterance_s}, so "
                "that long speech cannot be divided; lower it"
            )
        if self.valid_percent + self.test_percent > 100:
            raise ValueError(
                f"valid_percent {self.valid_percent} and test_percent {self.test_percent} exceed 100 together; lower"
            )
        return self
