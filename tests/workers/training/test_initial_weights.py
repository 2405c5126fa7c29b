"""What a training may begin with, and what it refuses to."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import save

from syllabary.model.bottleneck import Bottleneck
from syllabary.model.codec import Codec
from syllabary.shards import outputs, store
from syllabary.shards.errors import ConfigError, InputError, NotFoundError
from syllabary.shards.store import pretty_json
from syllabary.workers.control.jobs import ExportJob, TrainCodecJob
from syllabary.workers.recipes.recipe import Recipe, validate
from syllabary.workers.recipes.shipped import NOTHING
from syllabary.workers.tokenizer.tokenizer import save_tokenizer
from syllabary.workers.training import codec as codec_module
from syllabary.workers.training import jepa as jepa_module
from syllabary.workers.training.export import export
from syllabary.workers.training.initial_weights import initial_digest, read_initial
from syllabary.workers.training.jepa import JepaStage
from syllabary.workers.training.stages import encoder_digest
from tests.helpers.small_models import CONFIGS
from tests.helpers.training_testing import prepare_encoder, training_recipe


def spectral_recipe() -> Recipe:
    values = training_recipe().model_dump(mode="json")
    values["model"] = CONFIGS["spectral"].model_dump(mode="json")
    return validate(values)


def trained_codec(recipe: Recipe, seed: int = 5) -> Codec:
    torch.manual_seed(seed)
    return Codec(recipe.model)


def stage_2_run(folder: Path, recipe: Recipe, codec: Codec, *, is_done: bool = True) -> str:
    uri = str(folder)
    outputs.claim(uri, "codec", inputs={}, config={"model": recipe.model.model_dump(mode="json")})
    store.publish_bytes(store.join(uri, "codec.safetensors"), save(codec.state_dict()))
    head = Bottleneck(codec, recipe.model.decoder).head
    store.publish_bytes(store.join(uri, "mel_head.safetensors"), save(head.state_dict()))
    store.publish_bytes(store.join(uri, "config.json"), pretty_json(recipe.model_dump(mode="json")))
    if is_done:
        outputs.mark_done(uri, {"steps": 1})
    return uri


def tokenizer(folder: Path, recipe: Recipe, codec: Codec) -> str:
    states = codec.encoder.state_dict(), codec.generator.state_dict()
    save_tokenizer(str(folder), recipe.model, *states, recipe=recipe.model_dump(mode="json"))
    return str(folder)


@pytest.mark.parametrize("make", [stage_2_run, tokenizer])
def test_encoder_and_decoder_begin_as_the_source_has_them(tmp_path, monkeypatch, make) -> None:
    recipe, standardized = spectral_recipe(), []
    source = trained_codec(recipe)
    uri = make(tmp_path / "source", recipe, source)
    monkeypatch.setattr(codec_module, "standardize_latents", lambda *_: standardized.append(1))
    begun = trained_codec(recipe, seed=6)
    job = SimpleNamespace(init=uri, encoder_uri=NOTHING, recipe=recipe)
    initial = codec_module.begin_codec(begun, SimpleNamespace(job=job))
    assert all(
        torch.equal(a, b) for a, b in zip(source.state_dict().values(), begun.state_dict().values(), strict=True)
    )
    assert not standardized  # the decoder knows these latents as they are
    assert bool(initial.head) == (make is stage_2_run)


def test_a_stage_1_run_gives_its_encoder_alone_and_latents_are_standardized(tmp_path, monkeypatch) -> None:
    recipe, standardized = spectral_recipe(), []
    uri = prepare_encoder(tmp_path / "stage-1", recipe)
    store.publish_bytes(store.join(uri, "config.json"), pretty_json(recipe.model_dump(mode="json")))
    monkeypatch.setattr(codec_module, "standardize_latents", lambda *_: standardized.append(1))
    begun = trained_codec(recipe)
    generator = {k: v.clone() for k, v in begun.generator.state_dict().items()}
    codec_module.begin_codec(begun, SimpleNamespace(job=SimpleNamespace(init=uri, encoder_uri=NOTHING, recipe=recipe)))
    assert standardized
    found = read_initial(uri).encoder
    assert all(torch.equal(found[k], v) for k, v in begun.encoder.state_dict().items())
    assert all(torch.equal(generator[k], v) for k, v in begun.generator.state_dict().items())


@pytest.mark.parametrize("make", [stage_2_run, tokenizer])
def test_both_encoders_of_stage_1_begin_as_the_source_has_its_encoder(tmp_path, monkeypatch, make) -> None:
    recipe = spectral_recipe()
    source = trained_codec(recipe)
    job = SimpleNamespace(recipe=recipe, init=make(tmp_path / "source", recipe, source))
    monkeypatch.setattr(jepa_module, "build_engine", lambda jepa, *_, **__: SimpleNamespace(jepa=jepa))
    setup: Any = SimpleNamespace(job=job, device=torch.device("cpu"), load_universal=False)
    begun = JepaStage(setup).engines["jepa"].jepa
    for encoder in (begun.context_encoder, begun.target_encoder):
        found = encoder.state_dict()
        assert all(torch.equal(found[name], weight) for name, weight in source.encoder.state_dict().items())


def test_other_weights_are_another_beginning(tmp_path) -> None:
    recipe = spectral_recipe()
    one, other = (stage_2_run(tmp_path / str(seed), recipe, trained_codec(recipe, seed)) for seed in (1, 2))
    assert initial_digest(one, recipe) != initial_digest(other, recipe)
    assert initial_digest(NOTHING, recipe) == NOTHING
    assert not read_initial(NOTHING).encoder


def test_what_does_not_fit_is_refused_in_one_line(tmp_path) -> None:
    recipe = spectral_recipe()
    values = recipe.model_dump(mode="json")
    values["model"]["decoder"]["kernel"] = 5
    wider, uri = validate(values), stage_2_run(tmp_path / "run", recipe, trained_codec(recipe))
    with pytest.raises(
        ConfigError, match=r"model\.decoder\.kernel is 5, but the decoder at .* was trained with 7; use"
    ):
        initial_digest(uri, wider)
    unfinished = stage_2_run(tmp_path / "unfinished", recipe, trained_codec(recipe), is_done=False)
    with pytest.raises(InputError, match="the run to begin with is not complete"):
        initial_digest(unfinished, recipe)
    with pytest.raises(NotFoundError):
        initial_digest(str(tmp_path / "nothing"), recipe)


def test_one_beginning_at_most_and_one_at_least_where_the_encoder_rests(tmp_path) -> None:
    recipe = spectral_recipe()
    job = TrainCodecJob(shards="s", out="o", encoder="e", init="i")
    with pytest.raises(ConfigError, match="two encoders to begin with: '--encoder e --init i'"):
        encoder_digest(job, recipe)
    with pytest.raises(ConfigError, match="an untrained encoder that stage 2 leaves at rest would stay so"):
        encoder_digest(TrainCodecJob(shards="s", out="o"), recipe)
    assert encoder_digest(TrainCodecJob(shards="s", out="o", init="i"), recipe) == NOTHING


def test_an_export_in_half_precision_is_begun_with_as_it_was_stored(tmp_path) -> None:
    """Export of a stage-2 run: rounded weights, the mel head beside them, and the same encoder exported again."""
    recipe = spectral_recipe()
    codec = trained_codec(recipe)
    run = stage_2_run(tmp_path / "run", recipe, codec)
    first = export(ExportJob(codec=run, out=str(tmp_path / "half"), dtype="float16"))
    begun = read_initial(str(tmp_path / "half"))
    for name, weight in codec.encoder.state_dict().items():
        assert torch.equal(begun.encoder[name], weight.half().float())
    whole = read_initial(run)
    assert begun.head.keys() == whole.head.keys() and begun.head
    assert all(torch.equal(begun.head[name], weight) for name, weight in whole.head.items())

    # a decoder trained on from the export, its encoder at rest: the same tokens, another sound
    codec.encoder.load_state_dict(begun.encoder)
    with torch.no_grad():
        next(codec.generator.parameters()).add_(0.1)
    on = stage_2_run(tmp_path / "on", recipe, codec)
    second = export(ExportJob(codec=on, out=str(tmp_path / "v2"), dtype="float16"))
    assert second["encoder_digest"] == first["encoder_digest"]
    assert second["decoder_digest"] != first["decoder_digest"]
    assert initial_digest(str(tmp_path / "half"), recipe) != initial_digest(str(tmp_path / "v2"), recipe)
