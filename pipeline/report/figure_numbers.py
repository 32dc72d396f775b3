"""Write the numbers behind the figures as CSV inside the page: a data URI that a link saves without script."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import quote

import numpy as np
from markupsafe import Markup

from pipeline.report.figures import Floats, ForestRow, LabelPoint, thinned

# Of all maps of a page, so that it stays one that opens at once: some 4 MB.
MOST_MAP_VALUES = 500_000
# What a data URI may hold as it is, beside letters, digits and -._~; all else is escaped.
_PLAIN = ",:;()/"


@dataclass(frozen=True)
class Plot:
    """A drawn figure with its numbers.

    Attributes:
        picture: the SVG.
        file_name: under which the numbers are saved.
        csv: data URI of the numbers, a row per line, with a header.
    """

    picture: Markup
    file_name: str
    csv: str


@dataclass(frozen=True)
class Numbers:
    """Numbers of a picture that is no SVG: `csv` is their data URI, saved under `file_name`."""

    file_name: str
    csv: str


def map_numbers(file_name: str, position_um: Floats, values: Mapping[str, Floats], most_values: int) -> Numbers | None:
    """Return a map with a line per patch: its row in the store, its place, and what the map shows of it.

    Args:
        file_name: without its ending.
        position_um: (N, 2) x and y of the patches' upper-left pixels.
        values: (N,) of each column by its title; nan where nothing is shown.
        most_values: of a map that has more, nothing is returned.
    """
    if len(position_um) * len(values) > most_values:
        return None
    lines = np.column_stack([position_um, *values.values()]).tolist()
    rows = [(str(row), *line) for row, line in enumerate(lines)]
    return Numbers(f"{file_name}.csv", _csv(("row", "x_um", "y_um", *values), rows))


def forest_plot(picture: Markup, file_name: str, rows: Sequence[ForestRow], value: str) -> Plot:
    """Return a forest plot with a line per target and run; `value` names what is plotted."""
    lines = [
        (row.label, one.name, one.value, one.low, one.high)
        for row in rows
        for one in row.estimates
        if math.isfinite(one.value)
    ]
    return _plot(picture, file_name, ("predicted", "run", value, "low", "high"), lines)


def label_plot(picture: Markup, file_name: str, runs: Mapping[str, Sequence[LabelPoint]], value: str) -> Plot:
    """Return a curve over labels with a line per run and number of labels."""
    lines = [(run, point.labels, point.value, point.low, point.high) for run, own in runs.items() for point in own]
    return _plot(picture, file_name, ("run", "labelled patches", value, "low", "high"), lines)


def training_plot(
    picture: Markup, file_name: str, runs: Mapping[str, tuple[Sequence[float], Sequence[float]]], value: str
) -> Plot:
    """Return a curve over training steps with a line per run and drawn point."""
    lines = [
        (run, step, one)
        for run, (steps, values) in runs.items()
        for step, one in zip(*thinned(steps, values), strict=True)
    ]
    return _plot(picture, file_name, ("run", "training step", value), lines)


def drops_plot(picture: Markup, file_name: str, rows: Sequence[tuple[str, Sequence[tuple[str, int]]]]) -> Plot:
    """Return the patches kept and dropped with a line per slide."""
    names = [name for name, _ in rows[0][1]]
    lines: list[Sequence[str | float]] = [(slide, *(count for _, count in counts)) for slide, counts in rows]
    return _plot(picture, file_name, ("slide", *names), lines)


def scatter_plot(picture: Markup, file_name: str, points: Mapping[str, Floats]) -> Plot:
    """Return a scatter with a line per point (x, y) of each slide."""
    lines = [(slide, *point) for slide, own in points.items() for point in own.tolist()]
    return _plot(picture, file_name, ("slide", "component 1", "component 2"), lines)


def _plot(picture: Markup, file_name: str, columns: Sequence[str], lines: Iterable[Sequence[str | float]]) -> Plot:
    return Plot(picture, f"{file_name}.csv", _csv(columns, lines))


def _csv(columns: Sequence[str], lines: Iterable[Sequence[str | float]]) -> str:
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows([_cell(value) for value in line] for line in lines)
    return f"data:text/csv;charset=utf-8,{quote(stream.getvalue(), safe=_PLAIN)}"


def _cell(value: str | float) -> str:
    """Return six figures of a number, nothing for one that is not there."""
    if isinstance(value, str):
        return value
    return f"{value:.6g}" if math.isfinite(value) else ""
