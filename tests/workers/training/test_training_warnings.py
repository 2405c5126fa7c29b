"""What a run warns of: limits and from when they hold, rates that diverge or freeze, and what done.json keeps."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from syllabary.workers.recipes.recipe import CodecTrainConfig, WatchConfig
from syllabary.workers.training.bottleneck_first import PhasedCodecStage
from syllabary.workers.training.history import History, Validation
from syllabary.workers.training.watches.training_warnings import Warned, Watched, summed_up, warnings_of
from tests.helpers.training_testing import phased_recipe, training_recipe

TRAIN = training_recipe(codec__num_steps=100, codec__optimizer__warmup_steps=20).codec
WELL = {
    "held_out_clips": 32.0, "input_peak_db": -6.0, "input_spread_db": 9.0, "between_clips": 0.8,
    "level_entropy_given_place": 1.7, "level_entropy_bits": 1.9, "mrstft": 1.5, "mrstft_right": 1.5,
    "mrstft_shuffled": 1.7, "mrstft_other": 1.75, "mrstft_constant": 1.9, "token_gain": 0.12, "relative_loss": 0.4,
}  # fmt: skip
FIRST = WELL | {"mrstft": 2.5, "level_entropy_bits": 1.8}


def names(step: int, found: dict[str, float], *, train: CodecTrainConfig = TRAIN, learns: bool = True) -> set[str]:
    validations = [Validation(0, FIRST), Validation(step, WELL | found)] if step else [Validation(0, WELL | found)]
    return {one.name for one in told(validations, train, learns=learns)}


def told(validations: list[Validation], train: CodecTrainConfig = TRAIN, *, learns: bool = True) -> list[Warned]:
    return warnings_of(Watched(validations, train, "codec", "mrstft", 4, learns_digits=learns, headline="mrstft"))


@pytest.mark.parametrize(
    ("name", "figure", "passes", "warns", "from_step"),
    [
        ("between_clips", "between_clips", 0.3, 0.29, 0),
        ("entropy_given_place", "level_entropy_given_place", 0.5, 0.49, 0),
        ("relative_loss", "relative_loss", 0.95, 0.96, 50),
        ("token_gain", "token_gain", 0.02, 0.019, 21),
    ],
)
def test_each_limit_is_looked_at_from_its_step_on(name, figure, passes, warns, from_step):
    for step in (0, 20, 21, 49, 50, 100):
        assert names(step, {figure: passes}) == set()
        assert names(step, {figure: warns}) == ({name} if step >= from_step else set())


def test_a_long_stage_1_that_predicts_nothing_is_told_within_minutes():
    """Not half of its steps later: 500 steps past the warm-up. What must have moved from its start has its time."""
    long = training_recipe(codec__num_steps=24_000, codec__optimizer__warmup_steps=2_400).codec
    still = {"relative_loss": 0.96, "mrstft": 2.5, "level_entropy_bits": 1.8}
    for step, warned in ((2_400, set()), (2_899, set()), (2_900, {"relative_loss"}), (11_999, {"relative_loss"})):
        assert names(step, still, train=long) == warned
    assert names(12_000, still, train=long) == {"relative_loss", "frozen", "frozen_digits"}


def test_limits_are_the_recipes():
    strict = TRAIN.model_copy(update={"watch": WatchConfig(min_between_clips=0.9, min_token_gain=0.2)})
    assert names(50, {}, train=strict) == {"between_clips", "token_gain"}
    assert names(
        50, {"between_clips": 0.0}, train=TRAIN.model_copy(update={"watch": WatchConfig(min_between_clips=0)})
    ) == (set())


def test_training_that_makes_it_worse_is_told_past_the_warm_up():
    assert names(20, {"mrstft": 2.76}) == set()
    assert names(21, {"mrstft": 2.74}) == set()
    (warned,) = told([Validation(0, FIRST), Validation(21, WELL | {"mrstft": 2.76})])
    assert warned.name == "diverges" and warned.text == (
        "training makes it worse: mrstft 2.5000 before training, 2.7600 after 21 steps; "
        "lower codec.optimizer.lr (0.0003) or raise codec.optimizer.warmup_steps"
    )


def test_a_rate_at_which_nothing_moves_is_told_in_the_second_half():
    assert names(49, {"mrstft": 2.49, "level_entropy_bits": 1.8}) == set()
    assert names(50, {"mrstft": 2.49, "level_entropy_bits": 1.8}) == {"frozen", "frozen_digits"}
    assert names(50, {"mrstft": 2.49, "level_entropy_bits": 1.8}, learns=False) == {"frozen"}
    assert names(50, {"mrstft": 2.4, "level_entropy_bits": 1.802}) == set()


def test_digits_that_use_all_bits_from_the_start_and_are_needed_are_not_frozen():
    """Standardized latents begin near two bits and stay there: only whether the decoder needs them tells."""
    needed, hardly = ({"mrstft": 2.0, "level_entropy_bits": 1.8, "token_gain": gain} for gain in (0.5, 0.05))
    assert names(50, needed) == set()
    assert names(50, hardly) == {"frozen_digits"}


@pytest.mark.parametrize("learns", [True, False])
def test_what_to_change_follows_from_whether_this_stage_trains_the_encoder(learns):
    (warned,) = told([Validation(0, WELL | {"between_clips": 0.03})], learns=learns)
    fix = "use a recipe whose signal arrives" if learns else "train the encoder of stage 1 anew"
    assert "(97 % of their variance), hardly the speech: " in warned.text and fix in warned.text
    (warned,) = told([Validation(0, FIRST), Validation(30, WELL | {"between_clips": 0.03})], learns=learns)
    fix = "lower codec.optimizer.lr (0.0003) or raise" if learns else "train the encoder of stage 1 anew"
    assert fix in warned.text


def test_the_token_gain_names_the_wrong_tokens_that_do_as_well():
    found = WELL | {"token_gain": 0.001, "mrstft_right": 1.890, "mrstft_other": 1.8921}
    (warned,) = told([Validation(0, FIRST), Validation(30, found | {"mrstft_shuffled": 1.9, "mrstft_constant": 1.95})])
    assert "mrstft 1.8900 with the right ones, 1.8921 with another utterance's tokens (0.1 % gained)" in warned.text


@pytest.mark.parametrize(
    ("found", "text"),
    [
        ({"input_peak_db": -120.0}, "32 held-out clips, silence only (peak -120 dB)"),
        ({"input_spread_db": 0.0}, "32 held-out clips, all alike (0 dB apart at one place)"),
        ({"input_spread_db": None}, "32 held-out clips, no place in them shared by 4"),
        ({"input_spread_db": None, "held_out_clips": 1.0}, "1 held-out clip, no place in them shared by 4"),
    ],
)
def test_a_corpus_that_tells_nothing_is_told_alone(found, text):
    values = {k: v for k, v in (WELL | {"between_clips": 0.0, "token_gain": 0.0} | found).items() if v is not None}
    (warned,) = told([Validation(0, FIRST), Validation(60, values)])
    assert warned.text.startswith(text)


@pytest.mark.parametrize(
    ("figure", "passes", "warns", "name"),
    [("input_peak_db", -79.0, -81.0, "silence"), ("input_spread_db", 0.11, 0.09, "alike")],
)
def test_a_quiet_corpus_or_one_of_like_clips_is_still_one(figure, passes, warns, name):
    assert names(60, {figure: passes}) == set()
    assert names(60, {figure: warns}) == {name}


def test_a_warning_is_kept_once_with_the_steps_between_which_it_was_given():
    told_at = [
        (0, [Warned("a", "a of 0")]),
        (5, [Warned("b", "b of 5"), Warned("a", "a of 5")]),
        (9, [Warned("b", "b of 9")]),
    ]
    assert summed_up(told_at) == [
        {"name": "a", "first_step": 0, "last_step": 5, "text": "a of 5"},
        {"name": "b", "first_step": 5, "last_step": 9, "text": "b of 9"},
    ]


def test_the_history_gives_back_its_validations():
    history = History()
    for step, loss in ((0, 3.0), (4, 2.0)):
        history.add(step, "train", {"loss": -1.0})
        history.add(step, "valid", {"loss": loss, "other": step})
    assert history.validations() == [(0, {"loss": 3.0, "other": 0.0}), (4, {"loss": 2.0, "other": 4.0})]


def test_dims_that_say_the_same_are_told():
    """A stage 1 whose rank fell to 20 of 128 had all other watches well and probes below the untrained encoder's."""
    kept = {"latent_rank_given_place": 30.0, "latent_dims": 128.0}
    assert names(50, kept) == set()
    assert names(50, kept | {"latent_rank_given_place": 20.0}) == {"rank_given_place"}
    (warned,) = told([Validation(0, FIRST), Validation(50, WELL | kept | {"latent_rank_given_place": 20.0})])
    assert "128 dims say what 20 could" in warned.text and "covariance_weight" in warned.text
    lower, anew = (
        "lower codec.optimizer.lr (0.0003) or raise",
        "train the encoder of stage 1 anew, at a lower pretrain.",
    )
    assert lower in warned.text and anew not in warned.text
    (warned,) = told([Validation(0, WELL | kept | {"latent_rank_given_place": 20.0})], learns=False)
    assert anew in warned.text  # nothing that this stage could change


