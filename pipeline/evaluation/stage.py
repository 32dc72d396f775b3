"""The stage evaluate: reads pairs and features, writes the summary table and its details."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.errors import StatedError
from pipeline.evaluation.bootstrap import block_labels
from pipeline.evaluation.classes import class_tasks
from pipeline.evaluation.evidence import MEAN, EvidenceRow, seeds_of
from pipeline.evaluation.held_out import HeldOut
from pipeline.evaluation.marker_evidence import METRIC
from pipeline.evaluation.prediction import check_repeats, check_runs, held_out, training_rows
from pipeline.evaluation.probing import ProbedRun, evidence, probe
from pipeline.evaluation.reading import Cohort, encoder_of, features_in, read_cohort
from pipeline.evaluation.targets import DESCRIPTION
from pipeline.progress import progress, say
from pipeline.provenance import file_digest, finished, record, write_json
from pipeline.settings import NAME_KEYS, EvaluateSettings, PanelSettings
from pipeline.settings.evaluate import baseline_of
from pipeline.store.class_tables import CLASS_COLUMN

COLUMNS = (
    "run",
    "probe",
    "target",
    "metric",
    "score",
    "low",
    "high",
    "difference",
    "difference_low",
    "difference_high",
    "verdict",
    "seeds",
    "train_patches",
    "test_patches",
    "test_slides",
    "seed_low",
    "seed_high",
    "disjoint",
    "blocks",
    "note",
)


_MOST_NAMES = 8  # of targets in one message; genes are many


def evaluate(
    stores: Path,
    split: Path,
    embeddings: Path,
    runs: Sequence[str],
    settings: EvaluateSettings,
    out_summary: Path,
    out_details: Path,
    repeats: Mapping[str, str] | None = None,
    panel: PanelSettings | None = None,
    trainings: Path | None = None,
    classes: Mapping[str, Path] | None = None,
) -> list[EvidenceRow]:
    """Probe the frozen features of every run and writes `summary.tsv` and `details.json`.

    Args:
        stores: folder of the stores `{slide}.zarr`.
        split: `patches.tsv` of the stage split.
        embeddings: folder that holds one folder of features per run.
        runs: names of the runs, in the order of the table.
        settings: of the stage.
        out_summary: one row per run, probe and marker or class, and their mean.
        out_details: the same with further measures, the choices made and the provenance.
        repeats: for each run that repeats another one with a further seed, the name of that one; its scores join
            those of the other.
        panel: what slides call the same marker.
        trainings: folder that holds, for every run, RUN/encoder and RUN/branches.safetensors; without it no dense
            patches are looked for from H&E, and the dense side cannot be probed.
        classes: for each slide that has one, the table of its classes.

    Raises:
        StatedError: see `read_cohort`, `read_features`, `encoder_of`, `check_runs`, `class_tasks`, `probed_dense_sides`
            and `retrieval`.
    """
    repeats, panel = repeats or {}, panel or PanelSettings()
    check_runs(embeddings, list(runs))
    check_repeats(runs, repeats)
    groups = seeds_of(list(runs), repeats)
    try:
        baseline = baseline_of(settings.baseline, list(groups))
    except ValueError as error:
        raise StatedError(file="evaluate.baseline", expected="one of the runs", found=str(error)) from None
    if settings.dense_side and trainings is None:
        raise StatedError(file="--trainings", expected="the folder of the trainings, for dense_side", found="none")
    cohort = read_cohort(split, stores, panel)
    names = [slide.slide for slide in cohort.slides]
    encoders = {run: encoder_of(embeddings / run, names) for run in runs}
    training = training_rows(cohort, settings)
    tasks = class_tasks(cohort, training, classes or {}, settings.classes)
    probed = {
        run: probe(features_in(embeddings / run), cohort, training, tasks, settings)
        for run in progress(runs, label="probing", unit="runs")
    }
    tested = HeldOut.of(cohort, settings)
    rows = evidence(cohort, probed, groups, tasks, tested, baseline)
    dense_sides: dict[str, ProbedRun] = {}
    if trainings and settings.dense_side:
        # Here and not above, as below: without it this stage needs no torch.
        from pipeline.evaluation.dense_side import PREFIX, probed_dense_sides

        dense_sides = probed_dense_sides(trainings, stores, cohort, training, tasks, groups, settings, panel)
        of_dense = {run: names for run, names in groups.items() if all(name in dense_sides for name in names)}
        if of_dense:
            # Nothing is compared with the baseline: at inference there is no dense side.
            rows += evidence(cohort, dense_sides, of_dense, tasks, tested, "", PREFIX)
    found = {}
    if trainings and settings.retrieval_patches:
        from pipeline.evaluation.retrieval_patches import retrieval

        found = retrieval(trainings, embeddings, stores, cohort, groups, tested, settings, panel)
    if not baseline:
        say(f"evaluate: no run to compare with (evaluate.baseline), so no verdicts; runs: {', '.join(groups)}")
    _say_what_is_missing(rows, settings)
    order = {run: index for index, run in enumerate(groups)}
    rows.sort(key=lambda row: order[row.run])  # stable: probes and targets keep their order
    inputs = _hashed(stores, split, embeddings, runs, names) | {
        f"classes/{name}": file_digest(path) for name, path in (classes or {}).items()
    }
    if trainings:
        asked = dict.fromkeys([*(run for first in found for run in groups[first]), *dense_sides])
        kept = {run: trainings / run / "branches.safetensors" for run in asked}
        inputs |= {f"train/{run}/{path.name}": file_digest(path) for run, path in kept.items()}
    told = {task.column: task.told() for task in tasks}
    details = {
        "provenance": record(
            "evaluate",
            asdict(settings) | {"panel": {key: value for key, value in asdict(panel).items() if key in NAME_KEYS}},
            inputs,
            packages=("numpy", "scipy", "h5py", "zarr"),
        ),
        "metric": METRIC,
        "target": DESCRIPTION,
        "baseline": baseline,
        "repeats": dict(repeats),
        "runs": {
            run: {"encoder": encoder, "features": width, "train_patches_at_most": settings.max_train_patches}
            for run, (encoder, width) in encoders.items()
        },
        "markers": list(cohort.markers),
        "classes": told.get(CLASS_COLUMN),
        "classes_of": {column: counts for column, counts in told.items() if column != CLASS_COLUMN},
        "held_out": _held_out(cohort, settings),
        "retrieval": found,
        "rows": [_details(row) for row in rows],
    }
    with finished(out_summary) as temporary:
        write_summary(temporary, rows)
        write_json(out_details, details)
    return rows


def write_summary(path: Path, rows: Sequence[EvidenceRow]) -> None:
    """Write the table as tab-separated text; numbers with four decimals, empty where nothing can be said."""
    with path.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream, delimiter="\t", lineterminator="\n")
        writer.writerow(COLUMNS)
        for row in rows:
            numbers = (
                row.score,
                row.within.low,
                row.within.high,
                row.difference,
                row.difference_within.low,
                row.difference_within.high,
            )
            counts = (len(row.per_seed), row.train_patches, row.test_patches, row.test_slides)
            seeds = (_decimals(min(row.per_seed)), _decimals(max(row.per_seed)))
            disjoint = "" if row.disjoint is None else "yes" if row.disjoint else "no"
            named = (row.run, row.probe, row.target, row.metric)
            told = (row.verdict, *counts, *seeds, disjoint, row.blocks, row.note)
            writer.writerow((*named, *map(_decimals, numbers), *told))


def _say_what_is_missing(rows: Sequence[EvidenceRow], settings: EvaluateSettings) -> None:
    """Print once what has no score or interval and why, and where `block_um` is less than contributions are alike."""
    missing: dict[str, list[str]] = {}
    for row in rows:
        if row.note:
            missing.setdefault(f"{row.probe}: {row.note}", []).append(row.target)
    for told, targets in missing.items():
        names = list(dict.fromkeys(targets))
        more = f" and {len(names) - _MOST_NAMES} more" if len(names) > _MOST_NAMES else ""
        say(f"evaluate: {', '.join(names[:_MOST_NAMES])}{more}, {told}")
    farthest = max((row.correlation_um for row in rows if row.target == MEAN and row.verdict), default=0.0)
    if farthest > settings.block_um:
        say(
            f"evaluate: what patches contribute to a difference is alike over up to {farthest:.0f} um, farther than "
            f"block_um {settings.block_um:g}; the intervals are widened for it"
        )


def _hashed(stores: Path, split: Path, embeddings: Path, runs: Sequence[str], slides: Sequence[str]) -> dict[str, str]:
    """Return the hash of the split, of each store and of each run's features, by name."""
    inputs = {split.name: file_digest(split)}
    for name in slides:
        inputs[f"tile/{name}.zarr"] = file_digest(stores / f"{name}.zarr" / "zarr.json")
        inputs |= {f"embed/{run}/{name}.h5": file_digest(embeddings / run / f"{name}.h5") for run in runs}
    return inputs


def _held_out(cohort: Cohort, settings: EvaluateSettings) -> dict[str, Any]:
    """Return per held-out slide: patient, patches, and the blocks of tissue that the intervals rest on."""
    told = {}
    for slide in held_out(cohort):
        tested = slide.held_out
        blocks = block_labels(slide.position_um[tested], settings.block_um)
        told[slide.slide] = {
            "patient": slide.patient,
            "patches": int(tested.sum()),
            "blocks": len(np.unique(blocks)),
            "also_fitted_on": bool((~slide.held_out).any()),
        }
    return told


def _details(row: EvidenceRow) -> dict[str, Any]:
    """Return the row as JSON values: null for nan."""
    values = {item.name: getattr(row, item.name) for item in fields(row)}
    for name in ("per_seed", "difference_per_seed"):
        values[name] = [None if math.isnan(value) else value for value in values[name]]
    for name, prefix in (("within", ""), ("difference_within", "difference_")):
        interval = values.pop(name)
        values |= {f"{prefix}low": interval.low, f"{prefix}high": interval.high}
    return {name: None if isinstance(value, float) and math.isnan(value) else value for name, value in values.items()}


def _decimals(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.4f}"
