"""Scores over the number of labels: a curve with intervals for each question, and how many labels a run saves."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from pipeline.evaluation.aggregates import MEAN
from pipeline.evaluation.evidence_row import EvidenceRow
from pipeline.evaluation.probe_spec import ProbeSpec
from pipeline.report.evidence_views import MEASURES, probe_title
from pipeline.report.figures import CurvePoint, label_curve
from pipeline.report.results import Results


@dataclass(frozen=True)
class LabelCurve:
    """The curve of one question; `saved` are sentences on the labels that runs save."""

    title: str
    figure: Markup
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
        figure = label_curve(
            runs, series, name=f"{title}: score over the number of labels", quantity=f"mean {quantity}"
        )
        saved = [
            label_sentence(row, results.baseline)
            for row in results.evidence
            if row.spec == spec and row.target == MEAN and row.run != results.baseline
        ]
        found.append(LabelCurve(title, figure, tuple(sentence for sentence in saved if sentence)))
    return found


def label_sentence(row: EvidenceRow, baseline: str) -> str:
    """Return how many labels a run saves, in a sentence; empty where that was not measured."""
    ratio, low, high = row.fewer_labels, row.fewer_labels_within.low, row.fewer_labels_within.high
    if not math.isfinite(ratio):
        return ""
    if ratio == 0:
        return f"“{row.run}” does not reach the full score of “{baseline}” with any number of labels."
    around = f" (95 % interval {times(low)} to {times(high)})" if math.isfinite(low) else ""
    how = f"{times(ratio)} times fewer labels" if ratio >= 1.05 else "as many labels"
    return f"“{row.run}” reaches the full score of “{baseline}” with {how}{around}."


def times(ratio: float) -> str:
    """Return a ratio with two figures; below 1 more labels are needed than there are, or an unknown number."""
    if ratio < 1:
        return "none fewer"
    return f"{ratio:.1f}" if ratio < 10 else f"{ratio:.0f}"


def _points(rows: Sequence[EvidenceRow], run: str, spec: ProbeSpec) -> list[CurvePoint]:
    points = [
        CurvePoint(row.train_patches, row.score, row.within.low, row.within.high)
        for row in rows
        if row.run == run and row.target == MEAN and row.spec.on(None) == spec and math.isfinite(row.score)
    ]
    return sorted(points, key=lambda point: point.labels)
