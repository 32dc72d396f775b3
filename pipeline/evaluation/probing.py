"""Run all probes on every run's features, and return the rows of evidence."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from pipeline.evaluation.aggregates import Targets
from pipeline.evaluation.class_evidence import probed_classes
from pipeline.evaluation.classes import ClassTask
from pipeline.evaluation.evidence import evidence_rows
from pipeline.evaluation.evidence_row import EvidenceRow, Seen
from pipeline.evaluation.held_out import HeldOut
from pipeline.evaluation.label_draws import LabelDraws
from pipeline.evaluation.label_efficiency import CurvePoint, FewerLabels, averaged, fewer_labels
from pipeline.evaluation.marker_evidence import Integers, probed_markers
from pipeline.evaluation.probe_spec import MARKERS, ProbeSpec, Side
from pipeline.evaluation.probed_rows import FittingRows, RunFeatures
from pipeline.evaluation.probes import RidgeProbe
from pipeline.evaluation.reading import Cohort, FeaturesOf
from pipeline.evaluation.scores import FittedProbe, ProbedTargets, stacked
from pipeline.settings import EvaluateSettings
from pipeline.store.targets import NO_CLASS

Probed = Mapping[ProbeSpec, ProbedTargets]


@dataclass(frozen=True)
class Questions:
    """What every run is asked, the same for all.

    Attributes:
        cohort: the pairs.
        training: those that probes are fitted on.
        tested: the held-out blocks and their resamples.
        markers: the targets of marker probes.
        marker_draws: their few labels.
        tasks: the classes that are asked for.
        task_draws: their few labels, task by task.
        settings: of the stage.
    """

    cohort: Cohort
    training: FittingRows
    tested: HeldOut
    markers: Targets
    marker_draws: LabelDraws
    tasks: tuple[ClassTask, ...]
    task_draws: tuple[LabelDraws, ...]
    settings: EvaluateSettings

    @classmethod
    def of(
        cls,
        cohort: Cohort,
        training: FittingRows,
        tasks: Sequence[ClassTask],
        unseen: Collection[str],
        settings: EvaluateSettings,
    ) -> Questions:
        """Return the questions, having said which numbers of labels are left out; `unseen` are markers a run left."""
        rows = len(training.groups)
        draws = []
        for task in tasks:
            known = int((task.fitted != NO_CLASS).sum())
            draws.append(LabelDraws.of(settings, rows, known, len(task.names), f"classes of column {task.column}"))
        return cls(
            cohort,
            training,
            HeldOut.of(cohort, settings),
            Targets.of(cohort.markers, unseen),
            LabelDraws.of(settings, rows),
            tuple(tasks),
            tuple(draws),
            settings,
        )

    def probed(
        self, features_of: FeaturesOf, side: Side = "sparse", fitted: tuple[RidgeProbe, Integers] | None = None
    ) -> Probed:
        """Return all probes of one training, scored on the held-out pairs.

        Args:
            features_of: its features.
            side: whose features these are.
            fitted: its ridge probes on all labels, with the patches that each was fitted on, where they are there.

        Raises:
            StatedError: if there are no features, or features of other patches.
        """
        features = RunFeatures.read(features_of, self.cohort, self.training)
        known = (self.cohort, self.training, self.marker_draws, self.markers, self.tested, self.settings)
        found = list(probed_markers(features, *known, side, fitted))
        for task, draws in zip(self.tasks, self.task_draws, strict=True):
            found += probed_classes(features, task, draws, self.tested, self.settings, side)
        return {one.spec: one for one in found}


def evidence(
    probed: Mapping[str, Probed],
    groups: Mapping[str, Sequence[str]],
    tested: HeldOut,
    baseline: str,
    seed: int,
) -> list[EvidenceRow]:
    """Return the rows of every probe.

    Args:
        probed: each training.
        groups: for each row's run the trainings that are its seeds.
        tested: the held-out blocks and their resamples.
        baseline: run that the others are compared with; empty for none, which leaves out every verdict.
        seed: of the draws of draws of labels.
    """
    rows = []
    first = next(iter(probed.values()))
    for spec, one in first.items():
        own = {run: [probed[name][spec] for name in names] for run, names in groups.items()}
        rows += evidence_rows(
            spec,
            one.targets,
            {run: stacked([each.scores for each in seeds]) for run, seeds in own.items()},
            {run: _fitted([each.fitted for each in seeds]) for run, seeds in own.items()},
            baseline,
            replace(tested, patches=one.patches),
        )
    if not baseline:
        return rows
    ratios = {
        (run, spec.on(None)): _ratios(run, baseline, spec, probed, groups, tested, seed)
        for run in groups
        if run != baseline
        for spec, one in first.items()
        if one.curve is not None and spec.labels is None
    }
    return [_with_ratio(row, ratios.get((row.run, row.spec), {})) for row in rows]


def with_seen(
    rows: Sequence[EvidenceRow], seen: Mapping[str, frozenset[str] | None], targets: Targets
) -> list[EvidenceRow]:
    """Return rows of markers with whether each run's training saw them.

    Args:
        rows: of all probes.
        seen: of each run the markers that its dense and target branches saw; None where nothing tells.
        targets: the markers and their means.
    """
    asked: dict[str, Sequence[str]] = dict(zip(targets.columns, [(name,) for name in targets.names], strict=False))
    asked |= {
        mean: [name for name, inside in zip(targets.names, member, strict=True) if inside]
        for mean, member in zip(targets.means, targets.members, strict=True)
    }

    def seen_of(row: EvidenceRow) -> Seen:
        known = seen.get(row.run)
        if known is None or row.spec.target != MARKERS:
            return ""
        count = sum(name in known for name in asked[row.target])
        return "no" if not count else "yes" if count == len(asked[row.target]) else "some"

    return [replace(row, seen=seen_of(row)) for row in rows]


def _fitted(seeds: Sequence[FittedProbe]) -> FittedProbe:
    """Return what the seeds of a run were fitted on, with the median of their penalties."""
    penalties = [one.penalty for one in seeds if one.penalty is not None]
    return FittedProbe(seeds[0].train_patches, np.median(penalties, axis=0) if penalties else None)


def _ratios(
    run: str,
    baseline: str,
    spec: ProbeSpec,
    probed: Mapping[str, Probed],
    groups: Mapping[str, Sequence[str]],
    tested: HeldOut,
    seed: int,
) -> dict[str, FewerLabels]:
    """Return by target how many times fewer labels a run needs; nothing where no few labels were asked for."""
    specs = [one for one in probed[groups[run][0]] if one.on(None) == spec]
    specs.sort(key=lambda one: math.inf if one.labels is None else one.labels)
    if len(specs) < 2:
        return {}
    curve = [_curve([probed[name][one] for name in groups[run]]) for one in specs]
    full = _curve([probed[name][spec] for name in groups[baseline]])
    # Of thousands of targets few-label probes tell the means alone: the last columns are those of all of them.
    columns = min(len(one.labels) for one in curve)
    curve, full = [one.last(columns) for one in curve], full.last(columns)
    names = probed[groups[run][0]][spec].targets.columns[-columns:]
    return {name: fewer_labels(curve, full, column, tested, seed) for column, name in enumerate(names)}


def _curve(seeds: Sequence[ProbedTargets]) -> CurvePoint:
    return averaged([one.curve for one in seeds if one.curve is not None])


def _with_ratio(row: EvidenceRow, ratios: Mapping[str, FewerLabels]) -> EvidenceRow:
    found = ratios.get(row.target)
    return row if found is None else replace(row, fewer_labels=found.ratio, fewer_labels_within=found.within)
