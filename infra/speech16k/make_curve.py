"""How far more hours would go: what a training heard of held-out speech against its CPU-hours, on a logarithmic axis.

    python -m infra.speech16k.make_curve --bottleneck RUN ... --out DOCS [--judged FILE HOURS] ... [--earlier CURVE]

RUN is the output of a run, of one rank of one thread, that trained the bottleneck, each going on from the one before:
the log-mel distance is drawn against the hours of all of them. FILE (CSV: step, hours, estoi, distill_mos) is what
`judge_checkpoints` printed of a decoder's run, which began when HOURS had been spent on everything before it. DOCS
receives ``speech16k-curve.png`` and the same numbers as ``speech16k-curve.csv``. CURVE is such a file of numbers of the
trainings before, whose lines come first.
"""

from __future__ import annotations

import argparse
import csv
import io
from collections.abc import Sequence
from pathlib import Path

import matplotlib

from syllabary.shards import store
from syllabary.workers.training.history import METRICS, TIMINGS, History, Split

SECONDS_AN_HOUR = 3600.0
BOTTLENECK = "bottleneck: held-out mel L1"
JUDGED = {"decoder: ESTOI": "estoi", "decoder: DistillMOS": "distill_mos"}
Line = list[tuple[float, float]]


def series_of(run: str, file: str, split: Split, name: str) -> list[tuple[int, float]]:
    """(step, value) of one name of a run, in the order of the steps."""
    history = History.from_parquet(store.read_bytes(store.join(run, file)))
    return list(zip(*history.series(split, name), strict=True))


def hours_of(run: str) -> dict[int, float]:
    """CPU-hours of one thread spent at each logged step, whose seconds are the mean since the one before; validations
    are left out."""
    hours, spent, last = {}, 0.0, 0
    for step, seconds in series_of(run, TIMINGS, "timing", "step_s"):
        spent, last = spent + seconds * (step - last), step
        hours[step] = spent / SECONDS_AN_HOUR
    return hours


def curve_of(runs: Sequence[str], name: str, before: float = 0.0) -> list[Line]:
    """A line per run of (CPU-hours, value) of each validation after its first step; hours go on from run to run, the
    first of which began at ``before``."""
    lines = []
    for run in runs:
        hours = hours_of(run)
        lines.append([(before + hours[s], value) for s, value in series_of(run, METRICS, "valid", name) if s in hours])
        before += max(hours.values())
    return lines


def judged(files: Sequence[tuple[str, str]], name: str) -> list[Line]:
    """A line per file of (CPU-hours, value) of its checkpoints; a file comes with the hours before it."""
    lines = []
    for file, before in files:
        with Path(file).open() as rows:
            lines.append([(float(before) + float(row["hours"]), float(row[name])) for row in csv.DictReader(rows)])
    return lines


def earlier_lines(curve: str) -> dict[str, list[Line]]:
    """The lines of a file of numbers, by figure."""
    lines: dict[str, dict[str, Line]] = {}
    with Path(curve).open() as rows:
        for row in csv.DictReader(rows):
            line = lines.setdefault(row["figure"], {}).setdefault(row["training"], [])
            line.append((float(row["cpu_hours"]), float(row["value"])))
    return {figure: list(of.values()) for figure, of in lines.items()}


def as_csv(panels: Sequence[tuple[str, list[Line]]]) -> str:
    """The numbers of the figures, by figure and training."""
    rows = (
        f"{title},{number},{hours:.3f},{value:.4f}\n"
        for title, lines in panels
        for number, line in enumerate(lines, 1)
        for hours, value in line
    )
    return "".join(["figure,training,cpu_hours,value\n", *rows])


def draw(panels: Sequence[tuple[str, list[Line]]]) -> bytes:
    """The figures side by side, as PNG."""
    matplotlib.use("agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, len(panels), figsize=(4 * len(panels), 3), layout="constrained", squeeze=False)
    for axis, (title, lines) in zip(axes[0], panels, strict=True):
        for line in lines:
            axis.semilogx(*zip(*line, strict=True), marker="o", color="#2b6cb0")
        axis.set(title=title, xlabel="CPU-hours")
        shown = [lines[0][0][0], *(line[-1][0] for line in lines)]  # a logarithm's own ticks overlap
        axis.set_xticks(shown, [f"{hours:.2f}" for hours in shown], fontsize=7)
        axis.xaxis.set_minor_formatter("")
        axis.grid(visible=True, which="both", alpha=0.3)
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=80)
    plt.close(figure)
    return picture.getvalue()


def main(arguments: Sequence[str] | None = None) -> None:
    """Draw and write."""
    parser = argparse.ArgumentParser(description="How far more hours would go.")
    parser.add_argument("--bottleneck", action="append", required=True)
    parser.add_argument("--judged", action="append", nargs=2, default=[], metavar=("FILE", "HOURS"))
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--earlier", metavar="CURVE")
    asked = parser.parse_args(arguments)
    earlier = earlier_lines(asked.earlier) if asked.earlier else {}
    drawn = earlier.get(BOTTLENECK, [])
    before = drawn[-1][-1][0] if drawn else 0.0
    panels = [(BOTTLENECK, drawn + curve_of(asked.bottleneck, "mel_head", before))]
    for title, name in JUDGED.items():
        lines = earlier.get(title, []) + judged(asked.judged, name)
        panels += [(title, lines)] if lines else []
    store.publish_bytes(str(asked.out / "speech16k-curve.png"), draw(panels))
    store.publish_bytes(str(asked.out / "speech16k-curve.csv"), as_csv(panels).encode())


if __name__ == "__main__":
    main()
