"""Scores of predictions with intervals over patients, and the verdict against the baseline run.

As in evaluate, with patients in place of blocks of tissue: random halves of them, and one method for score, interval
and difference. Intervals are wider by what patients share who were predicted by probes fitted on the same others.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from pipeline.evaluation.bootstrap import Interval, Parts, intervals
from pipeline.evaluation.evidence import verdict_of
from pipeline.evaluation.held_out import clipped
from pipeline.outcomes.row import OutcomeRow
from pipeline.outcomes.task import OutcomeTask

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


def outcome_rows(
    task: OutcomeTask,
    probe: str,
    predicted: Mapping[str, Floats],
    groups: Mapping[str, Sequence[str]],
    baseline: str,
    halves: Integers,
    widening: float,
) -> list[OutcomeRow]:
    """Return the rows of one outcome and probe, a run each.

    Args:
        task: the outcome.
        probe: its name.
        predicted: (n, K) by training.
        groups: by run the trainings that are its seeds; those without predictions are left out.
        baseline: run that the others are compared with.
        halves: (R, n) random halves of the patients, 1 where one is in the half.
        widening: of intervals, see `folds.WIDENING`.
    """
    parts = {
        run: [task.parts(predicted[name]) for name in names]
        for run, names in groups.items()
        if all(name in predicted for name in names)
    }
    rows = []
    for run, own in parts.items():
        scores = [float(one.score[0]) for one in own]
        within = _interval(_mean(own), halves, widening)
        row = OutcomeRow(
            outcome=task.name,
            kind=task.kind,
            run=run,
            probe=probe,
            measure=task.measure,
            patients=len(task.patients),
            counts=_counted(task),
            score=float(np.mean(scores)),
            within=clipped(within, task.measure),
            seeds=len(own),
            seed_low=min(scores),
            seed_high=max(scores),
        )
        rows.append(
            row if run == baseline or baseline not in parts else _compared(row, own, parts[baseline], halves, widening)
        )
    return rows


def unscored_rows(task: OutcomeTask, probe: str, groups: Mapping[str, Sequence[str]]) -> list[OutcomeRow]:
    """Return the rows of an outcome of which too few patients are known."""
    return [
        OutcomeRow(
            outcome=task.name,
            kind=task.kind,
            run=run,
            probe=probe,
            measure=task.measure,
            patients=len(task.patients),
            counts=_counted(task),
            seeds=len(names),
            note=task.too_few,
        )
        for run, names in groups.items()
    ]


def _compared(
    row: OutcomeRow, own: Sequence[Parts], baseline: Sequence[Parts], halves: Integers, widening: float
) -> OutcomeRow:
    """Return the row with its difference to the baseline, seed by seed where both have as many."""
    theirs = np.array([float(one.score[0]) for one in baseline])
    ours = np.array([float(one.score[0]) for one in own])
    per_seed = (ours - (theirs if len(theirs) == len(ours) else theirs.mean())).tolist()
    a, b = _mean(own), _mean(baseline)
    # The same patients are known, so their shares are the same.
    both = Parts(a.contribution - b.contribution, a.influence - b.influence, a.share)
    ends = _interval(both, halves, widening)
    return replace(row, difference=float(np.mean(per_seed)), difference_within=ends, verdict=verdict_of(ends, per_seed))


def _counted(task: OutcomeTask) -> str:
    return ", ".join(f"{name} {count}" for name, count in task.counts.items())


def _interval(parts: Parts, halves: Integers, widening: float) -> Interval:
    return intervals(parts.contribution, parts.share, halves, widening)[0]


def _mean(parts: Sequence[Parts]) -> Parts:
    """Return the parts of the mean score of several seeds."""
    return Parts(
        *(np.mean([getattr(one, name) for one in parts], axis=0) for name in ("contribution", "influence", "share"))
    )
