"""Pictures of a run: curves of its metrics, and spectrograms of what the codec reconstructs."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from syllabary.workers.training.history import History

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_INK, _PALE = "#1f4e79", "#9db9d3"
_VALID = "#c0504d"


def loss_curve(history: History, name: str, *, title: str, unit: str, marks: Sequence[tuple[int, str]] = ()) -> bytes:
    """Draw one metric over the steps as PNG: each logged step and its running mean for training, dots for validation.

    Args:
        history: the run's numbers.
        name: the metric.
        title: above the picture.
        unit: of the metric, on the vertical axis.
        marks: (step, text) pairs shown as vertical lines.
    """
    figure, axes = _figure(8, 4.5)
    _plot(axes, history, name)
    for step, text in marks:
        axes.axvline(step, color="grey", linewidth=0.8, linestyle="--")
        axes.text(step, axes.get_ylim()[1], f" {text}", va="top", fontsize=8, color="grey")
    axes.set(title=title, xlabel="optimizer step", ylabel=f"{name} ({unit})")
    axes.legend(frameon=False)
    return _png(figure)


def overview(history: History, *, title: str) -> bytes:
    """Draw all metrics of training and validation as PNG, one small panel each."""
    names = sorted({*history.names("train"), *history.names("valid")})
    columns = 4
    rows = max(1, -(-len(names) // columns))
    figure, grid = _figure(4 * columns, 2.6 * rows, rows, columns)
    panels: list[Axes] = list(np.ravel(grid))
    for axes, name in zip(panels, names, strict=False):
        _plot(axes, history, name)
        axes.set_title(name, fontsize=9)
        axes.tick_params(labelsize=7)
    for axes in panels[len(names) :]:
        axes.set_visible(False)
    figure.suptitle(f"{title} · blue: training, red: validation · horizontal: optimizer step")
    return _png(figure)


def dims(history: History, *, title: str) -> bytes:
    """Draw each validation's figures of each latent dim as PNG, one panel per figure: dims over validations."""
    families: dict[str, list[list[float]]] = {}
    for name, values in history.by_name("dims").items():
        families.setdefault(name.partition("[")[0], []).append(values)
    figure, grid = _figure(3.2 * max(1, len(families)), 5, 1, max(1, len(families)))
    for axes, (name, rows) in zip(np.ravel(grid), families.items(), strict=False):
        picture = axes.imshow(np.array(rows), aspect="auto", origin="lower", interpolation="nearest", cmap="viridis")
        axes.set(title=name, xlabel="validation", ylabel="dim")
        figure.colorbar(picture, ax=axes)
    figure.suptitle(title)
    return _png(figure)


def spectrograms(clips: Sequence[tuple[str, np.ndarray]], sample_rate: int) -> bytes:
    """Draw log-magnitude spectrograms of clips below each other, on one scale, as PNG.

    Args:
        clips: (title, samples float32 [num_samples]) pairs.
        sample_rate: in Hz.
    """
    figure, grid = _figure(9, 2.6 * len(clips), len(clips), 1)
    for axes, (title, samples) in zip(np.ravel(grid), clips, strict=True):
        axes.imshow(
            _log_magnitude(samples),
            origin="lower",
            aspect="auto",
            cmap="magma",
            vmin=-90,
            vmax=0,
            extent=(0, len(samples) / sample_rate, 0, sample_rate / 2000),
        )
        axes.set(title=title, xlabel="time (s)", ylabel="frequency (kHz)")
        axes.title.set_fontsize(9)
    return _png(figure, dpi=80)


def _log_magnitude(samples: np.ndarray, n_fft: int = 512, hop: int = 128) -> np.ndarray:
    """dB below the loudest possible sine: float [n_fft / 2 + 1, windows]."""
    padded = np.pad(samples, (0, max(0, n_fft - len(samples))))
    windows = np.lib.stride_tricks.sliding_window_view(padded, n_fft)[::hop] * np.hanning(n_fft)
    magnitude = np.abs(np.fft.rfft(windows)) / (n_fft / 4)
    return 20 * np.log10(magnitude.T + 1e-5)


def _plot(axes: Axes, history: History, name: str) -> None:
    steps, values = history.series("train", name)
    if steps:
        axes.plot(steps, values, color=_PALE, linewidth=0.8, label="training")
        axes.plot(steps, _running_mean(values), color=_INK, linewidth=1.6, label="training, running mean")
    steps, values = history.series("valid", name)
    if steps:
        axes.plot(steps, values, color=_VALID, marker="o", markersize=3.5, linewidth=1.2, label="validation")
    low, high = axes.dataLim.intervaly
    if low > 0 and high > 20 * low:
        axes.set_yscale("log")
    axes.grid(color="#e6e6e6", linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)


def _running_mean(values: Sequence[float]) -> list[float]:
    """Exponential mean over about a twentieth of the run, without the bias towards its start."""
    weight = 1 - 1 / max(2.0, len(values) / 20)
    total = norm = 0.0
    means = []
    for value in values:
        total, norm = total * weight + value, norm * weight + 1
        means.append(total / norm)
    return means


def _figure(width: float, height: float, rows: int = 1, columns: int = 1) -> tuple[Figure, Any]:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    return plt.subplots(rows, columns, figsize=(width, height), layout="constrained")


def _png(figure: Figure, dpi: int = 110) -> bytes:
    import matplotlib.pyplot as plt

    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi, metadata={"Software": None})
    plt.close(figure)
    return buffer.getvalue()
