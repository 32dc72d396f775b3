"""Compare the scores of all runs: rows of evidence with intervals, and the verdict against the baseline run.

A run trained with several seeds is one row: the mean of its seeds' scores. Two spreads are reported beside it, and kept
apart: the interval from halves of the blocks of tissue (of the seeds' mean), and the lowest and highest seed. Runs are
compared seed by seed, in the order of the seeds, where both have as many: such seeds share initial weights and order.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from pipeline.evaluation.aggregates import Targets
from pipeline.evaluation.bootstrap import FEWEST_BLOCKS, Interval, Parts
from pipeline.evaluation.evidence_row import EvidenceRow
from pipeline.evaluation.held_out import Around, HeldOut, clipped
from pipeline.evaluation.probe_spec import ProbeSpec
from pipeline.evaluation.scores import FittedProbe, Scores

Floats = NDArray[np.float64]


def seeds_of(runs: Sequence[str], repeats: Mapping[str, str]) -> dict[str, list[str]]:
    """Return for each run that repeats no other the trainings that are its seeds, itself first."""
    return {run: [run, *(name for name in runs if repeats.get(name) == run)] for run in runs if run not in repeats}


def evidence_rows(
    spec: ProbeSpec,
    targets: Targets,
    scores: Mapping[str, Scores],
    fitted: Mapping[str, FittedProbe],
    baseline: str,
    tested: HeldOut,
) -> list[EvidenceRow]:
    """Return the rows of one probe: runs in the given order, then targets with their means last.

    Args:
        spec: the probe.
        targets: what it predicts.
        scores: of every run.
        fitted: of every run.
        baseline: run that the others are compared with.
        tested: the held-out patches.
    """
    rows = []
    within = {run: tested.around(own.parts, whole=False) for run, own in scores.items()}
    for run, own in scores.items():
        against = None if run == baseline else scores.get(baseline)
        parts = None if against is None else _difference(own, against)
        compared = None if parts is None else tested.around(parts, whole=True)
        for column in range(len(targets.columns)):
            plain = _row(run, spec, targets, column, own, within[run][column], fitted[run], tested)
            if against is None or compared is None:
                rows.append(plain)
            else:
                theirs = within[baseline][column].ends
                rows.append(_compared(plain, column, own, against, compared[column], within[run][column].ends, theirs))
    return rows


def verdict_of(difference: Interval, per_seed: Sequence[float]) -> str:
    """Return what the differences to the baseline say.

    `helped` needs an interval above 0 and a difference above 0 in every seed, `harmed` the same below; all else is
    `no difference`. Empty where there is no interval.
    """
    if math.isnan(difference.low):
        return ""
    if difference.low > 0 and all(value > 0 for value in per_seed):
        return "helped"
    if difference.high < 0 and all(value < 0 for value in per_seed):
        return "harmed"
    return "no difference"


def _row(
    run: str,
    spec: ProbeSpec,
    targets: Targets,
    column: int,
    scores: Scores,
    around: Around,
    fitted: FittedProbe,
    held: HeldOut,
) -> EvidenceRow:
    """Return the row of a score that is compared with nothing."""
    mean, score = column - len(targets.names), float(scores.point[:, column].mean())
    per_slide = scores.per_slide[:, :, column].mean(axis=0)
    shown = _shown(scores, column, targets)
    of_patches = fitted.train_patches
    if mean >= 0 and targets.names:
        of_patches = of_patches[targets.members[mean]]
    return EvidenceRow(
        run=run,
        spec=spec,
        target=targets.columns[column],
        score=score,
        within=clipped(around.ends, spec.metric),
        seeds=len(scores.point),
        seed_low=float(scores.point[:, column].min()),
        seed_high=float(scores.point[:, column].max()),
        r2=float(scores.r2[:, column].mean()),
        spearman=float(scores.spearman[:, column].mean()),
        penalty=math.nan if mean >= 0 or fitted.penalty is None else float(fitted.penalty[column]),
        per_slide={slide: float(r) for slide, r in zip(held.slides, per_slide, strict=True) if math.isfinite(r)},
        per_seed=tuple(scores.point[:, column].tolist()),
        train_patches=int(of_patches.max(initial=0) if mean >= 0 else of_patches[column]),
        test_patches=sum(count for count, known in zip(held.patches, shown, strict=True) if known),
        test_slides=int(shown.sum()),
        draw_std=float(scores.draw_std[:, column].mean()),
        blocks=around.blocks,
        correlation_um=around.correlation.range_um,
        note=_note(score, around),
    )


def _compared(
    row: EvidenceRow, column: int, scores: Scores, baseline: Scores, around: Around, ours: Interval, theirs: Interval
) -> EvidenceRow:
    """Return the row with what its difference to the baseline says."""
    per_seed = _paired(scores.point[:, column], baseline.point[:, column]).tolist()
    return replace(
        row,
        difference=float(np.mean(per_seed)),
        difference_within=around.ends,
        verdict=verdict_of(around.ends, per_seed),
        difference_per_seed=tuple(per_seed),
        disjoint=_disjoint(ours, theirs),
        correlation_um=around.correlation.range_um,
        note=row.note or _note(row.score, around),
    )


def _difference(own: Scores, baseline: Scores) -> Parts | None:
    """Return what patches contribute to the differences; None where the two were not scored on the same targets."""
    if not np.array_equal(np.isfinite(own.point).all(axis=0), np.isfinite(baseline.point).all(axis=0)):
        return None
    a, b = own.parts, baseline.parts
    return Parts(a.contribution - b.contribution, a.influence - b.influence, a.share)


def _shown(scores: Scores, column: int, targets: Targets) -> NDArray[np.bool_]:
    """Return which slides show a target, or for a mean any of its targets."""
    shown = np.isfinite(scores.per_slide.sum(axis=0))
    mean = column - len(targets.names)
    if mean < 0 or not targets.names:
        return np.asarray(shown[:, column], dtype=np.bool_)
    return np.asarray(shown[:, : len(targets.names)][:, targets.members[mean]].any(axis=1), dtype=np.bool_)


def _note(score: float, around: Around) -> str:
    """Return why there is no score or no interval; empty where there are both."""
    if math.isnan(score):
        return "not scored: constant or missing on one side of the split"
    if around.blocks < FEWEST_BLOCKS:
        return f"no interval: shown on {around.blocks} blocks of tissue, at least {FEWEST_BLOCKS} are needed"
    return "no interval: almost all of the score rests on one block" if math.isnan(around.ends.low) else ""


def _paired(scores: Floats, baseline: Floats) -> Floats:
    """Return differences (S,), seed by seed where there are as many, otherwise to the mean of the baseline's seeds."""
    return scores - (baseline if len(scores) == len(baseline) else baseline.mean())


def _disjoint(one: Interval, other: Interval) -> bool | None:
    if math.isnan(one.low) or math.isnan(other.low):
        return None
    return one.low > other.high or one.high < other.low
