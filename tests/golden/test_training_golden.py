"""The first steps of both stages at ``tiny``, recorded: a refactor must reproduce the curve.

Record anew with ``REWRITE_GOLDEN=1 python -m pytest tests/golden/test_training_golden.py``; say in the commit why the
numbers moved. The tolerance covers what processors with other vector units round differently.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from syllabary.workers.recipes.recipe import Recipe, resolve
from syllabary.workers.training.history import History
from tests.helpers.training_testing import Gang, prepare_encoder, train_here, trained, write_training_shards

RECORDED = Path(__file__).parent / "training_curves.json"
TOLERANCE = 2e-4
NAMES = {"pretrain": ("loss", "gradient_norm"), "codec": ("mrstft", "waveform", "total", "discriminator_loss")}


def _tiny(stage: str) -> Recipe:
    changes = {
        "num_steps": 6, "num_workers": 1, "micro_batch_size": 2, "validate_every": 3, "num_validation_utterances": 4,
        "log_every": 1, "checkpoint_every": 6,
    }  # fmt: skip
    if stage == "codec":
        changes |= {"discriminator_start_step": 3, "num_samples_kept": 0}
    return resolve("tiny", overrides=[f"{stage}.{key}={value}" for key, value in changes.items()])


WATCHES = {
    "pretrain": {
        "train": {"loss", "prediction_std", "target_std", "gradient_norm", "learning_rate"},
        "valid": {
            "loss", "relative_loss", "target_prediction_cosine", "prediction_std", "collapsed", "ema_distance",
            "latent_effective_rank", "latent_std_mean", "latent_std_min", "latent_std_max", "gate_mean", "gate_std",
            "daam_offset_spread", "daam_scale_spread", "daam_alpha_mean", "between_clips", "level_entropy_given_place",
            "latent_rank_given_place", "relative_loss_other", "held_out_clips", "clips_at_a_place", "input_spread_db",
            "input_peak_db",
        },
        "dims": {"latent_std[000]", "latent_std[127]", "level_entropy_given_place[127]"},
    },
    "codec": {
        "train": {
            "total", "waveform", "mrstft", "adversarial", "feature_matching", "discriminator_loss", "gradient_norm",
            "discriminator_real", "discriminator_generated", "discriminator_gradient_norm", "learning_rate",
        },
        "valid": {
            "mrstft", "waveform", "level_entropy_bits", "level_perplexity", "dead_dims", "token_perplexity",
            "level_0_share", "level_3_share", "latent_effective_rank", "latent_std_mean", "mrstft_right",
            "mrstft_shuffled", "mrstft_other", "mrstft_constant", "token_gain", "between_clips", "held_out_clips",
            "level_entropy_given_place", "latent_rank_given_place", "input_spread_db",
        },
        "dims": {"latent_std[127]", "level_0_share[000]", "level_3_share[127]"},
    },
}  # fmt: skip
TIMINGS = {"step_s", "data_wait_fraction", "audio_s_per_s", "eta_s"}


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("golden")
    shards = write_training_shards(str(folder / "shards"))
    encoder = prepare_encoder(folder / "encoder", _tiny("codec"))
    with Gang(1) as gang:
        for stage in NAMES:
            gang.run(train_here, stage, _tiny(stage), str(folder / stage), shards, encoder)
    return {stage: folder / stage for stage in NAMES}


@pytest.fixture(scope="module")
def curves(runs) -> dict[str, dict[str, list[float]]]:
    found = {}
    for stage, names in NAMES.items():
        series = trained(str(runs[stage])).series
        found[stage] = {f"{split}/{name}": series[split, name] for split, name in sorted(series) if name in names}
    if os.environ.get("REWRITE_GOLDEN"):
        RECORDED.write_text(json.dumps(found, indent=1, sort_keys=True) + "\n")
    return found


@pytest.mark.parametrize("stage", sorted(NAMES))
def test_the_curve_is_as_recorded(curves, stage):
    recorded = json.loads(RECORDED.read_text())[stage]
    assert curves[stage].keys() == recorded.keys()
    for name, values in recorded.items():
        assert curves[stage][name] == pytest.approx(values, rel=TOLERANCE, nan_ok=True), name
        assert len(values) >= 3


@pytest.mark.parametrize("stage", sorted(NAMES))
def test_a_run_leaves_every_watch_in_its_metrics_its_events_and_its_pictures(runs, stage):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    metrics = History.from_parquet((runs[stage] / "metrics.parquet").read_bytes())
    timings = History.from_parquet((runs[stage] / "timings.parquet").read_bytes())
    events = set(EventAccumulator(str(runs[stage] / "tensorboard")).Reload().Tags()["scalars"])
    for split, names in WATCHES[stage].items():
        assert names <= set(metrics.names(split)), split
        assert {f"{split}/{name}" for name in names} <= events
    assert set(timings.names("timing")) == TIMINGS
    assert {f"timing/{name}" for name in TIMINGS} <= events
    for picture in (f"{'loss' if stage == 'pretrain' else 'mrstft'}.png", "overview.png", "dims.png"):
        assert (runs[stage] / "curves" / picture).read_bytes().startswith(b"\x89PNG")
