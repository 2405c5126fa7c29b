"""Warnings of a validation: a line each that says what is wrong and what to change.

A warning follows from the validations so far and the limits alone, so that a resumed run gives the same ones again.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from syllabary.workers.recipes.recipe import Recipe, TrainConfig
from syllabary.workers.training.history import Validation

SILENT_DB, ALIKE_DB = -80.0, 0.1
_UNCHANGED, _UNCHANGED_BITS, _WORSE = 0.01, 0.001, 1.1
_SOON = 500  # steps past the warm-up within which a stage 1 that learns at all predicts something
_MOST_GAP = 0.25  # rounding to bf16 makes .01 to .03, a kernel that is wrong for a processor above 1
_HEARD = 0.2  # of token_gain: well above what chance gives
JUDGED_BY_EAR = ("token_gain", "frozen_digits")  # by how much worse what is heard becomes with wrong tokens
JUDGED_BY_RATE = ("diverges", "frozen")  # by how the loss went since before training
SWAPS = {
    "shuffled": "its frames shuffled",
    "other": "another utterance's tokens",
    "constant": "one constant frame",
}


class Warned(NamedTuple):
    """A warning: ``name`` stays the same from validation to validation, ``text`` has the figures."""

    name: str
    text: str


@dataclass(frozen=True)
class Watched:
    """The data that the warnings of a stage are drawn from.

    Attributes:
        validations: so far; the last is the one that is judged.
        train: the stage's configuration.
        section: its name in the recipe, as overrides have it.
        loss: the metric that must fall: of what is learned, not of the model's scale.
        headline: the metric that wrong tokens are tried by; of stage 2.
        levels: of a digit.
        learns_digits: whether this stage changes the encoder.
    """

    validations: Sequence[Validation]
    train: TrainConfig
    section: str
    loss: str
    levels: int
    learns_digits: bool
    headline: str = ""

    @property
    def step(self) -> int:
        """Of the validation that is judged."""
        return self.validations[-1].step

    @property
    def is_late(self) -> bool:
        """Whether so much of the training is behind that it should have learned something."""
        return 0 < self.step >= self.train.watch.late_fraction * self.train.num_steps

    @property
    def predicts_by_now(self) -> bool:
        """Whether a stage 1 should have learned to predict: late in a short run, and soon in a long one."""
        return self.is_late or self.step >= self.train.optimizer.warmup_steps + _SOON

    @property
    def is_warm(self) -> bool:
        """Whether the warm-up of the learning rate is over."""
        return self.step > self.train.optimizer.warmup_steps

    @property
    def rate(self) -> str:
        """The learning rate as an override has it."""
        return f"{self.section}.optimizer.lr ({self.train.optimizer.lr:g})"

    def last(self, name: str) -> float | None:
        """A figure of the validation that is judged; None when it has none."""
        return self.validations[-1].values.get(name)

    def first(self, name: str) -> float | None:
        """The figure of the first validation, before any step."""
        return self.validations[0].values.get(name)


def warnings_of(watched: Watched) -> list[Warned]:
    """All warnings of the last validation."""
    corpus = list(_corpus(watched))
    return corpus or [*_arithmetic(watched), *_place(watched), *_prediction(watched), *_tokens(watched),
                      *_rate(watched)]  # fmt: skip


def codec_warnings(
    recipe: Recipe, validations: Sequence[Validation], headline: str, *, loss: str, learns: bool
) -> list[Warned]:
    """Warnings of stage 2: a code most of whose dims never change, and all of :func:`warnings_of`."""
    levels = recipe.model.fsq.levels
    watched = Watched(validations, recipe.codec, "codec", loss, levels, learns_digits=learns, headline=headline)
    dead, dims = int(watched.last("dead_dims") or 0), recipe.model.encoder.latent_dim
    few = [Warned("dead_dims", f"{dead} of {dims} latent dims only ever take one level")] if 2 * dead > dims else []
    return few + warnings_of(watched)


def summed_up(told: Sequence[tuple[int, Sequence[Warned]]]) -> list[dict[str, Any]]:
    """Warnings of all validations (step, warnings) as ``done.json`` has them: each once, from its first step to its
    last, in its last wording."""
    by_name: dict[str, dict[str, Any]] = {}
    for step, warnings in told:
        for name, text in warnings:
            first = by_name.get(name, {}).get("first_step", step)
            by_name[name] = {"name": name, "first_step": first, "last_step": step, "text": text}
    return list(by_name.values())


def _corpus(watched: Watched) -> Iterator[Warned]:
    """Warn of clips that show nothing: the figures drawn from them then mean nothing either."""
    count, peak, spread = (watched.last(name) for name in ("held_out_clips", "input_peak_db", "input_spread_db"))
    clips = f"{count or 0:.0f} held-out clip{'' if count == 1 else 's'}"
    if peak is not None and peak < SILENT_DB:
        yield Warned("silence", f"{clips}, silence only (peak {peak:.0f} dB): there is nothing to learn from or to "
                     "judge by; check the corpus")  # fmt: skip
    elif spread is not None and spread < ALIKE_DB:
        yield Warned("alike", f"{clips}, all alike ({spread:.2g} dB apart at one place): whether tokens carry speech "
                     "cannot be seen on them; check the corpus for copies")  # fmt: skip
    elif spread is None and count is not None:
        yield Warned("few_clips", f"{clips}, no place in them shared by {watched.train.watch.min_clips}: whether "
                     f"tokens carry speech cannot be told; raise {watched.section}.num_validation_utterances, or shard "
                     "more speech or with a higher ingest.valid_percent")  # fmt: skip


def _arithmetic(watched: Watched) -> Iterator[Warned]:
    """Warn of a training whose encoder is another one where its tokens are written, in fp32."""
    gap, precision = watched.last("precision_gap"), watched.train.precision
    if gap is not None and gap > _MOST_GAP:
        yield Warned("precision_gap", f"latents in {precision} are {100 * gap:.0f} % of their deviation away from "
                     f"those in fp32, in which tokens are written: this processor or torch computes {precision} "
                     f"wrongly; set {watched.section}.precision=fp32 in a new --out")  # fmt: skip


def _place(watched: Watched) -> Iterator[Warned]:
    limits, share = watched.train.watch, watched.last("between_clips")
    if share is not None and share < limits.min_between_clips:
        yield Warned("between_clips", f"latents tell the place of a frame in its clip ({100 * (1 - share):.0f} % of "
                     f"their variance), hardly the speech: {_remedy(watched)}")  # fmt: skip
    bits = watched.last("level_entropy_given_place")
    if bits is not None and bits < limits.min_entropy_given_place_bits:
        most = math.log2(watched.levels)
        yield Warned("entropy_given_place", f"digits hold {bits:.2f} of {most:g} bits once the place of their frame is "
                     f"known: tokens tell the time, not the speech; {_remedy(watched)}")  # fmt: skip
    rank, dims = watched.last("latent_rank_given_place"), watched.last("latent_dims")
    if rank is not None and dims and rank < limits.min_rank_fraction * dims:
        yield Warned("rank_given_place", f"{dims:.0f} dims say what {rank:.0f} could (effective rank between clips at "
                     f"one place): detail of the speech is lost; {_remedy(watched)}, or raise "
                     "model.jepa.covariance_weight in stage 1")  # fmt: skip


def _remedy(watched: Watched) -> str:
    if watched.step == 0 and watched.learns_digits:
        return "the untrained encoder already loses them; use a recipe whose signal arrives (a spectral front end)"
    if not watched.learns_digits:
        return "train the encoder of stage 1 anew, at a lower pretrain.optimizer.lr"
    return f"lower {watched.rate} or raise {watched.section}.optimizer.warmup_steps"


def _prediction(watched: Watched) -> Iterator[Warned]:
    loss, limit = watched.last("relative_loss"), watched.train.watch.max_relative_loss
    if loss is not None and loss > limit and watched.predicts_by_now:
        yield Warned("relative_loss", f"masked frames are predicted hardly better than their place alone allows "
                     f"(relative loss {loss:.2f}; 1 is that guess) at step {watched.step:,} of "
                     f"{watched.train.num_steps:,}: lower {watched.rate}, or model.jepa.covariance_weight where it "
                     "is above 0, or train longer")  # fmt: skip


def _tokens(watched: Watched) -> Iterator[Warned]:
    gain, right = watched.last("token_gain"), watched.last(f"{watched.headline}_right")
    if gain is None or right is None or gain >= watched.train.watch.min_token_gain or not watched.is_warm:
        return
    wrong = {name: value for name in SWAPS if (value := watched.last(f"{watched.headline}_{name}")) is not None}
    name = min(wrong, key=lambda swap: wrong[swap])
    tried = f"{watched.headline} {right:.4f} with the right ones, {wrong[name]:.4f} with {SWAPS[name]}"
    yield Warned("token_gain", f"the decoder hardly listens to the tokens: {tried} ({max(0.0, 100 * gain):.1f} % "
                 f"gained): it stays at the mean spectrum; lower {watched.rate}, train longer, or mend the encoder if "
                 "it warns too")  # fmt: skip


def _rate(watched: Watched) -> Iterator[Warned]:
    """Learning that goes the wrong way, or nowhere."""
    first, last = watched.first(watched.loss), watched.last(watched.loss)
    if first is None or last is None or not watched.is_warm or watched.step == 0:
        return
    change = f"{watched.loss} {first:.4f} before training, {last:.4f} after {watched.step:,} steps"
    if last > _WORSE * first:
        yield Warned("diverges", f"training makes it worse: {change}; lower {watched.rate} or raise "
                     f"{watched.section}.optimizer.warmup_steps")  # fmt: skip
    elif abs(last / first - 1) < _UNCHANGED and watched.is_late:
        yield Warned("frozen", f"nothing is learned: {change}; {watched.rate} is far too low, or so high that the "
                     "first steps broke the model")  # fmt: skip
    yield from _digits(watched)


def _digits(watched: Watched) -> Iterator[Warned]:
    first, last = watched.first("level_entropy_bits"), watched.last("level_entropy_bits")
    if first is None or last is None or not (watched.learns_digits and watched.is_late):
        return
    # Standardized latents use nearly all bits from the start: that the decoder needs the right digits shows them alive.
    is_heard = (watched.last("token_gain") or 0.0) >= _HEARD
    if abs(last - first) < _UNCHANGED_BITS and not is_heard:
        yield Warned("frozen_digits", f"the digits stay as they were before training ({last:.3f} bits per dim): the "
                     f"encoder does not learn; {watched.rate} is far too low, or the digits froze in the first "
                     "steps")  # fmt: skip
