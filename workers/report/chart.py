"""A chart panel as SVG text: scales, ticks, axes and marks. Colours and type come from the page's style sheet.

Panels are drawn for a fixed small size, so that their text stays readable on a phone; bigger pictures are several
panels. Everything that comes from outside is escaped by ``Markup.format``.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from markupsafe import Markup

WIDTH, HEIGHT = 336, 232
LEFT, RIGHT, TOP, BOTTOM = 52, 14, 14, 40
_STEPS = (1.0, 2.0, 2.5, 5.0, 10.0)


@dataclass(frozen=True)
class Scale:
    """Maps values of ``low``..``high`` to pixels ``start``..``end``; logarithmic when ``log``."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        """Pixel of a value; values outside the range are held at its ends."""
        low, high = self._bend(self.low), self._bend(self.high)
        share = (self._bend(min(max(value, self.low), self.high)) - low) / (high - low)
        return self.start + share * (self.end - self.start)

    def ticks(self, about: int = 5) -> list[float]:
        """Round values within the range: 1, 2, 5 times powers of ten when logarithmic and wide enough for two."""
        decades = [v for v in _decades(self.low, self.high) if self.low <= v <= self.high] if self.log else []
        if len(decades) >= 2:
            return decades
        step = _round_step((self.high - self.low) / about)
        first = math.ceil(self.low / step - 1e-9)
        return [number * step for number in range(first, math.floor(self.high / step + 1e-9) + 1)]

    def _bend(self, value: float) -> float:
        return math.log10(value) if self.log else value


def _decades(low: float, high: float) -> list[float]:
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    steps = (1, 2, 5) if high / low < 300 else (1,)
    return [step * 10.0**power for power in powers for step in steps]


def _round_step(rough: float) -> float:
    power = 10.0 ** math.floor(math.log10(rough))
    return power * next(step for step in _STEPS if step * power >= rough * 0.999)


def x_scale(values: Iterable[float], *, log: bool = False, margin: float = 0.05, left: float = LEFT) -> Scale:
    """A horizontal scale of the panel that holds all values."""
    return _holding(list(values), left, WIDTH - RIGHT, log, margin)


def y_scale(values: Iterable[float], *, margin: float = 0.08) -> Scale:
    """A vertical scale of the panel that holds all values, larger ones higher."""
    return _holding(list(values), HEIGHT - BOTTOM, TOP, False, margin)


def _holding(values: list[float], start: float, end: float, log: bool, margin: float) -> Scale:
    low, high = min(values), max(values)
    if log:
        spread = max(math.log10(high / low), 0.1) * margin
        return Scale(low / 10**spread, high * 10**spread, start, end, log=True)
    spread = (high - low) * margin or max(abs(high) * margin, 0.01)
    return Scale(low - spread, high + spread, start, end)


def number(value: float) -> str:
    """A tick's label: as few digits as tell it apart."""
    if abs(value) >= 10_000:
        return f"{value / 1000:g}k"
    return f"{round(value, 6):g}".replace("-", "−")


def panel(
    title: str,
    summary: str,
    marks: Iterable[Markup],
    *,
    x: Scale,
    y: Scale | None,
    x_label: str,
    y_label: str = "",
    height: int = HEIGHT,
    x_ticks: Sequence[tuple[float, str]] | None = None,
) -> Markup:
    """One panel as ``<figure>``: title, axes and marks; ``summary`` is what a screen reader says instead."""
    drawn = [_x_axis(x, x_label, height, x_ticks)]
    if y is not None:
        drawn.append(_y_axis(y, y_label))
    body = Markup("").join([*drawn, *marks])
    return Markup(
        '<figure class="panel"><figcaption>{}</figcaption>'
        '<svg viewBox="0 0 {} {}" role="img" aria-label="{}">{}</svg></figure>'
    ).format(title, WIDTH, height, summary, body)


