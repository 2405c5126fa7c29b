"""The formulas of a plan: each scales as its words say, and their sums hold, for any corpus, machine and rates."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from syllabary.workers.forecast.formulas import (
    FORMULAS,
    Corpus,
    Machine,
    Prediction,
    Sizes,
    StageRates,
    archive_bytes_per_s,
    clip_s,
    predict,
    training_audio_h,
)
from syllabary.workers.recipes.bitrates import rates_of
from syllabary.workers.recipes.named import RECIPES, resolve

positive = st.floats(1e-3, 1e6)
corpora = st.builds(
    Corpus, name=st.just("c"), hours=positive, stored_fraction=st.floats(0.01, 1), flac_bytes_per_s=positive
)
machines = st.builds(
    Machine, name=st.just("m"), cores=st.integers(1, 4096), gpus=st.integers(0, 512), efficiency=st.floats(0.1, 1),
    price_core_hour=st.floats(0, 10), price_gpu_hour=st.floats(0, 100),
)  # fmt: skip
rates = st.builds(StageRates, **dict.fromkeys(StageRates.model_fields, positive))
recipes = st.sampled_from(sorted(RECIPES)).map(resolve)
SIZES = Sizes(encoder=1000, predictor=100, decoder=500, discriminators=300)


@given(corpora, machines, rates, recipes)
def test_sums_and_units(corpus: Corpus, machine: Machine, rate: StageRates, recipe: object) -> None:
    found = predict(corpus, machine, rate, recipe, SIZES)  # type: ignore[arg-type]
    parts = [getattr(found, name) for name in ("shard_h", "pretrain_h", "codec_h", "tokenize_h", "restore_h")]
    assert found.total_h == pytest.approx(sum(parts))
    assert all(part > 0 for part in parts)
    model_h = (found.total_h - found.shard_h) * machine.workers
    assert found.gpu_hours == pytest.approx(model_h if machine.gpus else 0, rel=1e-6)
    assert found.core_hours == pytest.approx(found.shard_h * machine.cores + (0 if machine.gpus else model_h), rel=1e-6)
    prices = found.core_hours * machine.price_core_hour + found.gpu_hours * machine.price_gpu_hour
    assert found.cost == pytest.approx(prices)
    assert found.shards_bytes == pytest.approx(found.stored_h * 3600 * corpus.flac_bytes_per_s)


@given(corpora, machines, rates, recipes, st.floats(1.5, 100))
def test_a_longer_corpus_costs_in_proportion_and_trains_no_longer(
    corpus: Corpus, machine: Machine, rate: StageRates, recipe: object, factor: float
) -> None:
    longer = corpus.model_copy(update={"hours": corpus.hours * factor})
    one, more = (predict(c, machine, rate, recipe, SIZES) for c in (corpus, longer))  # type: ignore[arg-type]
    for name in ("shard_h", "tokenize_h", "restore_h", "tokens", "shards_bytes", "archive_bytes"):
        assert getattr(more, name) == pytest.approx(getattr(one, name) * factor)
    assert (more.pretrain_h, more.codec_h, more.checkpoints_bytes) == (
        one.pretrain_h, one.codec_h, one.checkpoints_bytes
    )  # fmt: skip


@given(corpora, machines, rates, recipes, st.integers(2, 64))
def test_more_workers_divide_hours_and_not_core_hours(
    corpus: Corpus, machine: Machine, rate: StageRates, recipe: object, factor: int
) -> None:
    wider = machine.model_copy(update={"cores": machine.cores * factor, "gpus": machine.gpus * factor})
    one, more = (predict(corpus, m, rate, recipe, SIZES) for m in (machine, wider))  # type: ignore[arg-type]
    for name in ("shard_h", "pretrain_h", "codec_h", "tokenize_h", "restore_h"):
        assert getattr(more, name) == pytest.approx(getattr(one, name) / factor)
    assert (more.core_hours, more.gpu_hours, more.cost) == pytest.approx((one.core_hours, one.gpu_hours, one.cost))


@given(corpora, machines, rates, recipes, st.floats(1.5, 100))
def test_each_rate_moves_its_own_stage_only(
    corpus: Corpus, machine: Machine, rate: StageRates, recipe: object, factor: float
) -> None:
    before = predict(corpus, machine, rate, recipe, SIZES)  # type: ignore[arg-type]
    moved = {"shard": "shard_h", "pretrain": "pretrain_h", "encode": "tokenize_h", "decode": "restore_h"}
    for name, hours in moved.items():
        faster = rate.model_copy(update={name: getattr(rate, name) * factor})
        after = predict(corpus, machine, faster, recipe, SIZES)  # type: ignore[arg-type]
        assert getattr(after, hours) == pytest.approx(getattr(before, hours) / factor)
        for other in set(moved.values()) - {hours}:
            assert getattr(after, other) == getattr(before, other)


def test_the_papers_own_figures_by_hand() -> None:
    """1,000 h at 47.5 tokens/s; 24,000 steps of 32 clips of 15 s; 8 GPUs at known rates."""
    recipe = resolve("paper")
    rate = StageRates(shard=500, pretrain=100, codec=50, adversarial=25, encode=200, decode=80)
    machine = Machine(name="m", cores=10, gpus=8, efficiency=0.5, price_core_hour=0.1, price_gpu_hour=2)
    found = predict(Corpus(name="c", hours=1000, stored_fraction=0.5), machine, rate, recipe, SIZES)
    assert found.tokens == 500 * 3600 * 47.5
    assert found.shard_h == 1000 / 5000
    assert clip_s(recipe, recipe.pretrain) == min(recipe.model.framing.window_samples / 24_000, 15.0)
    batch = recipe.pretrain.num_workers * recipe.pretrain.micro_batch_size * recipe.pretrain.grad_accum_steps
    seen_h = recipe.pretrain.num_steps * batch * clip_s(recipe, recipe.pretrain) / 3600
    assert training_audio_h(recipe, recipe.pretrain) == pytest.approx(seen_h)
    assert found.pretrain_h == pytest.approx(seen_h / (100 * 8 * 0.5))
    early, late = 5_000, recipe.codec.num_steps - 5_000
    clip = 8 * clip_s(recipe, recipe.codec) / 3600
    assert found.codec_h == pytest.approx(clip * (early / 50 + late / 25) / (8 * 0.5))
    assert found.tokenize_h == 500 / (200 * 8)
    assert found.cost == pytest.approx(found.core_hours * 0.1 + found.gpu_hours * 2)


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_an_archive_is_never_smaller_than_its_information(name: str) -> None:
    recipe = resolve(name)
    assert archive_bytes_per_s(recipe) > rates_of(recipe.model).payload_bits_per_s / 8


def test_every_figure_has_its_formula() -> None:
    assert set(Prediction.model_fields) <= set(FORMULAS)
