"""How far more hours would go: what a training heard of held-out speech against its CPU-hours, on a logarithmic axis.

    python -m infra.speech16k.make_curve --bottleneck RUN --out DOCS [--judged FILE] [--before HOURS]

RUN is the output of the run, of one rank of one thread, that trained the bottleneck: its log-mel distance is drawn.
FILE (CSV: step, hours, estoi, distill_mos) is what `judge_checkpoints` printed of a later run, which began when HOURS
were spent. DOCS receives ``speech16k-curve.png`` and the same numbers as ``speech16k-curve.csv``.
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


def curve_of(run: str, name: str) -> list[tuple[float, float]]:
    """(CPU-hours, value) of each validation after the first step."""
    hours = hours_of(run)
    return [(hours[step], value) for step, value in series_of(run, METRICS, "valid", name) if step in hours]


def draw(panels: Sequence[tuple[str, list[tuple[float, float]]]]) -> bytes:
    """The figures side by side, as PNG."""
    matplotlib.use("agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, len(panels), figsize=(4 * len(panels), 3), layout="constrained", squeeze=False)
    for axis, (title, points) in zip(axes[0], panels, strict=True):
        axis.semilogx(*zip(*points, strict=True), marker="o", color="#2b6cb0")
        axis.set(title=title, xlabel="CPU-hours")
        shown = [points[0][0], points[len(points) // 2][0], points[-1][0]]  # a logarithm's own ticks overlap
        axis.set_xticks(shown, [f"{hours:.2f}" for hours in shown])
        axis.xaxis.set_minor_formatter("")
        axis.grid(visible=True, which="both", alpha=0.3)
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=80)
    plt.close(figure)
    return picture.getvalue()


def main(arguments: Sequence[str] | None = None) -> None:
    """Draw and write."""
    parser = argparse.ArgumentParser(description="How far more hours would go.")
    parser.add_argument("--bottleneck", required=True)
    parser.add_argument("--judged", type=Path)
    parser.add_argument("--before", type=float, default=0.0)
    parser.add_argument("--out", type=Path, required=True)
    asked = parser.parse_args(arguments)
    panels = [("bottleneck: held-out mel L1", curve_of(asked.bottleneck, "mel_head"))]
    if asked.judged:
        rows = list(csv.DictReader(asked.judged.open()))
        for name, title in (("estoi", "decoder: ESTOI"), ("distill_mos", "decoder: DistillMOS")):
            panels.append((title, [(asked.before + float(row["hours"]), float(row[name])) for row in rows]))
    lines = [f"{title},{hours:.3f},{value:.4f}\n" for title, points in panels for hours, value in points]
    store.publish_bytes(str(asked.out / "speech16k-curve.png"), draw(panels))
    store.publish_bytes(str(asked.out / "speech16k-curve.csv"), "".join(["figure,cpu_hours,value\n", *lines]).encode())


if __name__ == "__main__":
    main()
