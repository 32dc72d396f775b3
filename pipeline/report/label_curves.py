"""Scores over the number of labels: a curve with intervals for each question, and how many labels a run saves."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.evaluation.aggregates import MEAN
from pipeline.evaluation.evidence_row import EvidenceRow
from pipeline.evaluation.probe_spec import ProbeSpec
from pipeline.report.figure_numbers import Plot, label_plot
from pipeline.report.figures import LabelPoint, label_curve
from pipeline.report.label_words import label_sentence, most_fewer
from pipeline.report.probe_words import MEASURES, probe_title
from pipeline.report.results import Results


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
