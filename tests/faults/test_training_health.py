"""What a run notices of itself: numbers that are not finite, a collapse, storage that fails, speech that is gone."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from syllabary.shards import dataset, outputs, store
from syllabary.shards.errors import StorageError, SyllabaryError
from syllabary.workers.recipes.recipe import Recipe
from syllabary.workers.training.checkpoints import CheckpointStore, Manifest
from syllabary.workers.training.data.epoch_order import epoch_order
from syllabary.workers.training.data.loader import Utterances
from syllabary.workers.training.history import METRICS, History
from tests.helpers.training_testing import Gang, replaced, train_here, trained, training_recipe, write_training_shards


@pytest.fixture(scope="module")
def gang() -> Iterator[Gang]:
    with Gang(1) as single:
        yield single


@pytest.fixture(scope="module")
def two() -> Iterator[Gang]:
    with Gang(2) as pair:
        yield pair


@pytest.fixture(scope="module")
def shards(tmp_path_factory) -> str:
    return write_training_shards(str(tmp_path_factory.mktemp("health") / "shards"))


def _train(harm: Callable[..., Any], recipe: Recipe, out: str, shards: str, *args: Any) -> str:
    """Train stage 1 on this rank within ``harm(*args)``: what rank 0 said, the error that ended it in the last line."""
    said: list[str] = []
    with harm(*args):
        try:
            said = train_here("pretrain", recipe, out, shards)
        except SyllabaryError as error:
            assert "\n" not in str(error)
            return f"{type(error).__name__}: {error}"
    return "\n".join(said)


@contextlib.contextmanager
def _infinite_weights_after(step: int) -> Iterator[None]:
    """The update of this step overflows, though its loss and gradient were finite."""
    import torch

    from syllabary.workers.training.jepa import JepaStage

    original = JepaStage.train_step

    def harmful(self: Any, number: int, *args: Any, **kwargs: Any) -> dict[str, float]:
        found = original(self, number, *args, **kwargs)
        if number == step:
            with torch.no_grad():
                next(self._jepa.predictor.parameters()).fill_(math.inf)
        return found

    with replaced(JepaStage, "train_step", harmful):
        yield


@contextlib.contextmanager
def _validations(*found: dict[str, float]) -> Iterator[None]:
    """Each validation finds this beside what it finds."""
    from syllabary.workers.training.jepa import JepaStage

    original, told = JepaStage.validate, iter(found)
    with replaced(JepaStage, "validate", lambda self: original(self) | next(told)):
        yield


@contextlib.contextmanager
def _a_predictor_without_weights() -> Iterator[None]:
    from syllabary.workers.training.jepa import JepaStage

    original = JepaStage.validate

    def validate(self: Any) -> dict[str, float]:
        self._jepa.predictor.leave.weight.data.zero_()
        return original(self)

    with replaced(JepaStage, "validate", validate):
        yield


@contextlib.contextmanager
def _refusing(method: str, at: int | None, rank: int = 0, losses: tuple[float, ...] = ()) -> Iterator[None]:
    """The store refuses ``method`` of checkpoint ``at`` (None: always) on this rank."""
    from syllabary.workers.training.engine import world

    original = getattr(CheckpointStore, method)

    def refuse(self: CheckpointStore, *args: Any, **kwargs: Any) -> Any:
        step = args[0].step if args and isinstance(args[0], Manifest) else (args or (None,))[0]
        if world()[0] == rank and (at is None or step == at):
            raise StorageError("no space left")
        return original(self, *args, **kwargs)

    told = _validations(*({"loss": loss} for loss in losses)) if losses else contextlib.nullcontext()
    with replaced(CheckpointStore, method, refuse), told:
        yield


def test_weights_that_are_not_finite_never_become_a_checkpoint_and_leave_their_curve(gang, shards, tmp_path):
    out = tmp_path / "out"
    recipe = training_recipe(pretrain__validate_every=8)
    (error,) = gang.run(_train, _infinite_weights_after, recipe, str(out), shards, 4)
    assert error.startswith(f"DivergedError: step 4 of {out}: jepa.weights is not finite; the last good checkpoint is")
    assert "checkpoint is step 2; lower optimizer.lr" in error
    assert CheckpointStore(str(out)).steps() == [2]
    history = History.from_parquet(store.read_bytes(store.join(str(out), METRICS)))
    assert history.series("train", "loss")[0] == [1, 2, 3, 4]
    assert (out / "curves" / "loss.png").read_bytes().startswith(b"\x89PNG")
    assert outputs.read_done(str(out)) is None


def test_a_loss_that_is_not_finite_is_the_last_of_the_published_metrics(gang, shards, tmp_path):
    out = str(tmp_path / "out")
    (error,) = gang.run(_train, _infinite_weights_after, training_recipe(pretrain__checkpoint_every=8,
                        pretrain__validate_every=8), out, shards, 4)  # fmt: skip
    assert error.startswith("DivergedError: step 5 of ") and "no checkpoint was written yet" in error
    steps, losses = History.from_parquet(store.read_bytes(store.join(out, METRICS))).series("train", "loss")
    assert steps[-1] == 5 and not math.isfinite(losses[-1]) and all(map(math.isfinite, losses[:-1]))


def test_a_validation_that_is_not_finite_stops_the_run(gang, shards, tmp_path):
    out = str(tmp_path / "out")
    (error,) = gang.run(_train, _validations, training_recipe(), out, shards, {}, {"ema_distance": math.nan})
    assert error.startswith("DivergedError: the validation after step 4 of ")
    assert "ema_distance is not finite; the last good checkpoint is step 2" in error


def test_a_collapse_is_told_at_the_validation_that_finds_it(gang, shards, tmp_path):
    out = str(tmp_path / "out")
    (said,) = gang.run(_train, _a_predictor_without_weights, training_recipe(), out, shards)
    assert "step 4: warning: predictions vary by 0, below 0.01: the latents collapse" in said
    (said,) = gang.run(_train, _validations, training_recipe(), str(tmp_path / "well"), shards, {}, {}, {})
    assert "collapse" not in said


def test_the_best_checkpoint_is_one_that_could_be_stored(gang, shards, tmp_path):
    out = str(tmp_path / "out")
    recipe = training_recipe(pretrain__validate_every=2, pretrain__keep_checkpoints=1)
    (said,) = gang.run(_train, _refusing, recipe, out, shards, "put_file", 4, 0, (5.0, 2.0, 1.0, 4.0, 3.0))
    assert "checkpoint of step 4 not stored, training goes on: no space left" in said
    assert CheckpointStore(out).steps() == [2, 8]
    assert outputs.read_done(out)["best_checkpoint_step"] == 2


def test_a_checkpoint_that_cannot_be_committed_leaves_nothing_behind(gang, shards, tmp_path):
    out = tmp_path / "out"
    recipe = training_recipe(pretrain__keep_checkpoints=9)
    (said,) = gang.run(_train, _refusing, recipe, str(out), shards, "commit", 4)
    assert "checkpoint of step 4 not stored, training goes on: no space left" in said
    assert sorted(p.name for p in (out / "checkpoints").iterdir()) == [f"step-0000000{step}" for step in (2, 6, 8)]


def test_old_checkpoints_that_cannot_be_deleted_do_no_harm_to_the_new_ones(gang, shards, tmp_path):
    out = str(tmp_path / "out")
    (said,) = gang.run(_train, _refusing, training_recipe(), out, shards, "retain", None)
    assert "older checkpoints could not be deleted: no space left" in said and "not stored" not in said
    assert CheckpointStore(out).steps() == [2, 4, 6, 8]
    assert outputs.read_done(out)["steps"] == 8


def test_storage_that_fails_one_rank_costs_all_ranks_that_checkpoint_and_hangs_none(two, shards, tmp_path):
    out = str(tmp_path / "out")
    recipe = training_recipe(pretrain__keep_checkpoints=9, pretrain__zero_stage=2)  # every rank has files to store
    said, _ = two.run(_train, _refusing, recipe, out, shards, "put_file", 4, 1)
    assert "checkpoint of step 4 not stored, training goes on: no space left" in said
    assert CheckpointStore(out).steps() == [2, 6, 8]
    assert [CheckpointStore(out).damage(step) for step in (2, 6, 8)] == [None] * 3


def _flip(uri: str) -> None:
    data = bytearray(store.read_bytes(uri))
    data[len(data) // 2] ^= 1
    store.publish_bytes(uri, bytes(data))


def test_a_run_whose_checkpoints_are_all_damaged_does_not_begin_anew(gang, shards, tmp_path):
    out, recipe = str(tmp_path / "out"), training_recipe()
    gang.run(train_here, "pretrain", recipe, out, shards, None, 4)
    checkpoints = CheckpointStore(out)
    for step in (2, 4):
        _flip(checkpoints.of_step(step).join("metrics.parquet"))
    (error,) = gang.run(_train, contextlib.nullcontext, recipe, out, shards)
    assert error.startswith(
        "DamageError: none of 2 checkpoints is whole; skipped the damaged checkpoint of step 4: met"
    )
    assert error.endswith("restore one, or delete that folder to begin anew")
    assert checkpoints.steps() == [2, 4]


def test_a_checkpoint_of_another_recipe_is_refused_by_every_rank_and_kept(two, gang, shards, tmp_path):
    out = str(tmp_path / "out")
    two.run(train_here, "pretrain", training_recipe(), out, shards, None, 4)
    other = training_recipe(pretrain__optimizer__lr=1e-4)
    for error in two.run(_train, contextlib.nullcontext, other, out, shards):
        assert error.startswith("ConfigError: the checkpoint of step 4 is of another recipe: ")
        assert error.endswith("train with the recipe it was written by, or choose another --out")
    (error,) = gang.run(_train, contextlib.nullcontext, training_recipe(), out, shards)  # half the batch
    assert error.startswith("ConfigError: the checkpoint of step 4 is of another recipe")
    assert CheckpointStore(out).damage(4) is None


def test_unreadable_utterances_count_over_all_ranks_and_mended_shards_are_gone_on_with(two, tmp_path):
    uri, out = write_training_shards(str(tmp_path / "shards")), str(tmp_path / "out")
    recipe, rows = training_recipe(), Utterances(uri, "train", 2000)
    # One is met by each rank in the first step: too few for either to stop, of 24 with 5 % allowed.
    harmed = [rows.row(int(epoch_order(recipe.pretrain.seed, 0, len(rows))[place])) for place in (0, 2)]
    whole = {tar: store.read_bytes(tar) for tar in {dataset.shard_uri(uri, row["shard"]) for row in harmed}}
    for row in harmed:
        tar = dataset.shard_uri(uri, row["shard"])
        data = bytearray(store.read_bytes(tar))
        data[row["offset"] + row["size_bytes"] // 2] ^= 0xFF
        store.publish_bytes(tar, bytes(data))
    for error in two.run(_train, contextlib.nullcontext, recipe, out, uri):
        assert error.startswith("InputError: 2 of 24 utterances cannot be read, the last because: shard")
    assert CheckpointStore(out).steps() == [2]
    for tar, data in whole.items():
        store.publish_bytes(tar, data)
    said, _ = two.run(_train, contextlib.nullcontext, recipe, out, uri)
    assert "resumes from the checkpoint of step 2" in said
    assert set(outputs.read_done(out)["quarantined"]) == {row["utterance_id"] for row in harmed}


def test_a_run_says_whether_it_is_validated_on_speakers_it_trains_on(gang, shards, tmp_path):
    (said,) = gang.run(train_here, "pretrain", training_recipe(pretrain__num_steps=1), str(tmp_path / "out"), shards)
    assert said[0] == "validates on 5 speakers and trains on 5; none of them are the same"
    assert trained(str(tmp_path / "out")).series["valid", "loss"]


def test_speakers_of_both_splits_are_counted(monkeypatch):
    from syllabary.workers.training import rank as train_rank

    class Split:
        def __init__(self, uri: str, split: str, sample_rate: int) -> None:
            self.shards_uri, self.sample_rate, self.split = uri, sample_rate, split

        def speakers(self) -> set[str]:
            return {"train": {"a", "b", "c"}, "valid": {"b", "c", "d"}}[self.split]

    monkeypatch.setattr(train_rank, "Utterances", Split)
    line = train_rank.held_out_speakers(Split("shards", "train", 2000))
    assert line == "validates on 3 speakers and trains on 3; 2 of them are the same"


def test_other_limits_are_the_same_run(shards, tmp_path):
    from syllabary.workers.training.claim import claim_run

    changes = ({}, {"pretrain__max_quarantined_percent": 60}, {"pretrain__watch__min_between_clips": 0.1})
    for change in changes:
        recipe = training_recipe(**change)
        assert claim_run(str(Path(tmp_path, "out")), "pretrain", shards, {}, {}, recipe.pretrain) is None


def test_a_code_most_of_whose_dims_never_move_is_told():
    from syllabary.workers.training.history import Validation
    from syllabary.workers.training.watches.training_warnings import codec_warnings

    told = [
        [
            one.text
            for one in codec_warnings(
                training_recipe(), [Validation(0, {"dead_dims": dead})], "mrstft", loss="mrstft", learns=False
            )
        ]
        for dead in (8.0, 9.0)
    ]
    assert told == [[], ["9 of 16 latent dims only ever take one level"]]
