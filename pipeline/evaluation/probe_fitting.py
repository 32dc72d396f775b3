"""Fit and score the ridge probes of one run as evaluate does, and save them (verb evaluate-probe)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import StatedError
from pipeline.evaluation.bootstrap import Interval, correlation_parts, pearson
from pipeline.evaluation.held_out import HeldOut, clipped
from pipeline.evaluation.marker_evidence import METRIC, fit_markers
from pipeline.evaluation.probe_file import DESCRIPTION_NAME, MarkerProbe, Probe
from pipeline.evaluation.probed_rows import (
    RunFeatures,
    check_runs,
    held_out,
    held_out_truth,
    training_rows,
)
from pipeline.evaluation.probes import RidgeProbe
from pipeline.evaluation.reading import Cohort, encoder_of, features_in, read_cohort
from pipeline.json_file import MISFIT, read_json
from pipeline.provenance import file_digest, record
from pipeline.settings import NAME_KEYS, PROBE_KEYS, EvaluateSettings, PanelSettings
from pipeline.training.feature_range import FeatureRange, fitted_range

Floats = NDArray[np.float64]

_SCALE_PERCENTILES = (2.0, 98.0)
_RANGE_PERCENTILES = (0.5, 99.5)


@dataclass(frozen=True)
class _Scored:
    """The probe on held-out pairs, T markers.

    Attributes:
        scores: (T,) Pearson r within slides.
        intervals: the 95 % interval of each.
        patches: (T,) how many were scored.
        patients: of each marker, whose patches were scored.
        predicted: by slide, the predictions (n, T); nan of markers without a probe.
        distances: by slide, how far its pairs lie from the range of the features fitted on.
    """

    scores: Floats
    intervals: list[Interval]
    patches: NDArray[np.int64]
    patients: list[tuple[str, ...]]
    predicted: list[Floats]
    distances: list[NDArray[np.float32]]


def save_probe(
    stores: Path,
    split: Path,
    embeddings: Path,
    run: str,
    settings: EvaluateSettings,
    out: Path,
    panel: PanelSettings | None = None,
) -> Probe:
    """Fit the ridge probes of a run on the patches outside fold 0, scores them on fold 0 and writes the folder `out`.

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
    read = RunFeatures.read(features_in(folder), cohort, training)
    features = read.training
    fitted, patches = fit_markers(read, training, settings.ridge)
    on_training = fitted.predict(features)
    low, high = _percentiles(on_training, _SCALE_PERCENTILES)
    seen = [slide for slide, rows in zip(cohort.slides, training.chosen, strict=True) if len(rows)]
    feature_range = fitted_range(features, [slide.patient for slide in seen], encoder)
    scored = _scored(read, cohort, fitted, feature_range, settings)
    feature_range = feature_range.limited(scored.distances, "held-out patches")
    # Held-out predictions may be wider spread than those on the patches fitted on, or narrower.
    ranges = [_percentiles(values, _RANGE_PERCENTILES) for values in (on_training, np.concatenate(scored.predicted))]
    range_low, range_high = np.min(ranges, axis=0)[0], np.max(ranges, axis=0)[1]
    markers = tuple(
        MarkerProbe(
            marker=marker,
            score=float(scored.scores[column]),
            low=scored.intervals[column].low,
            high=scored.intervals[column].high,
            penalty=float(fitted.penalty[column]),
            train_patches=int(patches[column]),
            test_patches=int(scored.patches[column]),
            scale_low=float(low[column]),
            scale_high=float(high[column]),
            range_low=float(range_low[column]),
            range_high=float(range_high[column]),
            patients=scored.patients[column],
        )
        for column, marker in enumerate(cohort.markers)
    )
    inputs = probe_inputs(split, stores, folder, cohort)
    digests = {slide.slide: inputs[f"embed/{run}/{slide.slide}.h5"] for slide in cohort.slides}
    fitted_on = frozenset(digests[slide.slide] for slide in seen)
    probe = Probe(run, encoder, markers, fitted.weights, fitted.intercept, fitted_on, feature_range)
    packages = ("numpy", "scipy", "h5py", "zarr", "safetensors")
    probe.write(out, record("evaluate_probe", probe_settings(settings, panel), inputs, packages))
    return probe