def _x_axis(x: Scale, label: str, height: int, ticks: Sequence[tuple[float, str]] | None) -> Markup:
    base = height - BOTTOM
    named = [(value, number(value)) for value in x.ticks()] if ticks is None else ticks
    parts = [line(x.start, base, x.end, base, "axis")]
    for value, name in named:
        parts.append(line(x(value), base, x(value), base + 4, "axis"))
        parts.append(text(x(value), base + 16, name, "tick", anchor="middle"))
    parts.append(text((x.start + x.end) / 2, base + 33, label, "label", anchor="middle"))
    return Markup("").join(parts)


def _y_axis(y: Scale, label: str) -> Markup:
    parts = []
    for value in y.ticks(4):
        parts.append(line(LEFT, y(value), WIDTH - RIGHT, y(value), "grid"))
        parts.append(text(LEFT - 6, y(value) + 4, number(value), "tick", anchor="end"))
    if label:
        middle = (TOP + HEIGHT - BOTTOM) / 2
        turned = Markup('<text class="label" text-anchor="middle" transform="translate(10 {}) rotate(-90)">{}</text>')
        parts.append(turned.format(_px(middle), label))
    return Markup("").join(parts)


def spaced(heights: Sequence[float], gap: float) -> list[float]:
    """Ascending heights, moved as little as keeps names ``gap`` apart and above the axis."""
    placed: list[float] = []
    for height in heights:
        placed.append(max(height, placed[-1] + gap) if placed else height)
    lowest = HEIGHT - BOTTOM - 3.0
    for place in reversed(range(len(placed))):
        placed[place] = min(placed[place], lowest)
        lowest = placed[place] - gap
    return placed


def _px(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")


def line(x1: float, y1: float, x2: float, y2: float, kind: str) -> Markup:
    """A straight line of the class ``kind``."""
    return Markup('<line class="{}" x1="{}" y1="{}" x2="{}" y2="{}"/>').format(kind, *map(_px, (x1, y1, x2, y2)))


def rectangle(x: float, y: float, width: float, height: float, kind: str) -> Markup:
    """A filled rectangle of the class ``kind``."""
    shape = Markup('<rect class="{}" x="{}" y="{}" width="{}" height="{}"/>')
    return shape.format(kind, *map(_px, (x, y, max(width, 0.5), max(height, 0.0))))


def polyline(points: Iterable[tuple[float, float]], kind: str) -> Markup:
    """A line through pixels (x, y)."""
    joined = " ".join(f"{_px(x)},{_px(y)}" for x, y in points)
    return Markup('<polyline class="{}" points="{}"/>').format(kind, joined)


def text(x: float, y: float, content: str, kind: str, *, anchor: str = "start") -> Markup:
    """Text with its base line at ``y``."""
    return Markup('<text class="{}" x="{}" y="{}" text-anchor="{}">{}</text>').format(
        kind, _px(x), _px(y), anchor, content
    )


def mark(x: float, y: float, shape: int, kind: str, *, size: float = 4.5, title: str = "") -> Markup:
    """A point, in one of six shapes, so that systems differ without their colours."""
    outlines = (
        "M{l},{y}a{s},{s} 0 1 0 {d},0a{s},{s} 0 1 0 -{d},0z",
        "M{l},{t}H{r}V{b}H{l}z",
        "M{x},{t}L{r},{b}H{l}z",
        "M{x},{t2}L{r2},{y}L{x},{b2}L{l2},{y}z",
        "M{x},{b}L{l},{t}H{r}z",
        "M{l},{t}L{r},{b}M{r},{t}L{l},{b}",
    )
    near, far = size, size * 1.3
    path = outlines[shape % len(outlines)].format(
        x=_px(x), y=_px(y), s=_px(size), d=_px(2 * size),
        l=_px(x - near), r=_px(x + near), t=_px(y - near), b=_px(y + near),
        l2=_px(x - far), r2=_px(x + far), t2=_px(y - far), b2=_px(y + far),
    )  # fmt: skip
    told = Markup("<title>{}</title>").format(title) if title else ""
    return Markup('<path class="{}" d="{}">{}</path>').format(kind, path, told)
