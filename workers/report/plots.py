"""The plots of the report page, as SVG panels: what belongs together stands in small multiples on equal axes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from markupsafe import Markup

from syllabary.workers.report import chart as svg
from syllabary.workers.report.card import Agreement, Difference, Metric, Rate, ReportCard, Resilience, System
from syllabary.workers.report.chart import Scale

ROW, ROWS_LEFT = 19, 112
STRIP_AT_MOST = 60  # more utterances than these are shown as a histogram: their strokes would melt into a bar
_CLASSES = 6
Values = Mapping[tuple[str, str], Sequence[float]]
EndName = tuple[float, str, str]  # height, text and class of a name at the right end of what it names


def style_of(card: ReportCard) -> dict[str, tuple[str, int]]:
    """CSS class and shape of the mark of every system: accent and circle for ours, grey for ceilings and floors."""
    styles, baselines = {}, 0
    for system in card.systems:
        if system.kind == "baseline":
            styles[system.name] = (f"b{baselines % _CLASSES}", 1 + baselines % (_CLASSES - 1))
            baselines += 1
        else:
            styles[system.name] = ("ours", 0) if system.kind == "ours" else ("reference", 0)
    return styles


def rate_of(system: System) -> float | None:
    """The bit/s that a system is plotted at: its payload, or the next best notion that it has."""
    rates = system.bitrates
    return next((r for r in (rates.payload, rates.nominal, rates.stored, rates.entropy) if r), None)


def key(card: ReportCard, system: System) -> Markup:
    """The mark of a system, for a legend or a table."""
    style, shape = style_of(card)[system.name]
    return Markup('<svg viewBox="0 0 14 14" aria-hidden="true">{}</svg>').format(
        svg.mark(7, 7, shape, f"{_dot(shape)} {style}")
    )


def _dot(shape: int) -> str:
    return "cross" if shape == 5 else "dot"


def better(metric: Metric) -> str:
    """What is good, in words."""
    return f"{metric.direction} is better"


def axis_label(metric: Metric) -> str:
    """The metric with its unit."""
    return f"{metric.label} ({metric.unit})" if metric.unit else metric.label


def rate_distortion(card: ReportCard, metric: Metric) -> Markup | None:
    """Quality over bit rate, with intervals; systems without a rate are level lines. None when ours has no score."""
    scored = [(system, score) for system in card.systems if (score := card.score(system.name, metric.name))]
    rated = [(rate, system, score) for system, score in scored if (rate := rate_of(system))]
    if not any(system.kind == "ours" for _, system, _ in rated):
        return None
    x = svg.x_scale([rate for rate, _, _ in rated], log=True, margin=0.12)
    y = svg.y_scale([v for _, s in scored for v in (s.mean, s.low, s.high) if v is not None])
    levels = [(s.label, score.mean) for s, score in scored if not rate_of(s)]
    lines, names = _level_lines(levels, x, y)
    marks, styles = [*lines, *_end_names(names, x)], style_of(card)
    for rate, system, score in sorted(rated, key=lambda point: point[1].kind == "ours"):
        style, shape = styles[system.name]
        if score.low is not None and score.high is not None:
            marks.append(svg.line(x(rate), y(score.low), x(rate), y(score.high), f"whisker {style}"))
        told = f"{system.label}: {score.mean:.3g} at {rate:,.0f} bit/s"
        size = 6.0 if system.kind == "ours" else 4.5
        marks.append(svg.mark(x(rate), y(score.mean), shape, f"{_dot(shape)} {style}", size=size, title=told))
    summary = "; ".join(f"{s.label} {score.mean:.3g} at {rate:,.0f} bit/s" for rate, s, score in rated)
    return svg.panel(
        f"{metric.label}: {better(metric)}", summary, marks, x=x, y=y, x_label="bit/s", y_label=axis_label(metric)
    )


def _level_lines(levels: Sequence[tuple[str, float]], x: Scale, y: Scale) -> tuple[list[Markup], list[EndName]]:
    """A dashed line for each level, and their names."""
    lines = [svg.line(x.start, y(value), x.end, y(value), "level") for _, value in levels]
    return lines, [(y(value) - 3, name, "tick") for name, value in levels]


def _end_names(names: Sequence[EndName], x: Scale) -> list[Markup]:
    """The names of lines and curves together, none over another."""
    ordered = sorted(names)
    heights = svg.spaced([height for height, _, _ in ordered], gap=11.5)
    placed = zip(ordered, heights, strict=True)
    return [svg.text(x.end, height, text, kind, anchor="end") for (_, text, kind), height in placed]


def _rows_height(num_rows: int) -> int:
    return svg.TOP + ROW * num_rows + svg.BOTTOM


def _row_name(row: int, label: str, style: str) -> Markup:
    shown = label if len(label) <= 17 else label[:16] + "…"
    return svg.text(ROWS_LEFT - 8, svg.TOP + ROW * row + 13, shown, f"name coloured {style}", anchor="end")


def spread(card: ReportCard, metric: Metric, values: Values) -> Markup | None:
    """Every utterance's value, one row per system: strokes, or a histogram when they are many. None without values."""
    rows = [(s, sorted(ordered)) for s in card.systems if (ordered := values.get((s.name, metric.name)))]
    if not rows:
        return None
    x = svg.x_scale(_bulk([value for _, ordered in rows for value in ordered]), left=ROWS_LEFT)
    marks, styles = [], style_of(card)
    for row, (system, ordered) in enumerate(rows):
        style, shape = styles[system.name]
        floor = svg.TOP + ROW * (row + 1) - 3
        marks += [_row_name(row, system.label, style), svg.line(x.start, floor, x.end, floor, "grid")]
        marks.append(
            _strip(ordered, x, floor, style) if len(ordered) <= STRIP_AT_MOST else _bars(ordered, x, floor, style)
        )
        if score := card.score(system.name, metric.name):
            told = f"{system.label}: mean {score.mean:.3g} of {score.num_utterances} utterances"
            marks.append(svg.mark(x(score.mean), floor, shape, f"{_dot(shape)} {style}", size=3.5, title=told))
    summary = "; ".join(f"{s.label} from {ordered[0]:.3g} to {ordered[-1]:.3g}" for s, ordered in rows)
    return svg.panel(
        f"{metric.label}: {better(metric)}", summary, marks, x=x, y=None, x_label=axis_label(metric),
        height=_rows_height(len(rows)),
    )  # fmt: skip