def probe_inputs(split: Path, stores: Path, features: Path, cohort: Cohort) -> dict[str, str]:
    """Return the hash of all that the probe of a run is made from, by name; `features` is the run's folder."""
    inputs = {split.name: file_digest(split)}
    for slide in cohort.slides:
        inputs[f"tile/{slide.slide}.zarr"] = file_digest(stores / f"{slide.slide}.zarr" / "zarr.json")
        inputs[f"embed/{features.name}/{slide.slide}.h5"] = file_digest(features / f"{slide.slide}.h5")
    return inputs


def probe_settings(settings: EvaluateSettings, panel: PanelSettings) -> dict[str, Any]:
    """Return the settings that the probe of a run depends on."""
    names = {key: value for key, value in asdict(panel).items() if key in NAME_KEYS}
    return {key: getattr(settings, key) for key in PROBE_KEYS} | {"panel": names}


def read_fit(
    folder: Path, run: str, inputs: Mapping[str, str], settings: Mapping[str, Any]
) -> tuple[RidgeProbe, NDArray[np.int64]]:
    """Return the ridge probes that evaluate-probe fitted for a run, and the patches (T,) that each was fitted on.

    Args:
        folder: the probe's.
        run: the training.
        inputs: what it must have been made from, see `probe_inputs`.
        settings: that it must have been made with, see `probe_settings`.

    Raises:
        StatedError: if the folder is not a probe's, or one of another run, input or setting.
    """
    probe = Probe.load(folder)
    try:
        made = read_json(folder / DESCRIPTION_NAME)["provenance"]
        found = {"run": probe.run, **made["inputs"], **made["settings"]}
    except (OSError, *MISFIT) as error:
        raise StatedError(file=folder, expected="a probe with its provenance", found=repr(error)) from None
    wanted = json.loads(json.dumps({"run": run, **inputs, **settings}))
    for name in [*wanted, *found]:
        if found.get(name) != wanted.get(name):
            expected = (
                f"the probe of run {run} as evaluate-probe fits it now, {name} {wanted.get(name, 'absent')!s:.60}"
            )
            raise StatedError(file=folder, expected=expected, found=f"{found.get(name, 'absent')!s:.60}")
    penalty = np.array([item.penalty for item in probe.markers])
    patches = np.array([item.train_patches for item in probe.markers], dtype=np.int64)
    return RidgeProbe(probe.weights, probe.intercept, penalty), patches


def _percentiles(values: Floats, wanted: tuple[float, float]) -> Floats:
    """Return (2, T) two percentiles over the rows of (n, T); nan in columns that are not known."""
    found = np.full((2, values.shape[1]), np.nan)
    known = np.isfinite(values[0])
    found[:, known] = np.percentile(values[:, known], wanted, axis=0)
    return found


def _scored(
    read: RunFeatures, cohort: Cohort, probe: RidgeProbe, fitted: FeatureRange, settings: EvaluateSettings
) -> _Scored:
    """Return what the probe says of held-out pairs, and how well, marker by marker."""
    held, slides = HeldOut.of(cohort, settings), held_out(cohort)
    predicted = [probe.predict(values) for values in read.held_out]
    truths = [
        np.where(np.isfinite(values), held_out_truth(slide), np.nan)
        for slide, values in zip(slides, predicted, strict=True)
    ]
    parts = correlation_parts(truths, predicted)
    shown = [np.isfinite(pearson(truth, values)) for truth, values in zip(truths, predicted, strict=True)]
    patients = [
        tuple(dict.fromkeys(slide.patient for slide, seen in zip(slides, shown, strict=True) if seen[column]))
        for column in range(len(cohort.markers))
    ]
    return _Scored(
        scores=parts.score,
        intervals=[clipped(one.ends, METRIC) for one in held.around(parts, whole=False)],
        patches=(parts.share > 0).sum(axis=0),
        patients=patients,
        predicted=predicted,
        distances=[fitted.distance(values) for values in read.held_out],
    )
