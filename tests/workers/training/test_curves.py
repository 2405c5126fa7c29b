"""The pictures of a run, by the lines that are drawn in them."""

from __future__ import annotations

import struct
from collections.abc import Iterator

import matplotlib.pyplot as plt
import numpy as np
import pytest

from syllabary.workers.training import curves
from syllabary.workers.training.history import History


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[plt.Figure]]:
    """Every figure as it is when it becomes a PNG."""
    figures: list[plt.Figure] = []
    png = curves._png

    def kept(figure: plt.Figure, dpi: int = 110) -> bytes:
        figures.append(figure)
        return png(figure, dpi)

    monkeypatch.setattr(curves, "_png", kept)
    yield figures
    for figure in figures:
        plt.close(figure)


def history(values: list[float], valid: dict[int, float]) -> History:
    made = History()
    for step, value in enumerate(values, start=1):
        made.add(step, "train", {"loss": value})
    for step, value in valid.items():
        made.add(step, "valid", {"loss": value})
    return made


def test_the_running_mean_of_a_short_run_halves_what_was_before(drawn: list[plt.Figure]) -> None:
    picture = curves.loss_curve(history([1, 2, 4], {0: 3, 3: 2.5}), "loss", title="a run", unit="nats")
    lines = {line.get_label(): line.get_xydata() for line in drawn[0].axes[0].lines}
    assert np.array_equal(lines["training"], [(1, 1), (2, 2), (3, 4)])
    # 1; (1/2 + 2) / (1/2 + 1); (1/4 + 1 + 4) / (1/4 + 1/2 + 1)
    assert np.allclose(lines["training, running mean"], [(1, 1), (2, 5 / 3), (3, 3)])
    assert np.array_equal(lines["validation"], [(0, 3), (3, 2.5)])
    assert drawn[0].axes[0].get_ylabel() == "loss (nats)" and picture.startswith(b"\x89PNG")


def test_a_curve_is_sixteen_to_nine_and_fits_a_page_of_900_points() -> None:
    picture = curves.loss_curve(history([1, 2], {}), "loss", title="a run", unit="nats")
    assert picture[12:16] == b"IHDR" and struct.unpack(">II", picture[16:24]) == (880, 495)


def test_the_running_mean_of_a_long_run_reaches_over_a_twentieth_of_it() -> None:
    """Of 80 values the last counts as much as the next three quarters: 1, 3/4, 9/16, ..."""
    values = list(np.random.default_rng(0).uniform(size=80))
    weights = 0.75 ** np.arange(79, -1, -1)
    assert curves._running_mean(values)[-1] == pytest.approx(np.average(values, weights=weights))
    assert curves._running_mean([5.0] * 80) == pytest.approx([5.0] * 80)


@pytest.mark.parametrize(("values", "scale"), [([1, 21], "log"), ([1, 20], "linear"), ([-1, 30], "linear")])
def test_what_falls_by_more_than_twentyfold_is_drawn_by_its_logarithm(
    drawn: list[plt.Figure], values: list[float], scale: str
) -> None:
    curves.loss_curve(history(values, {}), "loss", title="", unit="")
    assert drawn[0].axes[0].get_yscale() == scale


def test_a_sine_of_full_scale_is_0_db_at_its_frequency() -> None:
    levels = curves._log_magnitude(np.sin(2 * np.pi * 1000 / 16_000 * np.arange(4096)))
    assert levels.shape == (257, (4096 - 512) // 128 + 1)
    assert levels.argmax(axis=0).tolist() == [1000 * 512 // 16_000] * levels.shape[1]
    assert np.allclose(levels.max(axis=0), 0, atol=0.1)