@pytest.mark.parametrize(
    ("step", "learned", "expected"),
    [
        (40, 0, {"token_gain", "frozen_digits"}),  # the head is judged
        (41, 1, set()),  # the vocoder's first attempts are not
        (50, 10, set()),
        (51, 11, {"token_gain", "frozen_digits"}),
    ],
)
def test_tokens_are_not_judged_by_the_first_attempts_of_a_vocoder(step, learned, expected):
    recipe = phased_recipe(
        codec__num_steps=60, codec__bottleneck__share=2 / 3, codec__vocoder__optimizer__warmup_steps=10,
        codec__optimizer__warmup_steps=5, codec__watch__late_fraction=0.1,
    )  # fmt: skip
    stage = object.__new__(PhasedCodecStage)
    stage._config, stage._job = recipe.codec, SimpleNamespace(recipe=recipe)
    assert step - recipe.codec.bottleneck_steps == learned
    bits = {"level_entropy_bits": 1.9, "token_gain": 0.01, "mel_head": 0.9, "mel_right": 0.9, "mel_other": 0.9}
    found = stage.warnings([Validation(0, WELL | bits | {"mel_head": 2.0}), Validation(step, WELL | bits)])
    assert {one.name for one in found} == expected


@pytest.mark.parametrize(("share", "expected"), [(0.5, {"frozen"}), (0.001, set())])
def test_a_run_for_the_vocoder_is_not_told_that_its_head_learns_nothing(share, expected):
    recipe = phased_recipe(
        codec__num_steps=60, codec__bottleneck__share=share, codec__bottleneck__encoder_lr_fraction=0.0,
        codec__vocoder__optimizer__warmup_steps=1, codec__optimizer__warmup_steps=5,
    )  # fmt: skip
    stage = object.__new__(PhasedCodecStage)
    stage._config, stage._job = recipe.codec, SimpleNamespace(recipe=recipe)
    found = stage.warnings([Validation(0, WELL | {"mel_head": 0.5}), Validation(50, WELL | {"mel_head": 0.5})])
    assert {one.name for one in found} == expected
