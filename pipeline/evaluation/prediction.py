"""From the features of one run to its predictions on the held-out patches."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import StatedError
from pipeline.evaluation.probes import KnnProbe, RidgeProbe, fit_knn, fit_ridge
from pipeline.evaluation.reading import Cohort, Features, FeaturesOf, SlidePairs
from pipeline.settings import EvaluateSettings
from pipeline.store.targets import comparable, standardised

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

PROBES = ("ridge", "knn")


@dataclass(frozen=True)
class FittingRows:
    """What every run is fitted on: the same patches for all.

    Attributes:
        chosen: per slide of the cohort, which of its pairs (indices into `SlidePairs.rows`) are used.
        targets: (n, T) standardised within the slides, nan where a slide lacks the marker.
        groups: (n,) what is left out together when the penalty is chosen.
    """

    chosen: tuple[Integers, ...]
    targets: Floats
    groups: Integers


@dataclass(frozen=True)
class RunPredictions:
    """Predictions of one run on held-out pairs.

    Attributes:
        predicted: by probe, one array (n, T) per held-out slide, in standard deviations, nan where no slide to
            fit on has the marker.
        penalty: (T,) the ridge penalty chosen for each marker.
        train_patches: (T,) patches that each marker's probes were fitted on.
    """

    predicted: dict[str, list[Floats]]
    penalty: Floats
    train_patches: Integers


def training_rows(cohort: Cohort, settings: EvaluateSettings) -> FittingRows:
    """Return the patches to fit on: pairs outside fold 0, at most `max_train_patches`, drawn evenly from all slides."""
    available = [np.flatnonzero(~slide.held_out) for slide in cohort.slides]
    chosen = drawn_evenly(available, settings.max_train_patches, settings.seed)
    targets = [
        standardised(comparable(slide.marker_mean[picked], slide.dense_kind))
        for slide, picked in zip(cohort.slides, chosen, strict=True)
        if len(picked)
    ]
    return FittingRows(tuple(chosen), np.concatenate(targets), _groups(cohort, chosen))


def drawn_evenly(available: Sequence[Integers], most: int, seed: int) -> list[Integers]:
    """Return the same share of each slide's rows, in order, so that all together are about `most`."""
    total = sum(map(len, available))
    rng = np.random.default_rng(seed)
    drawn = []
    for rows in available:
        wanted = min(len(rows), -(-len(rows) * most // max(total, 1)))
        drawn.append(np.sort(rng.choice(rows, wanted, replace=False)) if wanted < len(rows) else rows)
    return drawn


def predict(
    features_of: FeaturesOf, cohort: Cohort, training: FittingRows, settings: EvaluateSettings
) -> RunPredictions:
    """Fit the probes on the features of one run and predicts its held-out pairs, slide by slide.

    Raises:
        StatedError: if a slide has no features there, or features of other patches.
    """
    features = training_features(features_of, cohort, training)
    count = len(cohort.markers)
    fitted = list(_fit(features, training, settings))
    penalty, patches = np.full(count, np.nan), np.zeros(count, dtype=np.int64)
    for columns, ridge, knn in fitted:
        penalty[columns], patches[columns] = ridge.penalty, len(knn.targets)
    predicted: dict[str, list[Floats]] = {probe: [] for probe in PROBES}
    for slide in held_out(cohort):
        seen = features_of(slide, np.flatnonzero(slide.held_out))
        values = {probe: np.full((len(seen), count), np.nan) for probe in PROBES}
        for columns, ridge, knn in fitted:
            values["ridge"][:, columns] = ridge.predict(seen)
            values["knn"][:, columns] = knn.predict(seen)
        for probe in PROBES:
            predicted[probe].append(values[probe])
    return RunPredictions(predicted, penalty, patches)


def training_features(features_of: FeaturesOf, cohort: Cohort, training: FittingRows) -> Features:
    """Return features (n, D) of the training rows, in their order.

    Raises:
        StatedError: see `read_features`.
    """
    chosen = zip(cohort.slides, training.chosen, strict=True)
    return np.concatenate([features_of(slide, picked) for slide, picked in chosen if len(picked)])


def fitted_together(training: FittingRows) -> Iterator[tuple[Integers, Integers]]:
    """Yield training rows and the columns of the markers that just these rows have.

    Markers without two rows are left out.
    """
    known = np.isfinite(training.targets)
    patterns, members = np.unique(known, axis=1, return_inverse=True)
    for index in range(patterns.shape[1]):
        rows, columns = np.flatnonzero(patterns[:, index]), np.flatnonzero(members.reshape(-1) == index)
        if len(rows) >= 2:
            yield rows, columns


def held_out(cohort: Cohort) -> list[SlidePairs]:
    """Return the slides that have pairs in fold 0."""
    return [slide for slide in cohort.slides if (slide.held_out).any()]


def held_out_truth(slide: SlidePairs) -> Floats:
    """Return targets of the slide's held-out pairs (n, T), nan where it lacks the marker."""
    return comparable(slide.marker_mean[slide.held_out], slide.dense_kind)


def _fit(
    features: Features, training: FittingRows, settings: EvaluateSettings
) -> Iterator[tuple[Integers, RidgeProbe, KnnProbe]]:
    """Yield columns and their probes, fitted together for markers that the same patches have."""
    for rows, columns in fitted_together(training):
        x, y = features[rows], training.targets[np.ix_(rows, columns)]
        yield columns, fit_ridge(x, y, training.groups[rows], settings.ridge), fit_knn(x, y, settings.neighbours)


def _groups(cohort: Cohort, chosen: list[Integers]) -> Integers:
    """Return the training fold of each row; where there is only one fold, its slide; where only one slide, its half."""
    folds = np.concatenate([slide.fold[rows] for slide, rows in zip(cohort.slides, chosen, strict=True)])
    if len(np.unique(folds)) > 1:
        return folds.astype(np.int64)
    slides = np.repeat(np.arange(len(chosen)), [len(rows) for rows in chosen])
    if len(np.unique(slides)) > 1:
        return slides.astype(np.int64)
    x = np.concatenate(
        [slide.position_um[rows, 0] for slide, rows in zip(cohort.slides, chosen, strict=True) if len(rows)]
    )
    return np.asarray(x > np.median(x), dtype=np.int64)


def check_runs(embeddings: Path, runs: list[str]) -> None:
    """Refuse runs that have no folder of features, or that are named twice.

    Raises:
        StatedError: naming the run and the runs that are there.
    """
    for run in runs:
        if not (embeddings / run).is_dir():
            there = sorted(item.name for item in embeddings.glob("*") if item.is_dir())
            raise StatedError(
                file=embeddings / run,
                expected=f"a folder of features of run {run}",
                found=f"features of {', '.join(there) or 'no run'}",
            )
        if runs.count(run) > 1:
            raise StatedError(file="--runs", expected="each run once", found=f"{run} {runs.count(run)} times")


def check_repeats(runs: Sequence[str], repeats: Mapping[str, str]) -> None:
    """Refuse repetitions of, or by, runs that are not evaluated, and repetitions of repetitions.

    Raises:
        StatedError: naming both runs.
    """
    for name, first in repeats.items():
        if name not in runs or first not in runs or first in repeats:
            raise StatedError(
                file="--repeats",
                expected=f"RUN=FIRST, both among {', '.join(runs)} and FIRST no repetition",
                found=f"{name}={first}",
            )
