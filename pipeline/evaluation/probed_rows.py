"""The patches that probes are fitted on and tested on, and the features of a run for them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import StatedError
from pipeline.evaluation.probes import fit_knn
from pipeline.evaluation.reading import Cohort, Features, FeaturesOf, SlidePairs
from pipeline.settings import EvaluateSettings
from pipeline.store.targets import comparable, standardised

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


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
class RunFeatures:
    """The features of one run, read once for all probes.

    Attributes:
        training: (n, D) of the training rows, in their order.
        held_out: of each held-out slide, those (m, D) of its held-out pairs.
    """

    training: Features
    held_out: tuple[Features, ...]
    _nearest: dict[tuple[bytes, int], list[Integers]] = field(default_factory=dict)

    @classmethod
    def read(cls, features_of: FeaturesOf, cohort: Cohort, training: FittingRows) -> RunFeatures:
        """Return the features of a cohort's training rows and held-out pairs.

        Raises:
            StatedError: if a slide has no features there, or features of other patches.
        """
        held = tuple(features_of(slide, np.flatnonzero(slide.held_out)) for slide in held_out(cohort))
        return cls(training_features(features_of, cohort, training), held)

    def nearest(self, rows: Integers, neighbours: int) -> list[Integers]:
        """Return of each held-out slide which of these training rows (m, k) are nearest to its pairs.

        Several probes ask for the same, which is found once.
        """
        key = rows.tobytes(), neighbours
        if key not in self._nearest:
            probe = fit_knn(self.training[rows], np.empty((len(rows), 0)), neighbours)
            self._nearest[key] = [probe.nearest(own) for own in self.held_out]
        return self._nearest[key]


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
