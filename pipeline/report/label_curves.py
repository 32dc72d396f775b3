"""Draw scores over the number of labels for each question, and say how many labels a run saves."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.evaluation.aggregates import MEAN
from pipeline.evaluation.evidence_row import EvidenceRow
from pipeline.evaluation.probe_spec import ProbeSpec
from pipeline.report.figure_numbers import Plot, label_plot
from pipeline.report.figures import LabelPoint, label_curve
from pipeline.report.probe_words import MEASURES, probe_title
from pipeline.report.results import Results

# Of the largest ratio: the table of scores rounds both.
_ROUNDING = 1e-3


@dataclass(frozen=True)
class LabelCurve:
    """The curve of one question; `saved` are sentences on the labels that runs save."""

    title: str
    figure: Plot
    saved: tuple[str, ...]


def label_curves(results: Results, series: dict[str, int]) -> list[LabelCurve]:
    """Return a curve for every probe that was fitted on few labels."""
    found = []
    for spec in dict.fromkeys(row.spec.on(None) for row in results.evidence if row.spec.labels is not None):
        runs = {
            run: points
            for run in dict.fromkeys(row.run for row in results.evidence)
            if len(points := _points(results.evidence, run, spec)) > 1
        }
        if not runs:
            continue
        title, quantity = probe_title(spec), MEASURES.get(spec.mean_metric, spec.mean_metric)
        picture = label_curve(
            runs, series, name=f"{title}: score over the number of labels", quantity=f"mean {quantity}"
        )
        figure = label_plot(picture, f"{spec.name}-labels", runs, f"mean {quantity}")
        saved = [
            label_sentence(row, results.baseline, most_fewer(row, results.evidence))
            for row in results.evidence
            if row.spec == spec and row.target == MEAN and row.run != results.baseline
        ]
        found.append(LabelCurve(title, figure, tuple(sentence for sentence in saved if sentence)))
    return found


def _points(rows: Sequence[EvidenceRow], run: str, spec: ProbeSpec) -> list[LabelPoint]:
    points = [
        LabelPoint(row.train_patches, row.score, row.within.low, row.within.high)
        for row in rows
        if row.run == run and row.target == MEAN and row.spec.on(None) == spec and math.isfinite(row.score)
    ]
    return sorted(points, key=lambda point: point.labels)


def most_fewer(row: EvidenceRow, rows: Sequence[EvidenceRow]) -> float:
    """Return the largest ratio that evaluate can find: that of all labels to the fewest that were fitted.

    A run that needs as many times fewer labels may need fewer still. Infinite where no fewer labels were fitted.
    """
    fitted = [
        one.train_patches
        for one in rows
        if (one.run, one.target, one.spec.on(None)) == (row.run, row.target, row.spec)
        if 0 < one.train_patches < row.train_patches
    ]
    return row.train_patches / min(fitted) if fitted else math.inf


def times(ratio: float, most: float = math.inf) -> str:
    """Return a ratio with two figures; below 1 more labels are needed than there are, or an unknown number."""
    if ratio < 1:
        return "none fewer"
    number = f"{ratio:.1f}" if ratio < 10 else f"{ratio:.0f}"
    return f"{number} or more" if ratio >= most * (1 - _ROUNDING) else number


def label_sentence(row: EvidenceRow, baseline: str, most: float = math.inf) -> str:
    """Return how many labels a run saves, in a sentence; empty where that was not measured.

    Args:
        row: of the run, on all labels.
        baseline: the run whose full score is to be reached.
        most: the largest ratio that could be found.
    """
    ratio, low, high = row.fewer_labels, row.fewer_labels_within.low, row.fewer_labels_within.high
    if not math.isfinite(ratio):
        return ""
    if ratio == 0:
        return f"“{row.run}” does not reach the full score of “{baseline}” with any number of labels."
    ends = list(dict.fromkeys((times(low, most), times(high, most))))
    around = f" (95 % interval {' to '.join(ends)})" if math.isfinite(low) else ""
    how = f"{times(ratio, most)} times fewer labels" if ratio >= 1.05 else "as many labels"
    return f"“{row.run}” reaches the full score of “{baseline}” with {how}{around}."