def _bulk(values: Sequence[float]) -> list[float]:
    """The range to show: one far outlier in a hundred must not press all others into a corner (it is drawn at the
    edge)."""
    ordered = sorted(values)
    cut = len(ordered) // 200
    return [ordered[cut], ordered[-1 - cut]]


def _strip(values: Sequence[float], x: Scale, floor: float, style: str) -> Markup:
    strokes = "".join(f"M{x(value):.1f} {floor}v-11" for value in values)
    return Markup('<path class="strip {}" d="{}"/>').format(style, strokes)


def _bars(values: Sequence[float], x: Scale, floor: float, style: str, width: int = 4) -> Markup:
    counts: dict[int, int] = {}
    for value in values:
        place = int((x(value) - x.start) // width)
        counts[place] = counts.get(place, 0) + 1
    most = max(counts.values())
    bars = "".join(
        f"M{x.start + place * width:.0f} {floor}v-{14 * count / most:.1f}h{width - 1}V{floor}z"
        for place, count in sorted(counts.items())
    )
    return Markup('<path class="histogram {}" d="{}"/>').format(style, bars)


def paired(card: ReportCard, metric: Metric, differences: Sequence[Difference]) -> Markup:
    """Ours minus each baseline, with intervals; open marks where the interval holds zero."""
    ends = [v for d in differences for v in (d.mean, d.low, d.high) if v is not None]
    x = svg.x_scale([0.0, *ends], left=ROWS_LEFT)
    height = _rows_height(len(differences))
    marks = [svg.line(x(0), svg.TOP - 4, x(0), height - svg.BOTTOM, "zero")]
    labels, styles = {system.name: system.label for system in card.systems}, style_of(card)
    for row, difference in enumerate(differences):
        style, middle = styles[difference.baseline][0], svg.TOP + ROW * row + 9
        marks.append(_row_name(row, labels[difference.baseline], style))
        if difference.low is not None and difference.high is not None:
            marks.append(svg.line(x(difference.low), middle, x(difference.high), middle, f"whisker {style}"))
        kind = "dot" if difference.exceeds else "dot open"
        marks.append(svg.mark(x(difference.mean), middle, 0, f"{kind} {style}", title=f"{difference.mean:+.3g}"))
    side = "right" if metric.direction == "higher" else "left"
    unit = "points" if metric.unit == "%" else metric.unit
    summary = "; ".join(f"ours minus {labels[d.baseline]}: {d.mean:+.3g}" for d in differences)
    return svg.panel(
        f"{metric.label}: better to the {side}", summary, marks, x=x, y=None,
        x_label=f"ours − baseline{f', {unit}' if unit else ''}", height=height,
    )  # fmt: skip


DISTURBANCES = {
    "shift": "Shifted in time",
    "gain": "Louder or softer",
    "noise": "With noise",
    "band_limit": "Band limited",
}


def agreement(rows: Sequence[Agreement]) -> Markup:
    """Share of tokens and of digits that one disturbance leaves as they were."""
    x = svg.x_scale([row.value for row in rows])
    curves = {
        "digits": ("reference", [(row.value, row.digits) for row in rows]),
        "tokens": ("ours", [(row.value, row.tokens) for row in rows]),
    }
    summary = "; ".join(f"{row.value:g} {row.unit}: tokens {row.tokens:.0%}, digits {row.digits:.0%}" for row in rows)
    drawn, names = _curves(curves, x, _share())
    return svg.panel(
        DISTURBANCES[rows[0].disturbance], summary, drawn + _end_names(names, x), x=x, y=_share(),
        x_label=rows[0].unit, y_label="share that stays equal", x_ticks=_only_tick([row.value for row in rows]),
    )  # fmt: skip


def _only_tick(values: Sequence[float]) -> list[tuple[float, str]] | None:
    """The value itself where there is just one, else None: round ticks."""
    return [(values[0], svg.number(values[0]))] if len(set(values)) == 1 else None


def _share() -> Scale:
    return Scale(0.0, 1.0, svg.HEIGHT - svg.BOTTOM, svg.TOP)


def resilience(metric: Metric, rows: Sequence[Resilience], levels: Sequence[tuple[str, float]]) -> Markup:
    """Quality over the share of tokens that were replaced, repaired and not, beside ``levels`` that give its scale."""
    x = svg.x_scale([row.token_error_rate for row in rows])
    y = svg.y_scale([*(row.mean for row in rows), *(value for _, value in levels)])
    curves = {
        name: (style, sorted((row.token_error_rate, row.mean) for row in rows if row.repair is repair))
        for name, style, repair in (("as is", "reference", False), ("repaired", "ours", True))
    }
    summary = "; ".join(
        f"{row.token_error_rate:.0%} wrong{', repaired' if row.repair else ''}: {row.mean:.3g}" for row in rows
    )
    (lines, level_names), (drawn, names) = _level_lines(levels, x, y), _curves(curves, x, y)
    return svg.panel(
        f"{metric.label}: {better(metric)}", summary, lines + drawn + _end_names(level_names + names, x), x=x, y=y,
        x_label="share of tokens replaced", y_label=axis_label(metric),
    )  # fmt: skip


def _curves(
    curves: Mapping[str, tuple[str, Sequence[tuple[float, float]]]], x: Scale, y: Scale
) -> tuple[list[Markup], list[EndName]]:
    """A line with dots a curve, and their names."""
    marks, names = [], []
    for name, (style, points) in curves.items():
        if not points:
            continue
        pixels = [(x(a), y(b)) for a, b in sorted(points)]
        marks.append(svg.polyline(pixels, f"curve {style}"))
        marks += [svg.mark(a, b, 0, f"dot {style}", size=3) for a, b in pixels]
        names.append((pixels[-1][1] - 7, name, f"name coloured {style}"))
    return marks, names


def level_use(rate: Rate) -> Markup:
    """Share of each level over all dims, beside the share of equal use."""
    shares = rate.level_share
    x = Scale(-0.6, len(shares) + 0.4, svg.LEFT, svg.WIDTH - svg.RIGHT)  # with room for the name of the line
    y = Scale(0.0, max(*shares, 1 / len(shares)) * 1.08, svg.HEIGHT - svg.BOTTOM, svg.TOP)
    width = min(40.0, (x(1) - x(0)) * 0.7)
    marks = [svg.rectangle(x(i) - width / 2, y(v), width, y(0) - y(v), "bar ours") for i, v in enumerate(shares)]
    lines, names = _level_lines([("equal use", 1 / len(shares))], x, y)
    marks += [*lines, *_end_names(names, x)]
    summary = "; ".join(f"level {level}: {share:.1%}" for level, share in enumerate(shares))
    named = [(float(level), str(level)) for level in range(len(shares))]
    return svg.panel("Use of the levels", summary, marks, x=x, y=y, x_label="level", y_label="share", x_ticks=named)


def position_use(rate: Rate) -> Markup:
    """Entropy of each token position, on the bits that its ids could carry."""
    use = rate.positions
    x = Scale(-0.6, len(use) - 0.4, svg.LEFT, svg.WIDTH - svg.RIGHT)
    y = Scale(0.0, max(math.log2(max(p.num_ids, 2)) for p in use) * 1.08, svg.HEIGHT - svg.BOTTOM, svg.TOP)
    width = (x(1) - x(0)) * 0.7
    marks = []
    for place, position in enumerate(use):
        for bits, kind in ((math.log2(position.num_ids), "bar possible"), (position.entropy_bits, "bar ours")):
            marks.append(svg.rectangle(x(place) - width / 2, y(bits), width, y(0) - y(bits), kind))
    summary = "; ".join(f"position {p.position}: {p.entropy_bits:.1f} of {math.log2(p.num_ids):.1f} bits" for p in use)
    every = max(1, -(-len(use) // 10))
    named = [(float(i), str(p.position)) for i, p in enumerate(use) if i % every == 0]
    return svg.panel(
        "Bits that each token carries", summary, marks, x=x, y=y, x_label="token position in the frame",
        y_label="bits per token", x_ticks=named,
    )  # fmt: skip
