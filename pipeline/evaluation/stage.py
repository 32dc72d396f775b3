"""Stage evaluate: read pairs and features, write the summary table and its details."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.errors import StatedError
from pipeline.evaluation.aggregates import MEAN
from pipeline.evaluation.bootstrap import block_labels
from pipeline.evaluation.classes import ClassTask, class_tasks
from pipeline.evaluation.details import told_rows
from pipeline.evaluation.evidence import seeds_of
from pipeline.evaluation.evidence_row import EvidenceRow, write_summary
from pipeline.evaluation.inputs import EvaluationInputs
from pipeline.evaluation.marker_evidence import METRIC
from pipeline.evaluation.probe_fitting import probe_inputs, probe_settings, read_fit
from pipeline.evaluation.probed_rows import check_repeats, check_runs, held_out, training_rows
from pipeline.evaluation.probing import Probed, Questions, evidence, with_seen
from pipeline.evaluation.reading import Cohort, encoder_of, features_in, read_cohort
from pipeline.evaluation.seen_markers import left_out, seen_markers
from pipeline.progress import progress, say
from pipeline.provenance import file_digest, finished, record, write_json
from pipeline.settings import NAME_KEYS, EvaluateSettings
from pipeline.settings.evaluate import baseline_of
from pipeline.store.class_tables import CLASS_COLUMN

# Exposure, gain and background differ between scans, so that probes predict values standardised within each slide. The
# logarithm tames the long right tail of intensities. Held-out truth enters the measure only, never a fit.
_TARGETS = (
    "of fluorescence log(1 + mean intensity of the marker in the patch), of brightfield the mean optical density of "
    "the stain, of a mask the share of the class, of gene counts log(1 + counts per 10,000 of the patch); "
    "for fitting, standardised within each training slide "
    "from its training patches; held-out slides are scored one by one, and the slides' scores are averaged with "
    "the number of patches as weight"
)
_MOST_NAMES = 8  # of targets in one message; genes are many


@dataclass(frozen=True)
class _Evidence:
    """What was found.

    Attributes:
        rows: of the table.
        retrieval: by run, see `retrieval`.
        opened: trainings whose branches were read.
    """

    rows: list[EvidenceRow]
    retrieval: dict[str, Any]
    opened: tuple[str, ...]


def evaluate(
    inputs: EvaluationInputs, settings: EvaluateSettings, out_summary: Path, out_details: Path
) -> list[EvidenceRow]:
    """Probe the frozen features of every run and write `summary.tsv` and `details.json`.

    Args:
        inputs: what is read.
        settings: of the stage.
        out_summary: one row per run, probe and marker or class, and their means.
        out_details: the same with further measures, the choices made and the provenance.

    Raises:
        StatedError: see `read_cohort`, `read_features`, `encoder_of`, `check_runs`, `class_tasks`, `read_fit`,
            `seen_markers`, `probed_dense_sides` and `retrieval`.
    """
    check_runs(inputs.embeddings, list(inputs.runs))
    check_repeats(inputs.runs, inputs.repeats)
    groups = seeds_of(list(inputs.runs), inputs.repeats)
    try:
        baseline = baseline_of(settings.baseline, list(groups))
    except ValueError as error:
        raise StatedError(file="evaluate.baseline", expected="one of the runs", found=str(error)) from None
    if settings.dense_side and inputs.trainings is None:
        raise StatedError(file="--trainings", expected="the folder of the trainings, for dense_side", found="none")
    cohort = read_cohort(inputs.split, inputs.stores, inputs.panel)
    names = [slide.slide for slide in cohort.slides]
    encoders = {run: encoder_of(inputs.embeddings / run, names) for run in inputs.runs}
    seen = {
        run: None
        if inputs.trainings is None
        else seen_markers(inputs.trainings / run / "encoder", cohort.markers, inputs.panel)
        for run in groups
    }
    training = training_rows(cohort, settings)
    tasks = class_tasks(cohort, training, inputs.classes, settings.classes)
    questions = Questions.of(cohort, training, tasks, left_out(seen, cohort.markers), settings)
    found = _evidence(inputs, questions, groups, baseline)
    rows = with_seen(found.rows, seen, questions.markers)
    if not baseline:
        say(f"evaluate: no run to compare with (evaluate.baseline), so no verdicts; runs: {', '.join(groups)}")
    _say_what_is_missing(rows, settings)
    order = {run: index for index, run in enumerate(groups)}
    rows.sort(key=lambda row: order[row.run])  # stable: probes and targets keep their order
    digests = inputs.digests(cohort)
    for run in found.opened:
        assert inputs.trainings is not None
        path = inputs.trainings / run / "branches.safetensors"
        digests[f"train/{run}/{path.name}"] = file_digest(path)
    used = asdict(settings) | {"panel": {key: value for key, value in asdict(inputs.panel).items() if key in NAME_KEYS}}
    details = {
        "provenance": record("evaluate", used, digests, packages=("numpy", "scipy", "scikit-learn", "h5py", "zarr")),
        "metric": METRIC,
        "target": _TARGETS,
        "baseline": baseline,
        "repeats": dict(inputs.repeats),
        "runs": {
            run: {"encoder": encoder, "features": width, "train_patches_at_most": settings.max_train_patches}
            for run, (encoder, width) in encoders.items()
        },
        "markers": list(cohort.markers),
        **_classes(tasks),
        "held_out": _held_out(cohort, settings),
        "retrieval": found.retrieval,
        **told_rows(rows),
    }
    with finished(out_summary) as temporary:
        write_summary(temporary, rows)
        write_json(out_details, details)
    return rows


def _evidence(
    inputs: EvaluationInputs, questions: Questions, groups: Mapping[str, Sequence[str]], baseline: str
) -> _Evidence:
    """Return the rows of all probes, of the dense side too where that is asked for, and how retrieval went."""
    settings, tested = questions.settings, questions.tested
    probed = {run: _probed(inputs, run, questions) for run in progress(inputs.runs, label="probing", unit="runs")}
    rows = evidence(probed, groups, tested, baseline, settings.seed)
    dense_sides: dict[str, Probed] = {}
    if inputs.trainings and settings.dense_side:
        # Here and not above, as below: without it this stage needs no torch.
        from pipeline.evaluation.dense_side import probed_dense_sides

        dense_sides = probed_dense_sides(inputs.trainings, inputs.stores, questions, groups, inputs.panel)
        of_dense = {run: names for run, names in groups.items() if all(name in dense_sides for name in names)}
        if of_dense:
            # Nothing is compared with the baseline: at inference there is no dense side.
            rows += evidence(dense_sides, of_dense, tested, "", settings.seed)
    retrieved: dict[str, Any] = {}
    if inputs.trainings and settings.retrieval_patches:
        from pipeline.evaluation.retrieval_patches import retrieval

        known = (inputs.stores, questions.cohort, groups, tested, settings, inputs.panel)
        retrieved = retrieval(inputs.trainings, inputs.embeddings, *known)
    opened = dict.fromkeys([*(run for first in retrieved for run in groups[first]), *dense_sides])
    return _Evidence(rows, retrieved, tuple(opened))


def _probed(inputs: EvaluationInputs, run: str, questions: Questions) -> Probed:
    """Return the probes of one training; its ridge probes as evaluate-probe fitted them, where it did."""
    folder, fitted = inputs.embeddings / run, None
    if run in inputs.probes:
        made_from = probe_inputs(inputs.split, inputs.stores, folder, questions.cohort)
        fitted = read_fit(inputs.probes[run], run, made_from, probe_settings(questions.settings, inputs.panel))
    return questions.probed(features_in(folder), fitted=fitted)


def _say_what_is_missing(rows: Sequence[EvidenceRow], settings: EvaluateSettings) -> None:
    """Print once what has no score or interval and why, and where `block_um` is less than contributions are alike."""
    missing: dict[str, list[str]] = {}
    for row in rows:
        if row.note:
            missing.setdefault(f"{row.probe}: {row.note}", []).append(row.target)
    for reason, targets in missing.items():
        names = list(dict.fromkeys(targets))
        more = f" and {len(names) - _MOST_NAMES} more" if len(names) > _MOST_NAMES else ""
        say(f"evaluate: {', '.join(names[:_MOST_NAMES])}{more}, {reason}")
    farthest = max((row.correlation_um for row in rows if row.target == MEAN and row.verdict), default=0.0)
    if farthest > settings.block_um:
        say(
            f"evaluate: what patches contribute to a difference is alike over up to {farthest:.0f} um, farther than "
            f"block_um {settings.block_um:g}; the intervals are widened for it"
        )


def _classes(tasks: Sequence[ClassTask]) -> dict[str, Any]:
    """Return the patches of each class, those of the usual column apart from those of others."""
    counts_of = {task.column: task.summary() for task in tasks}
    others = {column: counts for column, counts in counts_of.items() if column != CLASS_COLUMN}
    return {"classes": counts_of.get(CLASS_COLUMN), "classes_of": others}


def _held_out(cohort: Cohort, settings: EvaluateSettings) -> dict[str, Any]:
    """Return per held-out slide: patient, patches, and the blocks of tissue that the intervals rest on."""
    summaries = {}
    for slide in held_out(cohort):
        tested = slide.held_out
        blocks = block_labels(slide.position_um[tested], settings.block_um)
        summaries[slide.slide] = {
            "patient": slide.patient,
            "patches": int(tested.sum()),
            "blocks": len(np.unique(blocks)),
            "also_fitted_on": bool((~slide.held_out).any()),
        }
    return summaries
