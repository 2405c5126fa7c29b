"""What training refuses, each in one line that names the fix, and what it survives."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import soundfile

from syllabary.shards import dataset, outputs, store
from syllabary.shards.errors import ConfigError, ConflictError, FormatError, InputError, NotFoundError
from syllabary.shards.store import pretty_json
from syllabary.workers.control.jobs import ExportJob, PretrainJob, TrainCodecJob
from syllabary.workers.training.checkpoints import CheckpointStore
from syllabary.workers.training.export import export
from syllabary.workers.training.stages import pretrain, train_codec
from tests.helpers.training_testing import Gang, Lines, prepare_encoder, training_recipe, write_training_shards


@pytest.fixture(scope="module")
def shards(tmp_path_factory) -> str:
    return write_training_shards(str(tmp_path_factory.mktemp("bad") / "shards"))


@pytest.fixture(scope="module")
def gang() -> Any:
    with Gang(1) as single:
        yield single


@pytest.fixture
def config(tmp_path) -> str:
    path = tmp_path / "recipe.yaml"
    path.write_bytes(pretty_json({k: v for k, v in training_recipe().model_dump(mode="json").items() if k != "name"}))
    return str(path)


def _one_line(error: pytest.ExceptionInfo[BaseException]) -> str:
    assert "\n" not in str(error.value)
    return str(error.value)


def test_no_shards(tmp_path, config):
    with pytest.raises(NotFoundError) as error:
        pretrain(PretrainJob(shards=str(tmp_path / "none"), out=str(tmp_path / "out"), config=config))
    assert "none" in _one_line(error)
    assert not (tmp_path / "out").exists()


def test_incomplete_shards(tmp_path, config):
    outputs.claim(str(tmp_path / "shards"), "shards", inputs={}, config={})
    with pytest.raises(InputError, match=r"not complete.*run `syllabary shard` again"):
        pretrain(PretrainJob(shards=str(tmp_path / "shards"), out=str(tmp_path / "out"), config=config))
    assert not (tmp_path / "out").exists()


def test_the_output_of_another_recipe(shards, tmp_path, config):
    out = str(tmp_path / "out")
    recipe = training_recipe()
    from syllabary.workers.training.claim import claim_run

    model = {"encoder": recipe.model.encoder.model_dump(mode="json"), "jepa": recipe.model.jepa.model_dump(mode="json")}
    claim_run(out, "pretrain", shards, {}, model, recipe.pretrain)
    overrides = ("pretrain.optimizer.lr=0.5",)
    with pytest.raises(ConflictError, match=r"config\.train\.optimizer\.lr was 0\.0003 and is now 0\.5"):
        pretrain(PretrainJob(shards=shards, out=out, config=config, overrides=overrides))
    overrides = ("pretrain.num_workers=2",)
    with pytest.raises(ConflictError, match=r"global_batch_size was 2 and is now 4"):
        pretrain(PretrainJob(shards=shards, out=out, config=config, overrides=overrides))


def test_an_unknown_setting_is_refused_and_not_ignored(shards, tmp_path, config):
    job = PretrainJob(shards=shards, out=str(tmp_path / "out"), config=config, overrides=("pretrain.zero_stge=1",))
    with pytest.raises(ConfigError, match=r"unknown configuration key: 'pretrain.zero_stge'"):
        pretrain(job)


def test_an_encoder_of_another_recipe(shards, tmp_path, config):
    encoder = prepare_encoder(tmp_path / "encoder", training_recipe())
    job = TrainCodecJob(
        shards=shards, encoder=encoder, out=str(tmp_path / "out"), config=config,
        overrides=("model.encoder.latent_dim=32",),
    )  # fmt: skip
    with pytest.raises(ConfigError, match=r"model\.encoder\.latent_dim is 32, but the encoder at .* with 16"):
        train_codec(job)
    assert not (tmp_path / "out").exists()


def test_an_encoder_whose_run_is_not_complete_or_no_encoder_at_all(shards, tmp_path, config):
    encoder = prepare_encoder(tmp_path / "encoder", training_recipe())
    store.delete(store.join(encoder, outputs.DONE))
    out = str(tmp_path / "out")
    with pytest.raises(InputError, match=r"stage-1 run is not complete.*it resumes"):
        train_codec(TrainCodecJob(shards=shards, encoder=encoder, out=out, config=config))
    with pytest.raises(FormatError, match=r"wrong kind of output .* expected pretrain"):
        train_codec(TrainCodecJob(shards=shards, encoder=shards, out=out, config=config))


def test_weights_that_do_not_fit_the_encoder_they_claim_to_be(tmp_path):
    from syllabary.model.codec import Codec
    from syllabary.workers.training.codec import load_encoder

    encoder = prepare_encoder(tmp_path / "encoder", training_recipe())
    codec = Codec(training_recipe(model__encoder__latent_dim=32).model)
    with pytest.raises(
        ConfigError, match=r"does not fit this recipe: \d+ weights differ, the first: 'conformers"
    ) as error:
        load_encoder(codec, encoder)
    _one_line(error)


def test_export_of_an_unfinished_run(tmp_path):
    outputs.claim(str(tmp_path / "codec"), "codec", inputs={}, config={})
    with pytest.raises(InputError, match=r"stage-2 run is not complete"):
        export(ExportJob(codec=str(tmp_path / "codec"), out=str(tmp_path / "tokenizer")))
    assert not (tmp_path / "tokenizer").exists()


def _train_with(patch: str, recipe: Any, out: str, shards: str) -> tuple[list[str], str]:
    """Run stage 1 on this rank with something broken; what it said, and the error that ended it."""
    import torch

    from syllabary.shards.errors import StorageError, SyllabaryError
    from syllabary.workers.training.driver import RankJob
    from syllabary.workers.training.jepa import JepaStage, train_jepa_rank

    lines = Lines()
    put, step = CheckpointStore.put_file, JepaStage.train_step

    def full_disk(self: CheckpointStore, number: int, name: str, local: Path) -> Any:
        if number == 4:
            raise StorageError("cannot write, no space left")
        return put(self, number, name, local)

    def not_a_number(self: Any, number: int, *args: Any, **kwargs: Any) -> dict[str, float]:
        if number == 5:
            with torch.no_grad():
                next(self._jepa.predictor.parameters()).fill_(float("nan"))
        return step(self, number, *args, **kwargs)

    if patch == "full_disk":
        CheckpointStore.put_file = full_disk  # type: ignore[method-assign]
    else:
        JepaStage.train_step = not_a_number  # type: ignore[method-assign]
    try:
        train_jepa_rank(RankJob(out, shards, recipe, lines))
    except SyllabaryError as error:
        return lines.said, f"{type(error).__name__}: {error}"
    finally:
        CheckpointStore.put_file, JepaStage.train_step = put, step  # type: ignore[method-assign]
    return lines.said, ""


def test_storage_that_fails_while_saving_leaves_the_previous_checkpoint_and_the_run_goes_on(gang, shards, tmp_path):
    out = str(tmp_path / "out")
    recipe = training_recipe(pretrain__keep_checkpoints=9)
    ((said, error),) = gang.run(_train_with, "full_disk", recipe, out, shards)
    assert error == ""
    assert any("checkpoint of step 4 not stored, training goes on: cannot write, no space left" in s for s in said)
    assert CheckpointStore(out).steps() == [2, 6, 8]
    assert [CheckpointStore(out).damage(step) for step in (2, 6, 8)] == [None] * 3


def test_storage_that_fails_at_the_end_stops_the_run_with_what_to_do(gang, shards, tmp_path):
    out = str(tmp_path / "out")
    ((_, error),) = gang.run(_train_with, "full_disk", training_recipe(pretrain__num_steps=4), out, shards)
    assert error.startswith("StorageError: the last checkpoint cannot be stored: cannot write, no space left; mend the")
    assert CheckpointStore(out).steps() == [2]
    assert outputs.read_done(out) is None


def test_clips_too_short_to_mask_are_refused(gang, shards, tmp_path):
    out, recipe = str(tmp_path / "out"), training_recipe(pretrain__crop_s=0.06, model__encoder__window_s=0.06)
    ((_, error),) = gang.run(_train_with, "full_disk", recipe, out, shards)
    assert error.startswith("InputError: frames to predict in the validation clips: 0; expected floor(0.5 * frames)")
    assert "raise pretrain.crop_s" in error
    assert CheckpointStore(out).steps() == []


def _train_on_a_full_disk(recipe: Any, out: str, shards: str) -> list[str]:
    """Run stage 1 on this rank; at step 4 the kernel takes no more than 4 KiB of a file."""
    import resource

    from syllabary.workers.training import loop as train_loop
    from syllabary.workers.training.driver import RankJob
    from syllabary.workers.training.jepa import train_jepa_rank

    lines, save = Lines(), train_loop.save_engines
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)

    def limited(engines: Any, checkpoints: CheckpointStore, step: int, history: Any) -> Any:
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096 if step == 4 else soft, hard))
        try:
            return save(engines, checkpoints, step, history)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    train_loop.save_engines = limited
    try:
        train_jepa_rank(RankJob(out, shards, recipe, lines))
    finally:
        train_loop.save_engines = save
    return lines.said


@pytest.mark.parametrize("zero", [0, 2])
def test_a_disk_that_takes_no_more_loses_that_checkpoint_and_nothing_else(gang, shards, tmp_path, zero):
    out = tmp_path / "out"
    recipe = training_recipe(pretrain__keep_checkpoints=9, pretrain__zero_stage=zero)
    (said,) = gang.run(_train_on_a_full_disk, recipe, str(out), shards)
    assert any("checkpoint of step 4 not stored, training goes on: cannot write" in line for line in said)
    checkpoints = CheckpointStore(str(out))
    assert checkpoints.steps() == [2, 6, 8]
    assert [checkpoints.damage(step) for step in (2, 6, 8)] == [None] * 3
    assert {path.name for path in (out / "checkpoints").iterdir()} == {f"step-0000000{step}" for step in (2, 6, 8)}


def test_nan_stops_the_run_and_names_the_last_good_checkpoint(gang, shards, tmp_path):
    out = str(tmp_path / "out")
    ((_, error),) = gang.run(_train_with, "nan", training_recipe(), out, shards)
    assert error.startswith("DivergedError: step 5 of ")
    assert "loss" in error and "is not finite; the last good checkpoint is step 4" in error
    assert CheckpointStore(out).steps() == [2, 4]


def _train_while_a_shard_vanishes(recipe: Any, out: str, shards: str, victim: str) -> list[str]:
    """Run stage 1 on this rank; ``victim`` is deleted before step 2."""
    from syllabary.workers.training.driver import RankJob
    from syllabary.workers.training.jepa import JepaStage, train_jepa_rank

    lines, step = Lines(), JepaStage.train_step

    def deleting(self: Any, number: int, *args: Any, **kwargs: Any) -> dict[str, float]:
        if number == 2:
            store.delete(victim)
        return step(self, number, *args, **kwargs)

    JepaStage.train_step = deleting  # type: ignore[method-assign]
    try:
        train_jepa_rank(RankJob(out, shards, recipe, lines))
    finally:
        JepaStage.train_step = step  # type: ignore[method-assign]
    return lines.said


def test_a_shard_that_vanishes_during_training_is_quarantined_and_the_run_goes_on(gang, tmp_path):
    shards, out = write_training_shards(str(tmp_path / "shards")), str(tmp_path / "out")
    recipe = training_recipe(pretrain__max_quarantined_percent=60)
    victim = dataset.shard_uri(shards, "train-000001")
    (said,) = gang.run(_train_while_a_shard_vanishes, recipe, out, shards, victim)
    done = outputs.read_done(out)
    assert done is not None and done["steps"] == 8
    assert done["quarantined"]
    lost = {f"train-{number:04d}" for number in range(1, 24, 2)}
    assert set(done["quarantined"]) <= lost
    for utterance, reason in done["quarantined"].items():
        assert "train-000001" in reason
        assert sum(line.startswith(f"quarantined {utterance}: ") for line in said) == 1


def _codec_run(recipe: Any, out: str, shards: str, encoder: str) -> None:
    from syllabary.workers.training.bottleneck_first import train_codec_rank
    from syllabary.workers.training.driver import RankJob

    train_codec_rank(RankJob(out, shards, recipe, Lines(), encoder))


def test_a_codec_run_leaves_samples_to_hear_and_curves_to_see(gang, shards, tmp_path):
    encoder = prepare_encoder(tmp_path / "encoder", training_recipe())
    out = tmp_path / "out"
    recipe = training_recipe(codec__num_steps=4, codec__num_samples_kept=1)
    gang.run(_codec_run, recipe, str(out), shards, encoder)
    original, rate = soundfile.read(out / "samples" / "clip-0" / "original.flac")
    rebuilt, _ = soundfile.read(out / "samples" / "clip-0" / "step-00000004.flac")
    assert rate == recipe.model.encoder.sample_rate
    assert len(rebuilt) == len(original)
    for picture in ("samples/clip-0/step-00000004.png", "curves/mrstft.png", "curves/overview.png"):
        assert (out / picture).read_bytes().startswith(b"\x89PNG")
    done = json.loads((out / "done.json").read_text())
    assert done["steps"] == 4
    assert done["final_valid_mrstft"] < done["first_valid_mrstft"]
