"""``compare``: two report cards of two tokenizers on the same speech, and whether the second is worse.

    d_i = after_i − before_i        for every utterance i that both have; the interval is a bootstrap over speakers

A difference counts when its interval excludes zero. It is a regression when it is for the worse and its mean is beyond
the metric's tolerance (0 unless stated). What gives no value any more (silence has none) is in no mean: a metric that
lost more values than chance takes is a regression whatever the tolerance. Two figures are no statistics and are held
to the letter: the second report's certificate must be there with 0 mismatches, and the metrics that the first report
has must not be missing from it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from syllabary.shards.errors import InputError, SyllabaryError
from syllabary.workers.control.jobs import CompareJob
from syllabary.workers.control.log import say
from syllabary.workers.evaluation.intervals import Estimate, estimate
from syllabary.workers.evaluation.tables import is_better
from syllabary.workers.evaluation.utterance import OURS
from syllabary.workers.report.card import Metric, ReportCard, read_card
from syllabary.workers.report.scores import read_scores

Key = tuple[str, str]  # utterance_id, metric


class RegressionError(SyllabaryError):
    """The second tokenizer is worse than the first by more than is tolerated."""

    exit_code = 1


@dataclass(frozen=True)
class Scores:
    """``ours`` by (utterance_id, metric): value, weight and speaker; ``speakers`` by utterance, of all measured."""

    ours: dict[Key, dict[str, Any]]
    speakers: dict[str, str]


@dataclass(frozen=True)
class Change:
    """One metric of ours in both reports, over the utterances that both have."""

    metric: Metric
    before: float
    after: float
    difference: Estimate
    tolerance: float

    @property
    def verdict(self) -> str:
        """ "better", "worse", "worse, tolerated" or "same": within its interval."""
        if not self._counts:
            return "same"
        if is_better(self.difference.mean, self.metric):
            return "better"
        return "worse" if abs(self.difference.mean) > self.tolerance else "worse, tolerated"

    @property
    def _counts(self) -> bool:
        if self.difference.low is None:  # one speaker: there is no interval to lie within
            return self.difference.mean != 0
        return self.difference.excludes_zero


def compare(job: CompareJob) -> dict[str, Any]:
    """Print the differences that exceed their intervals; returns them, and the text as the result.

    Raises:
        RegressionError: at least one regression beyond its tolerance; every difference was printed.
        InputError: the reports share no utterance, or a tolerance names no metric.
        NotFoundError, FormatError: no report there, or a damaged one.
    """
    before, after = read_card(job.before), read_card(job.after)
    tolerances = parsed_tolerances(job.tolerances, before.metrics)
    scores_before, scores_after = _scores(job.before), _scores(job.after)
    changes = changes_of(before, scores_before.ours, scores_after.ours, tolerances, seed=0)
    regressions = [f"{c.metric.label} {c.before:.4g} → {c.after:.4g}" for c in changes if c.verdict == "worse"]
    broken = [*broken_promises(before, after), *lost_values(before.metrics, scores_before, scores_after)]
    regressions += broken
    lines = [*_table(changes), *broken, *_remarks(before, after), *_coverage(scores_before, scores_after)]
    if regressions:
        for line in lines:
            say("compare", line)
        raise RegressionError(f"{len(regressions)} regressions: {'; '.join(regressions)}")
    shifts = {change.metric.name: change.difference.mean for change in changes if change.verdict != "same"}
    return {"differences": shifts, "num_regressions": 0, "text": "\n".join([*lines, "no regression"])}


def parsed_tolerances(tolerances: Iterable[str], metrics: Sequence[Metric]) -> dict[str, float]:
    """``metric=x`` arguments as numbers by metric. Raises InputError."""
    known, parsed = {metric.name for metric in metrics}, {}
    for tolerance in tolerances:
        name, equals, text = tolerance.partition("=")
        try:
            value = float(text)
        except ValueError:
            value = -1.0
        if not equals or not 0 <= value < float("inf"):
            raise InputError("--tolerance", value=tolerance, expected="metric=x with x of 0 or more")
        if name not in known:
            expected = f"of {', '.join(sorted(known))}"
            raise InputError("--tolerance of a metric the first report lacks", value=name, expected=expected)
        parsed[name] = value
    return parsed


def changes_of(
    before: ReportCard,
    scores_before: Mapping[Key, Mapping[str, Any]],
    scores_after: Mapping[Key, Mapping[str, Any]],
    tolerances: Mapping[str, float],
    seed: int,
) -> list[Change]:
    """One change for every metric that both have on some utterance. Raises InputError when no utterance is common."""
    common = sorted(set(scores_before) & set(scores_after))
    if not common:
        raise InputError("the reports share no utterance", fix="evaluate both on the same shards, splits and --limit")
    changes = []
    for metric in before.metrics:
        pairs = [(scores_before[key], scores_after[key]) for key in common if key[1] == metric.name]
        if pairs:
            weights, speakers = [a["weight"] for a, _ in pairs], [a["speaker"] for a, _ in pairs]
            difference = estimate([b["value"] - a["value"] for a, b in pairs], weights, speakers, seed)
            first = estimate([a["value"] for a, _ in pairs], weights, speakers, seed).mean
            tolerance = tolerances.get(metric.name, 0.0)
            changes.append(Change(metric, first, first + difference.mean, difference, tolerance))
    return changes


def broken_promises(before: ReportCard, after: ReportCard) -> list[str]:
    """What no tolerance covers: tokens that depend on their company, metrics and certificates that went missing.

    A second report without the certificate promises nothing of its tokens, whatever the first one did.
    """
    lines = []
    checks = after.behaviour.certificate if after.behaviour else ()
    if not any(check.num_compared for check in checks):
        lines.append("the second report has no certificate that tokens do not depend on their batch: evaluate it again")
    for check in checks:
        if check.num_mismatches:
            lines.append(f"certificate '{check.name}': {check.num_mismatches} of {check.num_compared} differ")
    known = {metric.name for metric in after.metrics}
    lines += [f"metric {metric.name} is missing" for metric in before.metrics if metric.name not in known]
    return lines


def lost_values(metrics: Iterable[Metric], before: Scores, after: Scores) -> list[str]:
    """The metrics that fewer utterances have a value of than before, by more than chance, where both measured."""
    shared, lines = sorted(before.speakers.keys() & after.speakers.keys()), []
    for metric in metrics:
        had, has = ([(name, metric.name) in scores.ours for name in shared] for scores in (before, after))
        gained = [float(now) - float(then) for then, now in zip(had, has, strict=True)]
        if sum(gained) >= 0:
            continue
        gain = estimate(gained, [1.0] * len(shared), [before.speakers[name] for name in shared])
        if gain.low is None or gain.excludes_zero:
            lines.append(f"{metric.label} has a value on {sum(has)} of {len(shared)} utterances, before on {sum(had)}")
    return lines


def _scores(report: str) -> Scores:
    rows = read_scores(report).to_pylist()
    ours = {(row["utterance_id"], row["metric"]): row for row in rows if row["system"] == OURS}
    return Scores(ours, {row["utterance_id"]: row["speaker"] for row in rows})


def _coverage(before: Scores, after: Scores) -> list[str]:
    """Said when the reports are not of the same utterances."""
    shared = len(before.speakers.keys() & after.speakers.keys())
    if shared == len(before.speakers) == len(after.speakers):
        return []
    return [f"over the {shared} utterances of both, of {len(before.speakers)} before and {len(after.speakers)} after"]


def _table(changes: Sequence[Change]) -> list[str]:
    counted = [change for change in changes if change.verdict != "same"]
    if not counted:
        return [f"no difference exceeds its interval ({len(changes)} metrics)"]
    lines = []
    for change in counted:
        low, high = change.difference.low, change.difference.high
        interval = "no interval, one speaker" if low is None or high is None else f"{low:+.4g} to {high:+.4g}"
        figures = f"{change.before:.4g} → {change.after:.4g}  {change.difference.mean:+.4g} ({interval})"
        lines.append(f"{change.metric.label:<22} {figures} {change.metric.unit}  {change.verdict}")
    return lines


def _remarks(before: ReportCard, after: ReportCard) -> list[str]:
    lines = []
    if before.provenance.encoder_digest != after.provenance.encoder_digest:
        lines.append("another encoder: tokens and archives of one are not those of the other")
    if (one := before.rate.context_entropy) != (other := after.rate.context_entropy):
        lines.append(f"entropy with context {one:.1f} → {other:.1f} bit/s")
    if (low := before.rate.language_model) and (high := after.rate.language_model) and low != high:
        lines.append(f"language model {low:.1f} → {high:.1f} bit/s, each by its own model")
    return lines
