"""Every resolved recipe as a file, so that a changed default shows in review.

Rewrite them with ``REWRITE_GOLDEN=1 python -m pytest tests/golden/test_recipes.py`` and read the diff.
"""

import json
import os
from pathlib import Path

import pytest

from syllabary.shards.store import pretty_json
from syllabary.workers.recipes.named import RECIPES, resolve
from syllabary.workers.recipes.recipe import validate

FOLDER = Path(__file__).parent / "recipes"


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_recipe_is_as_recorded(name: str) -> None:
    recorded = FOLDER / f"{name}.json"
    found = pretty_json(RECIPES[name]().model_dump(mode="json"))
    if os.environ.get("REWRITE_GOLDEN"):
        recorded.write_bytes(found)
    assert recorded.read_bytes() == found


def test_no_recorded_recipe_is_left_over() -> None:
    assert {path.stem for path in FOLDER.glob("*.json")} == set(RECIPES)


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_a_recorded_recipe_resolves_to_itself(name: str) -> None:
    recorded = json.loads((FOLDER / f"{name}.json").read_text())
    assert validate(recorded) == resolve(name) == RECIPES[name]()
    assert recorded["name"] == name


def test_every_ablation_changes_something() -> None:
    base = RECIPES["small"]().model_dump(exclude={"name"})
    ablations = [name for name in RECIPES if name.startswith("small_")]
    assert len(ablations) == 11
    dumps = [json.dumps(RECIPES[name]().model_dump(exclude={"name"}, mode="json")) for name in ablations]
    assert len(set(dumps)) == len(ablations)
    assert all(RECIPES[name]().model_dump(exclude={"name"}) != base for name in ablations)


def test_the_paper_recipe_keeps_what_the_paper_does() -> None:
    paper = RECIPES["paper"]()
    assert paper.model.encoder.daam.init == "paper"
    assert paper.model.jepa.mask_at == "latent"
    assert paper.codec.train_encoder == "finetune"
    assert not paper.codec.standardize_latents
    assert paper.model.decoder.mrf_kernels == (3, 7, 11)
    assert (paper.pretrain.num_steps, paper.codec.num_steps) == (24_000, 29_000)


@pytest.mark.parametrize(("name", "frame_rate"), [("small_5hz", 5), ("small_12hz", 12.5), ("base16k", 2.5)])
def test_frame_rates(name: str, frame_rate: float) -> None:
    assert RECIPES[name]().model.framing.frame_rate == frame_rate
