"""The verb evaluate-probe: the ridge probes of one run, as evaluate fits and scores them, kept for use."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.evaluation.bootstrap import Interval, correlation_parts
from pipeline.evaluation.evidence import HeldOut, clipped
from pipeline.evaluation.marker_evidence import METRIC
from pipeline.evaluation.prediction import (
    TrainingRows,
    check_runs,
    fitted_together,
    held_out,
    held_out_truth,
    training_features,
    training_rows,
)
from pipeline.evaluation.probe_file import MarkerProbe, Probe
from pipeline.evaluation.probes import RidgeProbe, fit_ridge
from pipeline.evaluation.reading import Cohort, Features, encoder_of, features_in, read_cohort, read_features
from pipeline.provenance import file_digest, record
from pipeline.settings import EvaluateSettings, PanelSettings

Floats = NDArray[np.float64]

_SCALE_PERCENTILES = (2.0, 98.0)


def save_probe(
    stores: Path,
    split: Path,
    embeddings: Path,
    run: str,
    settings: EvaluateSettings,
    out: Path,
    panel: PanelSettings | None = None,
) -> Probe:
    """Fits the ridge probes of a run on the patches outside fold 0, scores them on fold 0 and writes the folder `out`.

    Rows, targets, penalties and scores are those of the stage evaluate with the same settings and panel.

    Args:
        stores: folder of the stores `{slide}.zarr`.
        split: `patches.tsv` of the stage split.
        embeddings: folder that holds one folder of features per run.
        run: the training.
        settings: of the stage evaluate.
        out: the folder to write.
        panel: what slides call the same marker.

    Raises:
        StatedError: see `read_cohort`, `read_features`, `encoder_of` and `check_runs`.
    """
    check_runs(embeddings, [run])
    panel = panel or PanelSettings()
    cohort, folder = read_cohort(split, stores, panel), embeddings / run
    encoder, _ = encoder_of(folder, [slide.slide for slide in cohort.slides])
    training = training_rows(cohort, settings)
    features = training_features(features_in(folder), cohort, training)
    fitted, patches = _fitted(features, training, len(cohort.markers), settings.ridge)
    on_training = fitted.predict(features)
    low, high = np.full((2, len(cohort.markers)), np.nan)
    known = np.isfinite(fitted.intercept)
    low[known], high[known] = np.percentile(on_training[:, known], _SCALE_PERCENTILES, axis=0)
    scores, intervals, tested = _scored(folder, cohort, fitted, settings)
    markers = tuple(
        MarkerProbe(
            marker=marker,
            score=float(scores[column]),
            low=intervals[column].low,
            high=intervals[column].high,
            penalty=float(fitted.penalty[column]),
            train_patches=int(patches[column]),
            test_patches=int(tested[column]),
            scale_low=float(low[column]),
            scale_high=float(high[column]),
        )
        for column, marker in enumerate(cohort.markers)
    )
    inputs = {split.name: file_digest(split)}
    digests = {slide.slide: file_digest(folder / f"{slide.slide}.h5") for slide in cohort.slides}
    for slide, digest in digests.items():
        inputs[f"tile/{slide}.zarr"] = file_digest(stores / f"{slide}.zarr" / "zarr.json")
        inputs[f"embed/{run}/{slide}.h5"] = digest
    seen = [slide.slide for slide, rows in zip(cohort.slides, training.chosen, strict=True) if len(rows)]
    probe = Probe(run, encoder, markers, fitted.weights, fitted.intercept, frozenset(digests[name] for name in seen))
    packages = ("numpy", "scipy", "h5py", "zarr", "safetensors")
    probe.write(out, record("evaluate_probe", asdict(settings) | {"panel": asdict(panel)}, inputs, packages))
    return probe


def _fitted(
    features: Features, training: TrainingRows, markers: int, penalties: Sequence[float]
) -> tuple[RidgeProbe, NDArray[np.int64]]:
    """One probe of all markers, nan where none could be fitted, and how many patches each was fitted on."""
    weights, intercept = np.full((features.shape[1], markers), np.nan), np.full(markers, np.nan)
    penalty, patches = np.full(markers, np.nan), np.zeros(markers, dtype=np.int64)
    for rows, columns in fitted_together(training):
        targets = training.targets[np.ix_(rows, columns)]
        found = fit_ridge(features[rows], targets, training.groups[rows], penalties)
        weights[:, columns], intercept[columns], penalty[columns] = found.weights, found.intercept, found.penalty
        patches[columns] = len(rows)
    return RidgeProbe(weights, intercept, penalty), patches


def _scored(
    folder: Path, cohort: Cohort, probe: RidgeProbe, settings: EvaluateSettings
) -> tuple[Floats, list[Interval], NDArray[np.int64]]:
    """Per marker: Pearson r within held-out slides, its 95 % interval, and the patches that were scored."""
    held = HeldOut.of(cohort, settings)
    predicted = [probe.predict(read_features(folder, slide)[slide.fold == 0]) for slide in held_out(cohort)]
    truths = [
        np.where(np.isfinite(p), held_out_truth(slide), np.nan)
        for slide, p in zip(held_out(cohort), predicted, strict=True)
    ]
    parts = correlation_parts(truths, predicted)
    return (
        parts.score,
        [clipped(one.ends, METRIC) for one in held.around(parts, whole=False)],
        (parts.share > 0).sum(axis=0),
    )
