"""Draw the report's figures: forest plots, training curves, patches kept and dropped, maps of embeddings."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from pipeline.report.svg import Axis, figure, linear, mark, tag, text, tick_label

Floats = NDArray[np.float64]

COLOURS = 8  # how many the style sheet names
MOST_LABELS = 40  # of slides in one map; more would hide each other


@dataclass(frozen=True)
class Estimate:
    """One value with its interval; nan where there is none. `series` chooses colour and shape."""

    series: int
    name: str
    value: float
    low: float
    high: float


@dataclass(frozen=True)
class ForestRow:
    """A target with its estimates; `counts` stand small below its name, and a `strong` one sums up others."""

    label: str
    estimates: Sequence[Estimate]
    counts: str = ""
    strong: bool = False


def forest(
    rows: Sequence[ForestRow],
    *,
    name: str,
    axis_label: str,
    zero_line: bool,
    counts: str = "",
    width: float = 460.0,
) -> Markup:
    """Return intervals row by row: a row is a target, its estimates are drawn below each other.

    Args:
        rows: of the figure.
        name: what the figure shows, for screen readers.
        axis_label: quantity and unit.
        zero_line: whether 0 belongs to the picture as the line of no difference.
        counts: what the counts below the labels are; empty for none.
        width: of the picture in its own units; text is 12 of them high.
    """
    left, per_line = 118.0, 13.0
    heights = [max(2 if row.counts else 1, len(row.estimates)) * per_line + 12 for row in rows]
    bottom = 14 + sum(heights)
    ends = [end for row in rows for e in row.estimates for end in (e.value, e.low, e.high)]
    axis = linear(ends, left, width - 12, with_zero=zero_line)
    parts = [_vertical_grid(axis, 8, bottom)]
    if zero_line:
        parts.append(tag("line", x1=axis(0), x2=axis(0), y1=8.0, y2=bottom, class_="zero"))
    y = 14.0
    for row, height in zip(rows, heights, strict=True):
        middle = y + (height - 12) / 2
        class_ = "label strong" if row.strong else "label"
        parts.append(text(left - 10, middle - (2 if row.counts else -4), _shortened(row.label, 16), class_, "end"))
        if row.counts:
            parts.append(text(left - 10, middle + 11, row.counts, "tick", "end"))
        for index, estimate in enumerate(row.estimates):
            parts.append(_estimate(axis, estimate, y + index * per_line + per_line / 2))
        y += height
        parts.append(tag("line", x1=0.0, x2=width, y1=y - 6, y2=y - 6, class_="rule"))
    parts.append(text((left + width - 12) / 2, bottom + 34, axis_label, "axis", "middle"))
    if counts:
        parts.append(text(left - 10, bottom + 34, counts, "tick", "end"))
    return figure(width, bottom + 42, name, *parts)


@dataclass(frozen=True)
class LabelPoint:
    """A score with its interval at a number of labels."""

    labels: int
    value: float
    low: float
    high: float


def label_curve(
    runs: Mapping[str, Sequence[LabelPoint]], series: Mapping[str, int], *, name: str, quantity: str
) -> Markup:
    """Return scores over the number of labels, on a logarithmic axis; runs are shifted so that bars do not overlap."""
    width, height, left, bottom = 520.0, 300.0, 52.0, 250.0
    points = [point for own in runs.values() for point in own]
    labels = sorted({point.labels for point in points})
    across = Axis(labels[0] / 1.25, labels[-1] * 1.25, left, width - 14, logarithmic=True)
    up = linear([end for point in points for end in (point.value, point.low, point.high)], bottom, 24)
    parts = []
    for tick in up.ticks(5):
        parts.append(tag("line", x1=left, x2=width - 14, y1=up(tick), y2=up(tick), class_="grid"))
        parts.append(text(left - 8, up(tick) + 4, tick_label(tick), "tick", "end"))
    taken = -math.inf
    for count in reversed(labels):
        if abs(across(count) - taken) > 34:
            parts.append(text(across(count), bottom + 18, str(count), "tick", "middle"))
            taken = across(count)
    for place, (run, own) in enumerate(runs.items()):
        shift = 5 * (place - (len(runs) - 1) / 2)
        line = " ".join(f"{across(point.labels) + shift:.1f},{up(point.value):.1f}" for point in own)
        parts.append(tag("polyline", tag("title", run), points=line, class_=_line(series[run])))
        parts += [_upright(point, across(point.labels) + shift, up, run, series[run]) for point in own]
    parts.append(text((left + width) / 2, height - 12, "labelled training patches", "axis", "middle"))
    parts.append(text(4, 10, quantity, "axis"))
    return figure(width, height, name, *parts)


def _upright(point: LabelPoint, x: float, up: Axis, run: str, series: int) -> Markup:
    colour = f"s{series % COLOURS}"
    tooltip = f"{run}, {point.labels} labels: {signed(point.value, 3)}"
    parts = []
    if math.isfinite(point.low):
        tooltip += f" (95 % interval {signed(point.low, 3)} to {signed(point.high, 3)})"
        parts.append(tag("line", x1=x, x2=x, y1=up(point.low), y2=up(point.high), class_=f"interval {colour}"))
    parts.append(mark(shape_of(series), x, up(point.value), 4, f"mark {colour}"))
    return tag("g", tag("title", tooltip), *parts)


def curves(
    runs: Mapping[str, tuple[Sequence[float], Sequence[float]]], series: Mapping[str, int], *, name: str, quantity: str
) -> Markup:
    """Return lines of one quantity over training steps; the steps on a logarithmic axis where they span much."""
    width, height, left, bottom = 460.0, 230.0, 52.0, 184.0
    steps = [step for x, _ in runs.values() for step in x]
    lowest, highest = max(1.0, min(steps)), max(2.0, *steps)
    across = Axis(lowest, highest, left, width - 14, logarithmic=highest / lowest > 30)
    up = linear([value for _, y in runs.values() for value in y], bottom, 24)  # below the name of the quantity
    parts = [_vertical_grid(across, 24, bottom)]
    for tick in up.ticks(4):
        parts.append(tag("line", x1=left, x2=width - 14, y1=up(tick), y2=up(tick), class_="grid"))
        parts.append(text(left - 8, up(tick) + 4, tick_label(tick), "tick", "end"))
    for run, (x, y) in runs.items():
        x, y = thinned(x, y)
        points = " ".join(f"{across(max(1.0, a)):.1f},{up(b):.1f}" for a, b in zip(x, y, strict=True))
        parts.append(tag("polyline", tag("title", run), points=points, class_=_line(series[run])))
    parts.append(text((left + width) / 2, height - 8, "training step", "axis", "middle"))
    parts.append(text(4, 10, quantity, "axis"))
    return figure(width, height, name, *parts)


def drop_bars(rows: Sequence[tuple[str, Sequence[tuple[str, int]]]], *, name: str) -> Markup:
    """Return stacked bars, one per slide: how many grid positions met which outcome, in shares of the slide's grid."""
    width, left, per_row = 720.0, 150.0, 26.0
    parts = []
    for index, (slide, counts) in enumerate(rows):
        y, total = index * per_row + 4, max(1, sum(count for _, count in counts))
        parts.append(text(left - 12, y + 14, _shortened(slide, 20), "label", "end"))
        x = left
        for fate, (label, count) in enumerate(counts):
            length = (width - left) * count / total
            if count:
                tooltip = tag("title", f"{slide}: {label}, {count} of {total}")
                parts.append(tag("rect", tooltip, x=x, y=y, width=length, height=18.0, class_=f"fate f{fate}"))
            x += length
    return figure(width, len(rows) * per_row + 4, name, *parts, class_="wide")


