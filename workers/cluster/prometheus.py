"""Export the figures of a running stage to Ray's Prometheus endpoint: audio, shards done, quarantine, rate.

Every node of a Ray cluster serves its metrics for Prometheus; Ray prefixes ``ray_`` and suffixes counters ``_total``:

    ray_syllabary_audio_seconds_total           seconds of audio done
    ray_syllabary_shards_done_total             shards committed
    ray_syllabary_quarantined_total             recordings or utterances quarantined
    ray_syllabary_audio_seconds_per_second      now, over all workers

The tags are ``stage`` and ``run``, the last part of the output's URI: the endpoint asks for no token, so nothing that
tells where an output lies goes there.
"""

from __future__ import annotations

import time

from syllabary.shards import store

_TAGS = ("stage", "run")


class Meter:
    """The metrics of one stage of one run; make it in a process of a Ray session."""

    def __init__(self, stage: str, run_uri: str) -> None:
        from ray.util.metrics import Counter, Gauge

        tags = {"stage": stage, "run": store.normalize(run_uri).rpartition("/")[2]}
        self._audio = Counter("syllabary_audio_seconds", "Seconds of audio done.", _TAGS)
        self._shards = Counter("syllabary_shards_done", "Shards committed.", _TAGS)
        self._quarantined = Counter("syllabary_quarantined", "Recordings or utterances quarantined.", _TAGS)
        self._rate = Gauge("syllabary_audio_seconds_per_second", "Seconds of audio per second, all workers.", _TAGS)
        for metric in (self._audio, self._shards, self._quarantined, self._rate):
            metric.set_default_tags(tags)
        self._total_s, self._started = 0.0, time.monotonic()

    def shard_done(self, audio_s: float, num_quarantined: int) -> None:
        """One more shard, of ``audio_s`` seconds; the rate is that of the whole stage so far."""
        self._count(self._shards, 1)
        self._count(self._quarantined, num_quarantined)
        self._total_s += audio_s
        self.advance(audio_s, self._total_s / max(time.monotonic() - self._started, 1e-9))

    def advance(self, audio_s: float, rate: float) -> None:
        """``audio_s`` more seconds of audio, at ``rate`` seconds of audio per second."""
        self._count(self._audio, audio_s)
        self._rate.set(rate)

    @staticmethod
    def _count(counter: object, amount: float) -> None:
        if amount > 0:  # Ray refuses to count nothing
            counter.inc(amount)  # type: ignore[attr-defined]
