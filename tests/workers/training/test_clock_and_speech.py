"""An encoder that is a clock on purpose, and one that hears: every watch finds the one and is content with the other.

The hearing one writes the level of 16 bands of each frame into its latents, and its decoder makes noise of those
levels; both are made of FFTs here, so nothing is trained and what must come out is known.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from syllabary.model.codec import Codec
from syllabary.model.encoder import EncodeOutput
from syllabary.model.jepa import Jepa
from syllabary.model.layers import valid_mask
from syllabary.workers.recipes.recipe import WatchConfig
from syllabary.workers.training.codec import heard_mrstft, validate_codec
from syllabary.workers.training.data.clips import Batch
from syllabary.workers.training.data.epoch_order import Slot
from syllabary.workers.training.history import Validation
from syllabary.workers.training.jepa import JepaStage, _other_clips, _Predictions, validate_jepa
from syllabary.workers.training.watches import token_gain as watched_gain
from syllabary.workers.training.watches.frames import band_levels, held_out_frames
from syllabary.workers.training.watches.health import input_health
from syllabary.workers.training.watches.token_gain import Headline, Means, try_tokens
from syllabary.workers.training.watches.training_warnings import codec_warnings
from tests.helpers.small_models import CONFIGS, HOP
from tests.helpers.training_testing import training_recipe

FRAMES, DIM, CLIPS = 10, 16, 12
CPU = torch.device("cpu")
RECIPE = training_recipe()
EVERY_WATCH = {"between_clips", "entropy_given_place", "rank_given_place"}  # of latents and digits, in both stages
EDGES = [1 + round(60 * k / DIM) for k in range(DIM + 1)]


def speech(number: int, num_frames: int = FRAMES, gain: float = 1.0) -> Tensor:
    """Noise whose 16 bands come and go frame by frame, other ones in every clip."""
    generator = torch.Generator().manual_seed(number)
    levels = torch.randn(num_frames, DIM, generator=generator)
    return gain * voice(levels, seed=100 + number).clamp(-1, 1)


def voice(levels: Tensor, seed: int) -> Tensor:
    """Samples of frames whose bands have these log magnitudes [frames, bands]."""
    generator, spectrum = torch.Generator().manual_seed(seed), torch.zeros(len(levels), HOP // 2 + 1)
    for band, (low, high) in enumerate(pairwise(EDGES)):
        spectrum[:, low:high] = levels[:, band, None].exp()
    phases = 6.2832 * torch.rand(spectrum.shape, generator=generator)
    return torch.fft.irfft(torch.polar(spectrum, phases), HOP).flatten()


def batches(clips: list[Tensor], size: int = 5) -> list[Batch]:
    found = []
    for first in range(0, len(clips), size):
        chosen = clips[first : first + size]
        padded = torch.nn.utils.rnn.pad_sequence(chosen, batch_first=True)
        slots = tuple(Slot(first + k, first + k) for k in range(len(chosen)))
        found.append(Batch(padded, torch.tensor([len(clip) for clip in chosen]), slots))
    return found


def spoken(count: int = CLIPS) -> list[Batch]:
    """Clips of 8 to 10 frames."""
    return batches([speech(k, FRAMES - k % 3) for k in range(count)])


class Hearing(nn.Module):
    """Latents are the log magnitudes of 16 bands, about standard normal."""

    def forward(self, waveform: Tensor, num_samples: Tensor) -> EncodeOutput:
        frames = waveform.unfold(1, HOP, HOP)
        magnitude = torch.fft.rfft(frames, dim=-1).abs()
        bands = [magnitude[..., low:high].mean(dim=-1) for low, high in pairwise(EDGES)]
        num_frames = -(-num_samples // HOP)
        latents = (torch.stack(bands, dim=1) + 1e-4).log()
        return EncodeOutput(self.change(latents), num_frames, torch.zeros(latents.shape[0], latents.shape[2]))

    def change(self, latents: Tensor) -> Tensor:
        return latents


class Clock(Hearing):
    """Latents are those of the place, and a fortieth part of the speech."""

    def change(self, latents: Tensor) -> Tensor:
        return clock(latents.shape[-1]) + latents / 40


def clock(num_frames: int) -> Tensor:
    """Latents that the place alone gives [dim, frames]."""
    return torch.randn(DIM, 32, generator=torch.Generator().manual_seed(7))[:, :num_frames]


class Listening(nn.Module):
    """A decoder that says what the tokens say."""

    def forward(self, values: Tensor, num_samples: Tensor) -> Tensor:
        return torch.stack([voice(1.5 * clip.T, seed=5) for clip in values])


class Deaf(nn.Module):
    """A decoder that says the mean spectrum, whatever it is told."""

    def forward(self, values: Tensor, num_samples: Tensor) -> Tensor:
        return torch.stack([voice(0.01 * clip.T, seed=5) for clip in values])


def codec_found(
    encoder: nn.Module, generator: nn.Module, clips: list[Batch], watch: WatchConfig = RECIPE.codec.watch
) -> dict[str, float]:
    codec = Codec(CONFIGS["waveform"])
    codec.encoder, codec.generator = encoder, generator  # type: ignore[assignment]
    return validate_codec(codec, clips, CPU, RECIPE.model, heard_mrstft(codec, RECIPE.model), watch)


def codec_warned(found: dict[str, float], step: int = 8) -> dict[str, str]:
    told = codec_warnings(
        RECIPE, [Validation(0, found | {"mrstft": 9.0}), Validation(step, found)], "mrstft", loss="mrstft", learns=False
    )
    return {one.name: one.text for one in told}


def jepa_found(
    encoder: nn.Module, predict: nn.Module, clips: list[Batch], context: nn.Module | None = None
) -> dict[str, float]:
    """Validation of a JEPA whose predictor sees the target's latents and makes something of them."""
    jepa = Jepa(RECIPE.model.encoder, RECIPE.model.jepa)
    jepa.target_encoder, jepa.context_encoder = encoder, context or encoder  # type: ignore[assignment]
    jepa.predictor = predict  # type: ignore[assignment]
    jepa.forward_context = lambda waveform, num_samples, masked: encoder(waveform, num_samples).latents  # type: ignore[method-assign]
    masks = [valid_mask(-(-b.num_samples // HOP), b.waveform.shape[-1] // HOP, CPU) for b in clips]
    masks = [mask & (torch.arange(mask.shape[1]) % 2 == 1) for mask in masks]
    return validate_jepa(jepa, list(zip(clips, masks, strict=True)), CPU, RECIPE)


def jepa_warned(found: dict[str, float], step: int = 8) -> dict[str, str]:
    stage: Any = JepaStage.__new__(JepaStage)
    stage._job = type("Job", (), {"recipe": RECIPE})
    stage._config = RECIPE.pretrain
    told = stage.warnings([Validation(0, found | {"relative_loss": 9.0, "level_entropy_bits": 0.0}),
                           Validation(step, found)])  # fmt: skip
    return {one.name: one.text for one in told}


class Guess(nn.Module):
    """Predicts ``share`` of the truth, and else the place's mean."""

    def __init__(self, share: float) -> None:
        super().__init__()
        self.share = share

    def forward(self, latents: Tensor, valid: Tensor | None) -> Tensor:
        place = Clock().change(torch.zeros_like(latents)) if self.share == 0 else 0.0
        return self.share * latents + (1 - self.share) * place


def test_speech_that_arrives_is_no_cause_to_warn_in_stage_2():
    found = codec_found(Hearing(), Listening(), spoken())
    assert found["between_clips"] > 0.9
    assert found["level_entropy_given_place"] > 1.5
    assert found["latent_rank_given_place"] > 0.9 * DIM == 0.9 * found["latent_dims"]
    assert found["token_gain"] > 0.1
    assert (
        found["mrstft"]
        == found["mrstft_right"]
        < min(found["mrstft_shuffled"], found["mrstft_other"], found["mrstft_constant"])
    )
    assert codec_warned(found) == {}


def test_a_clock_is_found_by_every_watch_of_stage_2():
    found = codec_found(Clock(), Listening(), spoken())
    assert found["between_clips"] < 0.05
    assert found["level_entropy_given_place"] < 0.2 < 1.0 < found["level_entropy_bits"]
    assert found["dead_dims"] == 0 and found["latent_std_mean"] > 0.5
    assert found["token_gain"] < 0.02
    warned = codec_warned(found)
    assert set(warned) == EVERY_WATCH | {"token_gain"}
    assert found["latent_rank_given_place"] < 0.01 * DIM and "16 dims say what 0 could" in warned["rank_given_place"]
    assert warned["between_clips"].startswith("latents tell the place of a frame in its clip (100 % of their variance)")
    assert (
        "hardly the speech: train the encoder of stage 1 anew, at a lower pretrain.optimizer.lr"
        in (warned["between_clips"])
    )
    assert "bits once the place of their frame is known: tokens tell the time" in warned["entropy_given_place"]


class WrongWhereLowered(Hearing):
    """Hears in fp32; in bf16 its processor takes the channels in another order."""

    def change(self, latents: Tensor) -> Tensor:
        return latents.roll(1, dims=1) if torch.is_autocast_enabled("cpu") else latents


def test_latents_that_are_others_in_the_precision_of_the_training_are_found_in_both_stages():
    """Every other figure is well: the speech arrives, and the decoder listens."""
    assert "precision_gap" not in codec_found(WrongWhereLowered(), Listening(), spoken())
    with torch.autocast("cpu", torch.bfloat16):
        found, of_stage_1 = (codec_found(WrongWhereLowered(), Listening(), spoken()),
                             jepa_found(WrongWhereLowered(), Guess(1.0), spoken()))  # fmt: skip
        right = codec_found(Hearing(), Listening(), spoken())
    assert right["precision_gap"] < 0.02 and codec_warned(right) == {}
    assert found["precision_gap"] == pytest.approx(2**0.5, rel=0.2)  # of independent dims
    assert of_stage_1["precision_gap"] == found["precision_gap"]
    (warned,) = codec_warned(found).items()
    assert warned[0] == "precision_gap" and "away from those in fp32, in which tokens are written" in warned[1]


class ClockFromBothEnds(Clock):
    """Tells the distance to the start and to the end of the clip."""

    def forward(self, waveform: Tensor, num_samples: Tensor) -> EncodeOutput:
        found = super().forward(waveform, num_samples)
        for clip, count in zip(found.latents, found.num_frames.tolist(), strict=True):
            clip[:, :count] += clip[:, :count].flip(1).clone()
        return found


def test_a_clock_that_tells_the_end_of_clips_of_many_lengths_is_no_speech():
    clips = batches([speech(k, 6 + k % 6) for k in range(24)])
    found = codec_found(ClockFromBothEnds(), Listening(), clips)
    assert found["between_clips"] < 0.05 and found["level_entropy_given_place"] < 0.4
    assert set(codec_warned(found)) == EVERY_WATCH | {"token_gain"}
    found = jepa_found(ClockFromBothEnds(), Guess(1.0), clips)
    assert found["between_clips"] < 0.05 and found["level_entropy_given_place"] < 0.4


def test_a_decoder_that_does_not_listen_is_found_whatever_the_tokens_carry():
    found = codec_found(Hearing(), Deaf(), spoken())
    assert found["between_clips"] > 0.9 and found["token_gain"] == pytest.approx(0, abs=0.01)
    warned = codec_warned(found)
    assert set(warned) == {"token_gain"}
    assert "it stays at the mean spectrum; lower codec.optimizer.lr (0.0003)" in warned["token_gain"]
    assert codec_warned(found, step=3) == {}  # within the warm-up


def test_speech_that_is_predicted_is_no_cause_to_warn_in_stage_1():
    found = jepa_found(Hearing(), Guess(0.9), spoken())
    assert found["between_clips"] > 0.9 and found["level_entropy_given_place"] > 1.5
    assert found["relative_loss"] < 0.1 < 1.0 < found["relative_loss_other"]
    assert jepa_warned(found) == {}


def test_a_clock_is_found_by_every_watch_of_stage_1_though_it_is_predicted_well():
    found = jepa_found(Clock(), Guess(0), spoken())
    assert found["loss"] < 0.01 and found["latent_std_mean"] > 0.5 and found["latent_effective_rank"] > 4
    assert found["between_clips"] < 0.05 and found["level_entropy_given_place"] < 0.4
    assert found["relative_loss"] >= 0.95 and found["relative_loss"] == pytest.approx(found["relative_loss_other"], 0.3)
    assert EVERY_WATCH | {"relative_loss"} <= set(jepa_warned(found))
    early = jepa_warned(found, step=2)
    assert set(early) >= EVERY_WATCH and "relative_loss" not in early


@pytest.mark.parametrize("rest", [0.0, 1e-6, 0.01])
def test_a_clock_has_next_to_no_rank_whatever_lies_beside_it(rest: float) -> None:
    """An effective rank alone gives rounding in all dims, or a hundredth of noise, the rank of all dims."""
    clips = batches([speech(k) for k in range(CLIPS)])
    encoder = Clock()
    encoder.change = lambda latents: clock(latents.shape[-1]) + rest * latents  # type: ignore[method-assign]
    for found in (codec_found(encoder, Listening(), clips), jepa_found(encoder, Guess(1.0), clips)):
        assert found["latent_rank_given_place"] < 0.01 and found["latent_dims"] == DIM
        assert "rank_given_place" in codec_warned(found)


@pytest.mark.parametrize(("target", "context"), [(Hearing(), Clock()), (Clock(), Hearing())])
def test_stage_1_is_judged_by_the_targets_that_it_has_to_predict(target: nn.Module, context: nn.Module) -> None:
    found = jepa_found(target, Guess(0.9), spoken(), context)
    assert found == jepa_found(target, Guess(0.9), spoken())
    assert found["between_clips"] != pytest.approx(jepa_found(context, Guess(0.9), spoken())["between_clips"], abs=0.5)


def test_a_few_clips_that_are_longer_than_the_others_do_not_set_the_length() -> None:
    """Half of the clips must reach it, so that there is something to compare."""
    clips = batches([speech(k, 16 if k < 2 else FRAMES) for k in range(CLIPS)])
    found = codec_found(Hearing(), Listening(), clips)
    assert found["clips_at_a_place"] == CLIPS and found["between_clips"] > 0.9
    found = codec_found(Hearing(), Listening(), batches([speech(k, 16 if k < 5 else FRAMES) for k in range(CLIPS)]))
    assert found["clips_at_a_place"] == CLIPS  # five would do for a place, and are less than half


def test_another_clips_targets_are_met_where_a_frame_was_predicted_and_nowhere_else() -> None:
    """Two clips of three and two frames; 88 stands where nothing may look. The first one's last frame has no fellow."""
    found = _Predictions(
        predicted=[torch.tensor([[1.0], [50.0], [7.0]]), torch.tensor([[88.0], [2.0]])],
        wanted=[torch.tensor([[88.0], [0.5], [88.0]]), torch.tensor([[0.0], [88.0]])],
        masked=[torch.tensor([True, False, True]), torch.tensor([False, True])],
    )
    assert _other_clips(found).tolist() == [(1 - 0) ** 2 + (2 - 0.5) ** 2, 2]


def test_digits_of_stage_1_are_those_that_stage_2_would_begin_with() -> None:
    """Stage 2 standardizes latents, so neither their level nor their size decides what a digit holds."""
    encoder = Hearing()
    encoder.change = lambda latents: 30 + 0.1 * latents  # type: ignore[method-assign]
    found, plain = (jepa_found(one, Guess(0.9), spoken()) for one in (encoder, Hearing()))
    assert plain["level_entropy_given_place"] > 1.5
    assert found["level_entropy_given_place"] == pytest.approx(plain["level_entropy_given_place"], abs=0.01)


CORPORA = {
    "silence": (batches([torch.zeros(FRAMES * HOP)] * 6), "6 held-out clips, silence only (peak -120 dB)"),
    "alike": (batches([speech(1)] * 6), "6 held-out clips, all alike (0 dB apart at one place)"),
    "few_clips": (batches([speech(1)]), "1 held-out clip, no place in them shared by 4"),
}


@pytest.mark.parametrize("encoder", [Hearing(), Clock()])
@pytest.mark.parametrize("name", sorted(CORPORA))
def test_clips_that_tell_nothing_get_one_true_line_and_no_figure_that_is_not_one(name, encoder):
    clips, text = CORPORA[name]
    for found, warned in (
        (codec := codec_found(encoder, Listening(), clips), codec_warned(codec)),
        (jepa := jepa_found(encoder, Guess(0.5), clips), jepa_warned(jepa)),
    ):
        assert all(torch.tensor(list(found.values())).isfinite())
        warned = {key: line for key, line in warned.items() if key not in ("dead_dims", "collapsed")}
        assert list(warned) == [name] and warned[name].startswith(text)
        assert "relative_loss" not in found
    if name == "few_clips":
        assert "between_clips" not in codec and "mrstft_other" not in codec and "mrstft_shuffled" in codec


def test_clips_below_a_frame_count_as_one():
    found = codec_found(Hearing(), Listening(), batches([speech(k, 1) for k in range(6)]))
    short = [Batch(b.waveform, b.num_samples // 2, b.slots) for b in batches([speech(k, 1) for k in range(6)])]
    assert codec_found(Hearing(), Listening(), short)["between_clips"] == found["between_clips"]


def test_clips_of_one_frame_have_no_order_to_lose():
    found = codec_found(Hearing(), Listening(), batches([speech(k, 1) for k in range(6)]))
    assert "mrstft_shuffled" not in found and found["token_gain"] > 0


def test_only_the_first_clips_are_tried_with_wrong_tokens():
    few = RECIPE.codec.watch.model_copy(update={"num_swapped_clips": 5})
    found = codec_found(Hearing(), Listening(), spoken(), few)
    first = codec_found(Hearing(), Listening(), spoken()[:1])
    assert found["mrstft_right"] == pytest.approx(first["mrstft"], rel=1e-6)
    assert found["mrstft"] == pytest.approx(codec_found(Hearing(), Listening(), spoken())["mrstft"], rel=1e-6)
    assert found["mrstft"] != pytest.approx(found["mrstft_right"], rel=1e-3)


@pytest.mark.parametrize(("world_size", "tried"), [(1, 2), (2, 1)])
def test_the_clips_tried_with_wrong_tokens_are_shared_by_the_ranks(
    monkeypatch: pytest.MonkeyPatch, world_size: int, tried: int
) -> None:
    """Six clips in batches of five: two batches of one rank, one of each of two."""
    monkeypatch.setattr(watched_gain, "world", lambda: (0, world_size))
    codec, clips = Codec(CONFIGS["waveform"]), spoken()
    seen: list[int] = []
    headline = Headline("loss", lambda values, batch: seen.append(len(values)) or torch.zeros(()))  # type: ignore[func-returns-value]
    digits = [torch.zeros(FRAMES, DIM, dtype=torch.uint8)] * CLIPS
    try_tokens(headline, codec.fsq, {"right": digits}, clips, CPU, 6)
    assert seen == [5] * tried


def test_a_mean_over_clips_counts_each_by_its_samples() -> None:
    means = Means(["loss"])
    for loss, samples in ((1.0, 30), (4.0, 10)):
        means.add([torch.tensor(loss)], Batch(torch.zeros(1, 30), torch.tensor([samples]), (Slot(0, 0),)))
    assert means.over_ranks() == {"loss": pytest.approx((1 * 30 + 4 * 10) / 40)}


def test_the_spread_of_the_speech_itself_is_in_decibel():
    """One clip at 0 dB and at 20 dB, four times each: a deviation of 10 dB, times 8 / 7 in its square."""
    clips = batches([speech(1), speech(1, gain=0.1)] * 4)
    found = input_health(held_out_frames(Hearing(), clips, CPU, HOP, 4))
    assert found["input_spread_db"] == pytest.approx(10 * (8 / 7) ** 0.5, rel=1e-3)
    assert (found["held_out_clips"], found["clips_at_a_place"]) == (8, 8)
    assert found["input_peak_db"] == pytest.approx(20 * float(speech(1).abs().max().log10()), rel=1e-4)


@pytest.mark.parametrize("gain", [1.0, 0.1])
def test_the_level_of_a_tone_in_its_band_is_that_of_its_power(gain):
    """Half of a cosine's mean power, 1 / 2 of its amplitude's square, lies at its own frequency, half at its mirror."""
    tone = gain * torch.cos(2 * torch.pi * torch.arange(3 * HOP) / HOP)[None]  # once a frame: the lowest band alone
    levels = band_levels(tone, HOP)
    assert levels.shape[:2] == (1, 3)
    assert levels[..., 0].tolist() == [pytest.approx([10 * math.log10(gain**2 / 4)] * 3, abs=1e-3)]
    assert float(levels[..., 1:].max()) < -90
