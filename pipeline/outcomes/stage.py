"""The stage outcomes: slide vectors and patches to what they tell of patients, with intervals and differences."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import StatedError
from pipeline.evaluation.bootstrap import resample_counts
from pipeline.evaluation.evidence import seeds_of
from pipeline.evaluation.probed_rows import check_repeats
from pipeline.outcomes.bags import Bags
from pipeline.outcomes.comparison import outcome_rows, unscored_rows
from pipeline.outcomes.folds import WIDENING, stratified_folds
from pipeline.outcomes.linear import cross_validated
from pipeline.outcomes.row import OutcomeRow, cell, write_outcomes
from pipeline.outcomes.table import read_outcomes
from pipeline.outcomes.task import OutcomeTask
from pipeline.outcomes.vectors import SlideVectors, read_slide_vectors
from pipeline.progress import progress, say
from pipeline.provenance import file_digest, finished, record, write_json
from pipeline.settings import OutcomesSettings

Floats = NDArray[np.float64]

ATTENTION = "attention"
# Of a table that names no patient twice these are different rows: one per patient and class.
_PREDICTION_COLUMNS = ("outcome", "run", "probe", "patient", "known", "event", "class", "predicted")


@dataclass(frozen=True)
class OutcomesInputs:
    """What the stage reads.

    Attributes:
        embeddings: folder that holds RUN/slides.parquet and RUN/SLIDE.h5.
        runs: the trainings.
        repeats: trainings that repeat another one with another seed, by name.
        baseline: run that the others are compared with; empty for none.
        table: of patients.
    """

    embeddings: Path
    runs: Sequence[str]
    repeats: Mapping[str, str]
    baseline: str
    table: Path


@dataclass(frozen=True)
class _Answers:
    """Predictions (n, K) of one outcome, by probe and training."""

    task: OutcomeTask
    predicted: Mapping[str, Mapping[str, Floats]]


def outcomes(
    inputs: OutcomesInputs,
    settings: OutcomesSettings,
    out_summary: Path,
    out_details: Path,
    out_predictions: Path,
    device: str = "cpu",
) -> list[OutcomeRow]:
    """Ask the vectors and patches of every run for every outcome; write the scores, their details and the predictions.

    Args:
        inputs: what is read.
        settings: of the stage.
        out_summary: a row per outcome, run and probe.
        out_details: counts of patients, scores of classes, the provenance.
        out_predictions: what was predicted of each patient by probes that were not fitted on it.
        device: that attention is fitted on.

    Raises:
        StatedError: see `read_outcomes`, `read_slide_vectors` and `Bags`, or if runs have other slides than the first.
    """
    check_repeats(inputs.runs, inputs.repeats)
    groups = seeds_of(list(inputs.runs), inputs.repeats)
    if inputs.baseline and inputs.baseline not in groups:
        raise StatedError(file="--baseline", expected=f"one of {', '.join(groups)}", found=inputs.baseline)
    vectors = {run: read_slide_vectors(inputs.embeddings / run / "slides.parquet") for run in inputs.runs}
    check_same_slides(vectors)
    patients = tuple(dict.fromkeys(next(iter(vectors.values())).patients))
    tasks = [OutcomeTask.of(outcome) for outcome in read_outcomes(inputs.table, settings, patients)]
    answers, rows = [], []
    for task in tasks:
        if task.too_few:
            say(f"outcomes: {task.name}, {task.too_few}")
            rows += unscored_rows(task, "mean", groups)
            continue
        answers.append(_Answers(task, _predicted(task, vectors, inputs, settings, device)))
        rows += _rows(answers[-1], groups, inputs.baseline, settings)
    digests = {f"embed/{run}/slides.parquet": file_digest(known.path) for run, known in vectors.items()}
    if settings.attention_epochs and answers:
        digests |= {
            f"embed/{run}/{slide}.h5": file_digest(inputs.embeddings / run / f"{slide}.h5")
            for run, known in vectors.items()
            for slide in known.slides
        }
    digests["table"] = file_digest(inputs.table)
    used = {key: value for key, value in asdict(settings).items() if key != "table"}
    packages = ("h5py", "numpy", "pyarrow", "scikit-learn", "scipy", "torch")
    with finished(out_summary) as summary, finished(out_predictions) as predictions:
        write_outcomes(summary, rows)
        _write_predictions(predictions, answers)
        write_json(
            out_details,
            {
                "provenance": record("outcomes", used | {"baseline": inputs.baseline}, digests, packages),
                "baseline": inputs.baseline,
                "encoders": {run: known.encoder for run, known in vectors.items()},
                "outcomes": {task.name: _described(task) for task in tasks},
                "areas": _areas(answers),
            },
        )
    return rows


def check_same_slides(vectors: Mapping[str, SlideVectors]) -> None:
    """Raise StatedError unless all runs embedded the same slides of the same patients."""
    (first, reference), *others = vectors.items()
    for _, known in others:
        if known.owners != reference.owners:
            expected = f"the {len(reference.slides)} slides and patients of run {first}"
            raise StatedError(file=known.path, expected=expected, found=f"{len(known.slides)} slides, not the same")


def _predicted(
    task: OutcomeTask,
    vectors: Mapping[str, SlideVectors],
    inputs: OutcomesInputs,
    settings: OutcomesSettings,
    device: str,
) -> dict[str, dict[str, Floats]]:
    """Return predictions by probe and training; the parts of the patients are the same for all."""
    seeds = [settings.seed + repeat for repeat in range(settings.repeats)]
    folds = {seed: stratified_folds(task.strata(), settings.folds, np.random.default_rng(seed)) for seed in seeds}
    found: dict[str, dict[str, Floats]] = {}
    for run in progress(vectors, label=f"outcomes {task.name}", unit="runs"):
        known = vectors[run]
        for probe, own in known.of_patients(task.patients).items():
            found.setdefault(probe, {})[run] = np.mean(
                [cross_validated(own, task, settings.penalties, folds[seed], seed) for seed in seeds],
                axis=0,
            )
        if settings.attention_epochs:
            # Here and not above: without it this stage needs no torch.
            from pipeline.outcomes.attention import attention_predictions

            slides = {patient: known.slides_of(patient) for patient in task.patients}
            bags = Bags(inputs.embeddings / run, slides, known.encoder)
            found.setdefault(ATTENTION, {})[run] = np.mean(
                [attention_predictions(bags, task, settings, folds[seed], seed, device) for seed in seeds], axis=0
            )
    return found


def _rows(
    answers: _Answers, groups: Mapping[str, Sequence[str]], baseline: str, settings: OutcomesSettings
) -> list[OutcomeRow]:
    halves = resample_counts([len(answers.task.patients)], settings.bootstrap, settings.seed)[0]
    return [
        row
        for probe, predicted in answers.predicted.items()
        for row in outcome_rows(answers.task, probe, predicted, groups, baseline, halves, WIDENING)
    ]


def _described(task: OutcomeTask) -> dict[str, Any]:
    return {
        "kind": task.kind,
        "measure": task.measure,
        "patients": len(task.patients),
        "counts": task.counts,
        "note": task.too_few,
    }


def _areas(answers: Sequence[_Answers]) -> dict[str, Any]:
    """Return the area under the ROC curve of each class, by outcome, probe and training."""
    return {
        answer.task.name: {
            probe: {run: answer.task.areas(values) for run, values in predicted.items()}
            for probe, predicted in answer.predicted.items()
        }
        for answer in answers
        if answer.task.kind == "class"
    }


def _write_predictions(path: Path, answers: Sequence[_Answers]) -> None:
    """Write one line per outcome, run, probe and patient, of classes one for each class."""
    with path.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream, delimiter="\t", lineterminator="\n")
        writer.writerow(_PREDICTION_COLUMNS)
        for answer in answers:
            for probe, predicted in answer.predicted.items():
                for run, values in predicted.items():
                    writer.writerows([answer.task.name, run, probe, *line] for line in _lines(answer.task, values))


def _lines(task: OutcomeTask, predicted: Floats) -> Iterator[list[str]]:
    for row, patient in enumerate(task.patients):
        known = task.classes[task.labels[row]] if task.kind == "class" else f"{task.values[row]:g}"
        event = str(int(task.events[row])) if task.kind == "survival" else ""
        for name, value in zip(task.classes or ("",), predicted[row].tolist(), strict=True):
            yield [patient, known, event, name, cell(float(value))]
