"""Make tables and summaries of the utterances' results: scores, ledger, means, differences, worst cases."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from syllabary.workers.evaluation.intervals import Estimate, estimate
from syllabary.workers.evaluation.scoring import FAMILIES
from syllabary.workers.evaluation.utterance import EVERY_METRIC, OURS, Item
from syllabary.workers.report.card import (
    SCORES_COLUMNS,
    AbsentMetric,
    Difference,
    Failure,
    Metric,
    Score,
    System,
    WorstCase,
)

SCORED, UNSCORED = "scored", "unscored"
NUM_WORST = 5
NO_TRANSCRIPT = "no transcript"
_SCORES_SCHEMA = pa.schema(
    [pa.field(name, pa.float64() if name in ("value", "weight") else pa.string()) for name in SCORES_COLUMNS]
)
_LEDGER_SCHEMA = pa.schema([*_SCORES_SCHEMA, pa.field("status", pa.string()), pa.field("reason", pa.string())])
_FAMILY_OF = {metric: family for family, one in FAMILIES.items() for metric in one.metrics}


@dataclass(frozen=True)
class Row:
    """One utterance, system and metric: its value, or why it has none."""

    item: Item
    system: str
    metric: str
    value: float | None
    weight: float | None
    reason: str | None


def ledger_rows(
    items: Sequence[Item], results: Sequence[Mapping[str, Any]], systems: Sequence[System], metrics: Sequence[Metric]
) -> list[Row]:
    """A row for every utterance, system and metric: nothing is left out, so the ledger sums to 100 %."""
    return [
        _row(item, result, system.name, metric.name)
        for item, result in zip(items, results, strict=True)
        for system in systems
        for metric in metrics
    ]


def _row(item: Item, result: Mapping[str, Any], system: str, metric: str) -> Row:
    measured = result["scores"].get(system, {}).get(metric)
    if measured is not None:
        return Row(item, system, metric, float(measured[0]), float(measured[1]), None)
    reasons = [
        problem["reason"]
        for problem in result["problems"]
        if problem["system"] == system and problem["metric"] in (EVERY_METRIC, _FAMILY_OF[metric])
    ]
    if not reasons and metric in ("wer", "cer") and not item.transcript:
        reasons = [NO_TRANSCRIPT]
    return Row(item, system, metric, None, None, reasons[0] if reasons else "undefined on this utterance")


def scores_table(rows: Iterable[Row]) -> pa.Table:
    """The rows that have a value."""
    return pa.Table.from_pylist([_columns(row) for row in rows if row.value is not None], schema=_SCORES_SCHEMA)


def ledger_table(rows: Iterable[Row]) -> pa.Table:
    """All rows with status and reason."""
    columns = [
        _columns(row) | {"status": UNSCORED if row.value is None else SCORED, "reason": row.reason} for row in rows
    ]
    return pa.Table.from_pylist(columns, schema=_LEDGER_SCHEMA)


def _columns(row: Row) -> dict[str, Any]:
    return {
        "utterance_id": row.item.utterance_id,
        "speaker": str(row.item.row["speaker"]),
        "split": str(row.item.row["split"]),
        "system": row.system,
        "metric": row.metric,
        "value": row.value,
        "weight": row.weight,
    }


def failures_of(rows: Iterable[Row]) -> tuple[Failure, ...]:
    """Rows that should have a value and have none; those that only lack a transcript do not count."""
    return tuple(
        Failure(utterance_id=row.item.utterance_id, system=row.system, metric=row.metric, reason=row.reason)
        for row in rows
        if row.reason not in (None, NO_TRANSCRIPT)
    )


def absent_metrics(rows: Sequence[Row], metrics: Sequence[Metric]) -> tuple[AbsentMetric, ...]:
    """Metrics without any value, each with its most common reason."""
    absent = []
    for metric in metrics:
        own = [row for row in rows if row.metric == metric.name]
        if any(row.value is not None for row in own):
            continue
        reasons = [str(row.reason) for row in own]
        commonest = max(sorted(set(reasons)), key=reasons.count)
        hint = "; give --transcripts" if commonest == NO_TRANSCRIPT else ""
        absent.append(AbsentMetric(metric=metric.name, reason=f"{commonest}{hint}"))
    return tuple(absent)


def summaries(rows: Iterable[Row], seed: int) -> tuple[Score, ...]:
    """Mean and interval of every system by every metric for which it has a value."""
    groups: dict[tuple[str, str], list[Row]] = defaultdict(list)
    for row in rows:
        if row.value is not None:
            groups[row.system, row.metric].append(row)
    return tuple(
        Score(system=system, metric=metric, **_fields(_estimate([r.value for r in own], own, seed)),
              num_speakers=len({row.item.row["speaker"] for row in own}))
        for (system, metric), own in groups.items()
    )  # fmt: skip


def differences(
    rows: Iterable[Row], systems: Sequence[System], metrics: Sequence[Metric], seed: int
) -> tuple[Difference, ...]:
    """Ours minus every other system, paired by utterance."""
    values = {(row.system, row.metric, row.item.number): row for row in rows if row.value is not None}
    numbers = sorted({number for _, _, number in values})
    changes = []
    for system in systems:
        for metric in metrics if system.name != OURS else ():
            pairs = [
                (ours, values[system.name, metric.name, number])
                for number in numbers
                if (ours := values.get((OURS, metric.name, number))) is not None
                and (system.name, metric.name, number) in values
            ]
            if pairs:
                deltas = [float(ours.value or 0) - float(other.value or 0) for ours, other in pairs]
                changes.append(_difference(system.name, metric, _estimate(deltas, [o for o, _ in pairs], seed)))
    return tuple(changes)


def _difference(baseline: str, metric: Metric, change: Estimate) -> Difference:
    return Difference(
        system=OURS,
        baseline=baseline,
        metric=metric.name,
        **_fields(change),
        exceeds=change.excludes_zero,
        better=is_better(change.mean, metric),
    )


def is_better(difference: float, metric: Metric) -> bool:
    """Whether a difference in a metric is an improvement."""
    return difference > 0 if metric.direction == "higher" else difference < 0


def _estimate(values: Sequence[float | None], rows: Sequence[Row], seed: int) -> Estimate:
    numbers = [float(value) for value in values if value is not None]
    return estimate(numbers, [row.weight or 1.0 for row in rows], [str(row.item.row["speaker"]) for row in rows], seed)


def _fields(interval: Estimate) -> dict[str, Any]:
    return {
        "mean": interval.mean,
        "low": interval.low,
        "high": interval.high,
        "num_utterances": interval.num_utterances,
    }


def worst_cases(rows: Iterable[Row], metrics: Sequence[Metric]) -> tuple[WorstCase, ...]:
    """The worst utterances of ours by every metric, by name."""
    ours = [row for row in rows if row.system == OURS and row.value is not None]
    worst = []
    for metric in metrics:
        sign = 1 if metric.direction == "higher" else -1
        own = sorted(
            (r for r in ours if r.metric == metric.name), key=lambda r: (sign * float(r.value or 0), r.item.number)
        )
        worst += [
            WorstCase(
                metric=metric.name,
                rank=rank,
                utterance_id=row.item.utterance_id,
                speaker=str(row.item.row["speaker"]),
                value=float(row.value or 0),
                transcript=row.item.transcript,
            )
            for rank, row in enumerate(own[:NUM_WORST], start=1)
        ]
    return tuple(worst)
