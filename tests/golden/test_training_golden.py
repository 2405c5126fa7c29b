"""The first steps of both stages, recorded: a refactor must reproduce the curve. ``tiny_paper`` is the paper's
architecture and training, ``tiny`` the spectral one that learns its bottleneck first.

Record anew with ``REWRITE_GOLDEN=1 python -m pytest tests/golden/test_training_golden.py``; say in the commit why the
numbers moved. All is computed by instructions that every x86 processor has; the tolerance covers what still differs.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from syllabary.workers.recipes.named import resolve
from syllabary.workers.recipes.recipe import Recipe
from syllabary.workers.training.history import History
from tests.helpers.training_testing import Gang, prepare_encoder, train_here, trained, write_training_shards

RECORDED = Path(__file__).parent / "training_curves.json"
TOLERANCE = 2e-4
# torch, oneDNN and MKL each by their least instruction set, the last as on every other processor.
ANY_PROCESSOR = {"ATEN_CPU_CAPABILITY": "default", "ONEDNN_MAX_CPU_ISA": "SSE41", "MKL_CBWR": "COMPATIBLE"}
NAMES = {
    "pretrain": ("loss", "gradient_norm"),
    "codec": ("mrstft", "waveform", "total", "discriminator_loss"),
    "spectral-pretrain": ("loss", "gradient_norm"),
    "spectral-codec": ("mel", "mel_in_time", "pitch", "spread", "total", "gradient_norm", "discriminator_loss"),
}
SHORT = {
    "num_steps": 6, "num_workers": 1, "micro_batch_size": 2, "validate_every": 3, "num_validation_utterances": 4,
    "log_every": 1, "checkpoint_every": 6, "precision": "fp32",
}  # fmt: skip
# At the recipes' own rates what vector units round differently grows to 3e-4 within six steps: the gradient of the
# paper's stage 1 is 200 and more.
# Of the spectral codec's nine steps three are the bottleneck's; in the last five the discriminators judge, and learn in
# every other one. Its clips have noise: in digital silence a log-mel spectrum is at its floor, and the last bit of a
# sample decides whether it has a gradient there, and with it 3e-4 to 2e-2 of the gradient's norm.
LESS_STEEP = {
    "pretrain": {"optimizer.lr": 5e-5},
    "codec": {"discriminator_start_step": 3, "num_samples_kept": 0, "optimizer.lr": 5e-4},
    "spectral-codec": {
        "num_steps": 9, "num_samples_kept": 0, "bottleneck.share": 0.34, "seed": 1, "augment.noise_snr_db": 20,
        "vocoder.discriminator_start_step": 1, "vocoder.crop_s": 0.32, "vocoder.optimizer.warmup_steps": 1,
        "vocoder.optimizer.lr": 2e-4, "optimizer.warmup_steps": 1,
    },
}  # fmt: skip


def stage_of(run: str) -> str:
    return run.removeprefix("spectral-")


def _short(run: str) -> Recipe:
    changes = SHORT | LESS_STEEP.get(run, {})
    name = "tiny" if run.startswith("spectral-") else "tiny_paper"
    return resolve(name, overrides=[f"{stage_of(run)}.{key}={value}" for key, value in changes.items()])


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
    "spectral-codec": {
        "train": {
            "mel", "mel_in_time", "pitch", "spread", "total", "bottleneck_learning_rate", "vocoder_learning_rate",
            "discriminator_loss", "adversarial", "feature_matching", "gradient_norm", "discriminator_gradient_norm",
        },
        "valid": {
            "mel", "mel_head", "voicing_wrong", "pitch_wrong", "mel_right", "mel_shuffled", "mel_other",
            "mel_constant", "token_gain", "mrstft",
            "between_clips", "level_entropy_given_place", "level_entropy_bits", "token_perplexity",
        },
        "dims": {"latent_std[127]", "level_0_share[000]"},
    },
}  # fmt: skip
WATCHES["spectral-pretrain"] = WATCHES["pretrain"]
HEADLINES = {"pretrain": "loss", "codec": "mrstft", "spectral-pretrain": "loss", "spectral-codec": "mel"}
TIMINGS = {"step_s", "data_wait_fraction", "audio_s_per_s", "eta_s"}


@pytest.fixture(scope="module")
def gang() -> Iterator[Gang]:
    with Gang(1, ANY_PROCESSOR) as one:
        yield one


@pytest.fixture(scope="module")
def shards(tmp_path_factory) -> str:
    return write_training_shards(str(tmp_path_factory.mktemp("golden") / "shards"))


@pytest.fixture(scope="module", params=sorted(NAMES))
def finished(request, gang, shards, tmp_path_factory) -> tuple[str, Path]:
    """The name of a run, and what it left."""
    name, folder = request.param, tmp_path_factory.mktemp(request.param)
    recipe = _short(name)
    encoder = prepare_encoder(folder / "encoder", recipe)
    gang.run(train_here, stage_of(name), recipe, str(folder / "run"), shards, encoder)
    return name, folder / "run"


def test_the_curve_is_as_recorded(finished):
    name, run = finished
    series = trained(str(run)).series
    found = {f"{split}/{key}": series[split, key] for split, key in sorted(series) if key in NAMES[name]}
    if os.environ.get("REWRITE_GOLDEN"):
        everything = {**json.loads(RECORDED.read_text()), name: found}
        RECORDED.write_text(json.dumps(everything, indent=1, sort_keys=True) + "\n")
    recorded = json.loads(RECORDED.read_text())[name]
    assert found.keys() == recorded.keys()
    for key, values in recorded.items():
        assert found[key] == pytest.approx(values, rel=TOLERANCE, nan_ok=True), key
        assert len(values) >= 3


def test_a_run_leaves_every_watch_in_its_metrics_its_events_and_its_pictures(finished):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    name, run = finished
    metrics = History.from_parquet((run / "metrics.parquet").read_bytes())
    timings = History.from_parquet((run / "timings.parquet").read_bytes())
    events = set(EventAccumulator(str(run / "tensorboard")).Reload().Tags()["scalars"])
    for split, names in WATCHES[name].items():
        assert names <= set(metrics.names(split)), split
        assert {f"{split}/{name}" for name in names} <= events
    assert set(timings.names("timing")) == TIMINGS
    assert {f"timing/{name}" for name in TIMINGS} <= events
    for picture in (f"{HEADLINES[name]}.png", "overview.png", "dims.png"):
        assert (run / "curves" / picture).read_bytes().startswith(b"\x89PNG")
