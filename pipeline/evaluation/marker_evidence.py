"""Fit the probes of markers on one run's features, and score them by Pearson r within held-out slides."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from pipeline.evaluation.aggregates import Targets
from pipeline.evaluation.bootstrap import correlation_parts, explained, pearson, spearman
from pipeline.evaluation.held_out import HeldOut
from pipeline.evaluation.label_draws import LabelDraws
from pipeline.evaluation.probe_spec import ProbeSpec, Side, marker_probe_spec
from pipeline.evaluation.probed_rows import FittingRows, RunFeatures, fitted_together, held_out, held_out_truth
from pipeline.evaluation.probes import RidgeProbe, fit_ridge
from pipeline.evaluation.reading import Cohort
from pipeline.evaluation.scores import FittedProbe, ProbedTargets, Scores, curve_point, over_draws
from pipeline.settings import EvaluateSettings

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

METRIC = "pearson_r"
_VALUES_AT_ONCE = 2**22  # 32 MB
MOST_TARGETS = 64  # of which few-label probes tell each one; of more they tell the means


def probed_markers(
    features: RunFeatures,
    cohort: Cohort,
    training: FittingRows,
    draws: LabelDraws,
    targets: Targets,
    tested: HeldOut,
    settings: EvaluateSettings,
    side: Side = "sparse",
    fitted: tuple[RidgeProbe, Integers] | None = None,
) -> Iterator[ProbedTargets]:
    """Yield the ridge and nearest-neighbour probes of all markers, then the ridge probe on few labels.

    Args:
        features: of the run.
        cohort: the pairs.
        training: those that are fitted on.
        draws: of few labels.
        targets: the cohort's markers.
        tested: the held-out patches.
        settings: of the stage.
        side: whose features these are.
        fitted: the ridge probes, and the patches (T,) that each was fitted on, where they have been fitted already.
    """
    truths, patches = [held_out_truth(slide) for slide in held_out(cohort)], tested.patches

    def scored(predicted: Sequence[Floats], *, whole: bool) -> Scores:
        return marker_scores(truths, predicted, targets, patches, whole=whole)

    def probed(
        spec: ProbeSpec,
        draws: Sequence[Scores],
        fitted_on: Integers,
        penalty: Floats | None = None,
        shown: Targets = targets,
    ) -> ProbedTargets:
        point = None if spec.kind == "knn" else curve_point(draws, shown, fitted_on, tested)
        return ProbedTargets(spec, shown, over_draws(draws), FittedProbe(fitted_on, penalty), patches, point)

    ridge, fitted_on = fitted or fit_markers(features, training, settings.ridge)
    spec, near = marker_probe_spec("ridge", side), marker_probe_spec("knn", side)
    predicted = [ridge.predict(own) for own in features.held_out]
    yield probed(spec, [scored(predicted, whole=True)], fitted_on, ridge.penalty)
    yield probed(near, [scored(_nearest(features, training, settings.neighbours), whole=True)], fitted_on)
    many = len(targets.names) > MOST_TARGETS
    for count in draws.counts:
        few, labelled = [], np.zeros(len(targets.names), dtype=np.int64)
        for draw in range(len(draws.ranks)):
            probe, labelled = fit_markers(features, training, settings.ridge, draws, draw, count)
            found = scored([probe.predict(own) for own in features.held_out], whole=False)
            few.append(found.last(len(targets.means)) if many else found)
        if many:
            yield probed(spec.on(count), few, labelled.max(keepdims=True), shown=targets.only_means())
        else:
            yield probed(spec.on(count), few, labelled)


def fit_markers(
    features: RunFeatures,
    training: FittingRows,
    penalties: Sequence[float],
    draws: LabelDraws | None = None,
    draw: int = 0,
    count: int = 0,
) -> tuple[RidgeProbe, Integers]:
    """Return one probe of all markers, nan where none could be fitted, and how many patches each was fitted on.

    Args:
        features: of the run.
        training: what to fit on.
        penalties: to choose from.
        draws: of labels; None fits on all rows.
        draw: number of the draw.
        count: labels of the draw; markers that fewer rows have are left out.
    """
    markers = training.targets.shape[1]
    weights, intercept = np.full((features.training.shape[1], markers), np.nan), np.full(markers, np.nan)
    penalty, patches = np.full(markers, np.nan), np.zeros(markers, dtype=np.int64)
    for rows, columns in fitted_together(training):
        if draws is not None:
            if len(rows) < count:
                continue
            rows = draws.among(draw, rows, count)
        targets = training.targets[np.ix_(rows, columns)]
        found = fit_ridge(features.training[rows], targets, training.groups[rows], penalties)
        weights[:, columns], intercept[columns], penalty[columns] = found.weights, found.intercept, found.penalty
        patches[columns] = len(rows)
    return RidgeProbe(weights, intercept, penalty), patches


def _nearest(features: RunFeatures, training: FittingRows, neighbours: int) -> list[Floats]:
    """Return of each held-out slide the mean target (n, T) of the nearest rows that have it."""
    found = [np.full((len(own), training.targets.shape[1]), np.nan) for own in features.held_out]
    for rows, columns in fitted_together(training):
        values = training.targets[np.ix_(rows, columns)]
        for own, nearest in zip(found, features.nearest(rows, neighbours), strict=True):
            own[:, columns] = _means(values, nearest)
    return found


def _means(values: Floats, nearest: Integers) -> Floats:
    """Return the mean (n, T) of the values (m, T) of the nearest rows (n, k); a part at a time to bound memory."""
    rows = max(1, _VALUES_AT_ONCE // max(1, nearest.shape[1] * values.shape[1]))
    parts = [nearest[start : start + rows] for start in range(0, len(nearest), rows)]
    return np.concatenate([np.asarray(values[part].mean(axis=1)) for part in parts])


def marker_scores(
    truths: Sequence[Floats], predicted: Sequence[Floats], targets: Targets, patches: Sequence[int], *, whole: bool
) -> Scores:
    """Return the scores of one training on the held-out slides.

    Args:
        truths: (n, T) of each slide.
        predicted: likewise.
        targets: the markers.
        patches: of each slide, its weight.
        whole: whether explained variance and rank correlation are measured, too.
    """
    # A marker without a probe (no slide to fit on has it) is not a zero: it is left out like a missing truth.
    known = [np.where(np.isfinite(p), y, np.nan) for y, p in zip(truths, predicted, strict=True)]
    pairs = list(zip(known, predicted, strict=True))
    own = correlation_parts(known, predicted)
    per_slide = np.stack([pearson(y, p) for y, p in pairs])
    parts, weight = targets.parts(own), np.array(patches, dtype=np.float64)
    nothing = np.full(len(targets.columns), np.nan)
    return Scores(
        point=targets.known(own.score[None])[0],
        contribution=parts.contribution,
        influence=parts.influence,
        share=parts.share,
        per_slide=targets.complete(per_slide, own.score),
        r2=_averaged([explained(y, p) for y, p in pairs], weight, targets) if whole else nothing,
        spearman=_averaged([spearman(y, p) for y, p in pairs], weight, targets) if whole else nothing,
        draw_std=nothing,
    )


def _averaged(values: Sequence[Floats], weight: Floats, targets: Targets) -> Floats:
    """Return the mean over slides (C,), weighted, of what is known; the means over targets last."""
    stacked = np.stack(values)
    known = np.isfinite(stacked)
    total = (known * weight[:, None]).sum(axis=0)
    mean = np.where(known, stacked * weight[:, None], 0).sum(axis=0) / np.where(total > 0, total, np.nan)
    return np.asarray(targets.known(mean[None])[0])
