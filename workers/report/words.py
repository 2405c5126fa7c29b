"""Put the report page into words: figures with sensible digits, and a verdict drawn from the numbers by rule.

The bounds are a convention of ours, set beside codecs whose scores on read speech are known: Codec2 700C has a word
error rate of 58 % and ESTOI 0.56, Codec2 3200 has 21 % and 0.71. The strictest ruler decides.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from syllabary.shards.words import counted
from syllabary.workers.report.card import Difference, Metric, ReportCard, Score, System
from syllabary.workers.report.plots import rate_of

# Without transcripts, words that are heard otherwise than in the original stand in for words that are wrong.
WORD_ERRORS = ("wer", "wer_self")
KEY_METRICS = (*WORD_ERRORS, "estoi", "pesq_wb", "distill_mos", "speaker_similarity", "f0_rmse")
REFERENCE = "codec2_700c"
ORIGINAL = "original"
LEVELS = ("intelligible", "intelligible with effort", "barely intelligible", "not intelligible")
WER_BOUNDS = (0.20, 0.50, 0.75)  # at or above: one level lower
ESTOI_BOUNDS = (0.70, 0.50, 0.35)  # below: one level lower
DEAF_RECOGNISER = 0.50  # a recogniser that errs so often on the originals judges nobody
FEW_SPEAKERS, FEW_UTTERANCES = 5, 20
FEWER = 0.9  # of the utterances: below, a metric's own number is told
DIGITS = {"%": 1, "dB": 1, "Hz": 1, "cents": 0}  # of a unit; 2 for all others
NO_BREAK = "\u00a0"
KINDS = ("ours", "baseline", "ceiling", "floor")


@dataclass(frozen=True)
class Verdict:
    """``level`` is one of :data:`LEVELS` or None when nothing measured it; ``sentences`` follow it."""

    level: str | None
    sentences: tuple[str, ...]


def figure(metric: Metric, value: float | None, *, signed: bool = False) -> str:
    """A value of the metric with the digits that its scale deserves, the same for all values of it; a dash for none."""
    if value is None:
        return "–"
    digits = DIGITS.get(metric.unit, 2)
    rounded = round(value, digits) + 0.0  # no negative zero
    shown = f"{rounded:+.{digits}f}" if signed else f"{rounded:.{digits}f}"
    return shown.replace("-", "−")


def with_unit(metric: Metric, value: float, *, signed: bool = False) -> str:
    """The figure as running text has it: with the units that people say."""
    unit = metric.unit if metric.unit in DIGITS else ""
    if signed and unit == "%":
        unit = "points"
    return f"{figure(metric, value, signed=signed)}{NO_BREAK if unit else ''}{unit}"


def ordered(card: ReportCard) -> list[System]:
    """Ours first, then the baselines from the lowest rate up, the ceilings and the floors."""
    return sorted(card.systems, key=lambda system: (KINDS.index(system.kind), rate_of(system) or math.inf))


def ours(card: ReportCard) -> System:
    """The tokenizer that the report is about."""
    return next(system for system in card.systems if system.kind == "ours")


def key_metrics(card: ReportCard) -> list[Metric]:
    """The rulers that say most, the strictest first; followed by all others when they are few."""
    scored = {score.metric for score in card.scores if score.system == ours(card).name}
    metrics = {metric.name: metric for metric in card.metrics if metric.name in scored}
    stand_in = WORD_ERRORS[1] if WORD_ERRORS[0] in metrics else None
    chosen = [metrics[name] for name in KEY_METRICS if name in metrics and name != stand_in]
    return chosen if len(chosen) >= 3 else [*chosen, *(metric for metric in card.metrics if metric not in chosen)]


def other_metrics(card: ReportCard) -> list[Metric]:
    """The metrics that are not among the key ones."""
    chosen = key_metrics(card)
    return [metric for metric in card.metrics if metric not in chosen]


def verdict(card: ReportCard) -> Verdict:
    """Intelligibility, the standing against the nearest real codec, and how much the numbers carry."""
    level, reasons = _intelligibility(card)
    rate = rate_of(ours(card))
    at = f"{ours(card).label} at {rate:,.0f} bit/s" if rate else ours(card).label
    opening = f"{at} has {' and '.join(reasons)}." if reasons else f"The intelligibility of {at} was not measured."
    sentences = (opening, _standing(card), _over_the_floor(card), _evidence(card))
    return Verdict(level, tuple(sentence for sentence in sentences if sentence))


def _intelligibility(card: ReportCard) -> tuple[str | None, list[str]]:
    """The lowest level that a ruler gives, and what each ruler says."""
    figures, reasons = [], []
    name, metrics = ours(card).name, {metric.name: metric for metric in card.metrics}
    if wer := _word_errors(card):
        share = _share(metrics[wer.metric], wer.mean)
        figures.append(sum(share >= bound for bound in WER_BOUNDS))
        against = " against what a recogniser hears in the original" if wer.metric == WORD_ERRORS[1] else ""
        reasons.append(f"a word error rate of {_percent(share)}{against}{_originals(card, wer)}")
    if estoi := card.score(name, "estoi"):
        figures.append(sum(estoi.mean < bound for bound in ESTOI_BOUNDS))
        reasons.append(f"an ESTOI of {figure(metrics['estoi'], estoi.mean)}{_originals(card, estoi)}")
    return (LEVELS[max(figures)] if figures else None), reasons


def _word_errors(card: ReportCard) -> Score | None:
    """The word errors of ours, unless the recogniser fails on the originals themselves."""
    metrics = {metric.name: metric for metric in card.metrics}
    mine = [score for name in WORD_ERRORS if (score := card.score(ours(card).name, name))]
    spoken = card.score(ORIGINAL, WORD_ERRORS[0])
    deaf = spoken is not None and _share(metrics[spoken.metric], spoken.mean) >= DEAF_RECOGNISER
    return None if deaf or not mine else mine[0]


def _originals(card: ReportCard, score: Score) -> str:
    """`` (the originals: 9 %)``; nothing where they are right by construction."""
    spoken = card.score(ORIGINAL, score.metric)
    if spoken is None or score.metric == WORD_ERRORS[1]:
        return ""
    metric = next(metric for metric in card.metrics if metric.name == score.metric)
    shown = _percent(_share(metric, spoken.mean)) if metric.name in WORD_ERRORS else figure(metric, spoken.mean)
    return f" (the originals: {shown})"


def _percent(share: float) -> str:
    return f"{100 * share:.0f}{NO_BREAK}%"


def _share(metric: Metric, value: float) -> float:
    return value / 100 if metric.unit == "%" else value


def reference(card: ReportCard) -> System | None:
    """The baseline to stand against: Codec2 700C, else the one of the nearest rate."""
    rated = [(system, rate) for system in card.systems if system.kind == "baseline" and (rate := rate_of(system))]
    mine = rate_of(ours(card))
    if not rated or not mine:
        return None
    named = next((system for system, _ in rated if system.name == REFERENCE), None)
    return named or min(rated, key=lambda pair: abs(math.log(pair[1] / mine)))[0]


def _standing(card: ReportCard) -> str:
    """Better, worse or equal, by metric, against the reference."""
    baseline = reference(card)
    metrics = {metric.name: metric for metric in key_metrics(card)}
    rows = [d for d in card.differences if baseline and d.baseline == baseline.name and d.metric in metrics]
    if baseline is None or not rows:
        return ""
    told = [d for d in rows if d.low is not None]
    parts = [
        _listed(verb, [d for d in told if d.exceeds and d.better is good], metrics)
        for verb, good in (("worse by", False), ("better by", True))
    ]
    parts.append(_listed("not to be told apart by", [d for d in told if not d.exceeds], metrics, figures=False))
    said = "; ".join(part for part in parts if part)
    against = f"Against {baseline.label} at {rate_of(baseline):,.0f} bit/s"
    return f"{against} it is {said}." if said else f"{against}: too few speakers to say."


def _over_the_floor(card: ReportCard) -> str:
    """Said only when it must be: the metrics by which ours is no better than a floor."""
    metrics, said = {metric.name: metric for metric in key_metrics(card)}, []
    for floor in (system for system in card.systems if system.kind == "floor"):
        rows = [d for d in card.differences if d.baseline == floor.name and d.metric in metrics and d.low is not None]
        poor = [d for d in rows if not (d.exceeds and d.better) and _is_floor(card, floor, metrics[d.metric])]
        if poor:
            said.append(f"It is {_listed('no better than ' + floor.label + ' by', poor, metrics, figures=False)}.")
    return " ".join(said)


def _is_floor(card: ReportCard, floor: System, metric: Metric) -> bool:
    """Whether the reference is better by this metric: reversed speech is a floor of words, not of naturalness."""
    baseline, lowest = reference(card), card.score(floor.name, metric.name)
    above = card.score(baseline.name, metric.name) if baseline else None
    if lowest is None or above is None:
        return lowest is not None
    return above.mean > lowest.mean if metric.direction == "higher" else above.mean < lowest.mean


def _listed(verb: str, rows: Sequence[Difference], metrics: dict[str, Metric], *, figures: bool = True) -> str:
    """``worse by WER (+38.0 %) and ESTOI (−0.37)``, the strictest rulers first."""
    if not rows:
        return ""
    first = sorted(rows, key=lambda d: list(metrics).index(d.metric))
    names = [
        metrics[d.metric].label + (f" ({with_unit(metrics[d.metric], d.mean, signed=True)})" if figures else "")
        for d in first
    ]
    return f"{verb} {_and(names)}"


def _and(names: Sequence[str]) -> str:
    return f"{', '.join(names[:-1])}{' and ' if len(names) > 1 else ''}{names[-1]}"


def _evidence(card: ReportCard) -> str:
    corpus = card.corpus
    few = corpus.num_speakers < FEW_SPEAKERS or corpus.num_utterances < FEW_UTTERANCES
    caution = "; that is few, and the figures would move with others" if few else ""
    return (
        f"Measured on {counted(corpus.num_utterances, 'utterance')} ({corpus.duration_s / 60:.1f} min) of "
        f"{counted(corpus.num_speakers, 'speaker')}{_on_fewer(card)}{caution}."
    )


def _on_fewer(card: ReportCard) -> str:
    """``, WER and CER on 22 of them``: metrics that have a value on a part only, as word errors on what has a text."""
    parts: dict[int, list[str]] = {}
    for metric in card.metrics:
        score = card.score(ours(card).name, metric.name)
        if score and score.num_utterances < FEWER * card.corpus.num_utterances:
            parts.setdefault(score.num_utterances, []).append(metric.label)
    return "".join(f", {_and(labels)} on {count:,} of them" for count, labels in parts.items())
