"""The first steps of both stages at ``tiny``, recorded: a refactor must reproduce the curve.

Record anew with ``REWRITE_GOLDEN=1 python -m pytest tests/golden/test_training_golden.py``; say in the commit why the
numbers moved. The tolerance covers what processors with other vector units round differently.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from training_testing import Gang, prepare_encoder, train_here, trained, write_training_shards

from workers.recipes import Recipe, resolve

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


@pytest.fixture(scope="module")
def curves(tmp_path_factory) -> dict[str, dict[str, list[float]]]:
    folder = tmp_path_factory.mktemp("golden")
    shards = write_training_shards(str(folder / "shards"))
    encoder = prepare_encoder(folder / "encoder", _tiny("codec"))
    gang, found = Gang(1), {}
    for stage, names in NAMES.items():
        gang.run(train_here, stage, _tiny(stage), str(folder / stage), shards, encoder)
        series = trained(str(folder / stage)).series
        found[stage] = {f"{split}/{name}": series[split, name] for split, name in sorted(series) if name in names}
    gang.stop()
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
