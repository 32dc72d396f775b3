"""All probes of one encoder's features, and the rows of evidence that they give."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pipeline.evaluation.class_evidence import Draws, class_evidence, class_predictions
from pipeline.evaluation.classes import ClassTask
from pipeline.evaluation.evidence import EvidenceRow
from pipeline.evaluation.held_out import HeldOut
from pipeline.evaluation.marker_evidence import marker_evidence
from pipeline.evaluation.prediction import FittingRows, RunPredictions, predict
from pipeline.evaluation.reading import Cohort, FeaturesOf
from pipeline.settings import EvaluateSettings


@dataclass(frozen=True)
class ProbedRun:
    """What the probes of one training say of the held-out pairs.

    Attributes:
        markers: their values.
        classes: for each task, by probe, their classes.
    """

    markers: RunPredictions
    classes: tuple[Mapping[str, Draws], ...]


def probe(
    features_of: FeaturesOf,
    cohort: Cohort,
    training: FittingRows,
    tasks: Sequence[ClassTask],
    settings: EvaluateSettings,
) -> ProbedRun:
    """Fit all probes on the features of one training and has them predict the held-out pairs.

    Raises:
        StatedError: if there are no features, or features of other patches.
    """
    return ProbedRun(
        predict(features_of, cohort, training, settings),
        tuple(class_predictions(features_of, cohort, training, task, settings) for task in tasks),
    )


def evidence(
    cohort: Cohort,
    probed: Mapping[str, ProbedRun],
    groups: Mapping[str, Sequence[str]],
    tasks: Sequence[ClassTask],
    tested: HeldOut,
    baseline: str,
    prefix: str = "",
) -> list[EvidenceRow]:
    """Return rows of every probe: of markers, then of classes.

    Args:
        cohort: the pairs.
        probed: each training.
        groups: for each row's run the trainings that are its seeds.
        tasks: the classes that were asked for.
        tested: the held-out blocks and their resamples.
        baseline: run that the others are compared with; empty for none, which leaves out every verdict.
        prefix: of the names of the probes.
    """
    markers = {name: one.markers for name, one in probed.items()}
    rows = marker_evidence(cohort, markers, groups, tested, baseline, prefix)
    for number, task in enumerate(tasks):
        predicted = {name: one.classes[number] for name, one in probed.items()}
        rows += class_evidence(predicted, task, groups, tested, baseline, prefix)
    return rows