def scatter(
    points: Mapping[str, Floats], shares: Sequence[float], *, name: str, labelled: bool, size: float = 4.0
) -> Markup:
    """Return points (n, 2) by slide on the first two principal components.

    A slide is one path, so many points stay small.
    """
    width, height, left, bottom = 620.0, 400.0, 46.0, 356.0
    everything = np.concatenate(list(points.values()))
    across = linear(everything[:, 0].tolist(), left, width - 16)
    up = linear(everything[:, 1].tolist(), bottom, 12)
    parts = [tag("rect", x=left, y=12.0, width=width - 16 - left, height=bottom - 12, class_="frame")]
    for index, (slide, values) in enumerate(points.items()):
        if not len(values):
            continue
        if labelled:
            x, y = across(float(values[0, 0])), up(float(values[0, 1]))
            shape = mark(index // COLOURS, x, y, 6.0, f"mark s{index % COLOURS}")
            parts.append(tag("g", tag("title", slide), shape))
            if len(points) > MOST_LABELS:
                continue
            near_end = x > width - 110
            parts.append(
                text(
                    x + (-10 if near_end else 10), y + 4, _shortened(slide, 18), "label", "end" if near_end else "start"
                )
            )
        else:
            path = "".join(f"M{across(a):.1f} {up(b):.1f}h0" for a, b in values.tolist())
            parts.append(tag("path", tag("title", slide), d=path, class_=f"dots s{index % COLOURS}", stroke_width=size))
    parts.append(text((left + width) / 2, bottom + 28, _component(1, shares[0]), "axis", "middle"))
    label = _component(2, shares[1])
    parts.append(
        tag(
            "text",
            label,
            transform=f"translate(26 {bottom / 2 + 6:.0f}) rotate(-90)",
            class_="axis",
            text_anchor="middle",
        )
    )
    return figure(width, height, name, *parts, class_="wide")


def shape_of(series: int) -> int:
    """Return the shape of a series' marks: another one, too, for the next that has its colour."""
    return series + series // COLOURS


def swatch(series: int, shape: int) -> Markup:
    """Return the mark of a series, for a legend; decorative, as the name stands beside it."""
    return _swatch(mark(shape, 8, 8, 5, f"mark s{series % COLOURS}"))


def line_swatch(series: int) -> Markup:
    """Return the line of a series, likewise."""
    return _swatch(tag("line", x1=0.0, x2=16.0, y1=8.0, y2=8.0, class_=_line(series)))


def _swatch(shape: Markup) -> Markup:
    return tag("svg", shape, viewBox="0 0 16 16", class_="swatch", aria_hidden="true")


def _line(series: int) -> str:
    """Return classes of a series' line; those whose colour another one has already are dashed."""
    return f"line s{series % COLOURS}{' again' if series // COLOURS % 2 else ''}"


def _estimate(axis: Axis, estimate: Estimate, y: float) -> Markup:
    if not math.isfinite(estimate.value):
        return Markup("")
    colour = f"s{estimate.series % COLOURS}"
    tooltip = f"{estimate.name}: {signed(estimate.value, 3)}"
    parts = []
    if math.isfinite(estimate.low):
        tooltip += f" (95 % interval {signed(estimate.low, 3)} to {signed(estimate.high, 3)})"
        parts.append(
            tag("line", x1=axis(estimate.low), x2=axis(estimate.high), y1=y, y2=y, class_=f"interval {colour}")
        )
    parts.append(mark(shape_of(estimate.series), axis(estimate.value), y, 4, f"mark {colour}"))
    return tag("g", tag("title", tooltip), *parts)


def signed(value: float, decimals: int = 2, *, plus: bool = False) -> str:
    """Return a number with a true minus sign, never "−0"; with `plus`, a gain says that it is one."""
    shown = f"{value:{'+' if plus else ''}.{decimals}f}"
    return shown.lstrip("+-") if float(shown) == 0 else shown.replace("-", "−")


def _vertical_grid(axis: Axis, top: float, bottom: float) -> Markup:
    parts = []
    for tick in axis.ticks(5):
        parts.append(tag("line", x1=axis(tick), x2=axis(tick), y1=top, y2=bottom, class_="grid"))
        parts.append(text(axis(tick), bottom + 16, tick_label(tick), "tick", "middle"))
    return tag("g", *parts)


def _component(number: int, share: float) -> str:
    return f"component {number} ({100 * share:.0f} % of the variance)"


def _shortened(content: str, length: int) -> str:
    return content if len(content) <= length else content[: length - 1] + "…"


def thinned(x: Sequence[float], y: Sequence[float], most: int = 400) -> tuple[Sequence[float], Sequence[float]]:
    """Return at most `most` points: the means of equal stretches of steps."""
    if len(x) <= most:
        return x, y
    parts = np.array_split(np.arange(len(x)), most)
    a, b = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    return [float(a[part].mean()) for part in parts], [float(b[part].mean()) for part in parts]
