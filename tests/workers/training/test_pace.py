"""What a stretch of steps is measured to be, with a clock that stands still unless told."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from syllabary.workers.training import throughput as pace_module
from syllabary.workers.training.data.clips import Batch
from syllabary.workers.training.throughput import Measures, Pace


def _batch(*num_samples: int) -> Batch:
    return Batch(torch.zeros(len(num_samples), max(num_samples)), torch.tensor(num_samples), ())


def test_a_stretch_is_measured_over_all_ranks(monkeypatch):
    now, loader = [100.0], SimpleNamespace(waited_s=3.0, utterances=SimpleNamespace(sample_rate=1000))
    pace = Pace(loader, clock=lambda: now[0])
    pace.count([_batch(2000, 500), _batch(500)])
    pace.count([_batch(1000)])
    now[0], loader.waited_s = 104.0, 3.5
    # The other rank had more audio, and waited longer.
    monkeypatch.setattr(pace_module, "gather_from_ranks", lambda mine: [mine, (6000, 0.25)])
    assert pace.measures(steps_left=10) == Measures(
        step_s=2.0, data_wait_fraction=0.25, audio_s=10.0, audio_s_per_s=2.5, eta_s=20.0
    )
    pace.restart()
    now[0] = 106.0
    monkeypatch.setattr(pace_module, "gather_from_ranks", lambda mine: [mine])
    pace.count([_batch(500)])
    assert pace.measures(steps_left=0) == Measures(2.0, 0.0, 0.5, 0.25, 0.0)


def test_how_far_a_training_is_says_rate_and_time_left():
    measures = Measures(step_s=0.5, data_wait_fraction=0.1, audio_s=8.0, audio_s_per_s=1234.0, eta_s=3725.0)
    reached = measures.reached("pretrain", 1200, 24_000, {"loss": 0.1234})
    assert (reached.stage, reached.done, reached.total, reached.rate) == ("pretrain", 1200, 24_000, 2.0)
    assert str(reached) == "1,200/24,000 steps · loss 0.1234 · 1,234 s of audio/s · 2/s · 1:02:05 left"
    assert measures.as_metrics() == pytest.approx(
        {"step_s": 0.5, "data_wait_fraction": 0.1, "audio_s_per_s": 1234.0, "eta_s": 3725.0}
    )
