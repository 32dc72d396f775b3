"""Scores of every run, probe and marker with intervals, and the verdict against the baseline run.

A run trained with several seeds is one row: the mean of its seeds' scores. Two spreads are told beside it, and kept
apart: the interval from resampled blocks of tissue (of the seeds' mean), and the lowest and highest seed. Runs are
compared seed by seed, in the order of the seeds, where both have as many: such seeds share initial weights and order.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
from numpy.typing import NDArray

from pipeline.evaluation.bootstrap import Interval, block_labels, enough_blocks, interval, resample_counts
from pipeline.evaluation.prediction import held_out
from pipeline.evaluation.reading import Cohort
from pipeline.settings import EvaluateSettings

Floats = NDArray[np.float64]

MEAN = "mean"


@dataclass(frozen=True)
class EvidenceRow:
    """One run, probe and target; floats are nan where nothing can be said.

    Attributes:
        run: name of the training; with several seeds, of the first.
        probe: `ridge`, `knn`, or one of `class_evidence`; of a dense encoder's features with `dense-` before it.
        target: a marker or class, or `mean` for the mean of their scores.
        metric: what the score is.
        score: on held-out patches, the mean over seeds; Pearson r is taken within slides and averaged over them.
        within: its 95 % interval.
        difference: score minus the baseline run's.
        difference_within: its 95 % interval, from the same resamples in both runs.
        verdict: `helped`, `no difference` or `harmed`; empty for the baseline and where nothing can be said.
        r2: explained variance; nan for classes.
        spearman: rank correlation, averaged as the score is; nan for classes.
        penalty: the ridge penalty, the median of the seeds'; nan for other probes and for `mean`.
        per_slide: the score of each held-out slide.
        per_seed: the score of each seed.
        difference_per_seed: its difference to the baseline's same seed; empty for the baseline.
        disjoint: whether the intervals of this score and the baseline's share no value, a stricter demand than a
            difference whose interval excludes 0; None for the baseline and where nothing can be said.
        train_patches: patches fitted on.
        test_patches: held-out patches scored.
        test_slides: held-out slides scored.
        draw_std: standard deviation of the score over draws of patches to fit on; nan where none are drawn.
    """

    run: str
    probe: str
    target: str
    metric: str
    score: float
    within: Interval
    difference: float
    difference_within: Interval
    verdict: str
    r2: float
    spearman: float
    penalty: float
    per_slide: dict[str, float]
    per_seed: tuple[float, ...]
    difference_per_seed: tuple[float, ...]
    disjoint: bool | None
    train_patches: int
    test_patches: int
    test_slides: int
    draw_std: float


@dataclass(frozen=True)
class Scores:
    """Of one run and probe, S seeds and T targets, whose mean comes last.

    Attributes:
        point: (S, T + 1).
        resampled: (S, resamples, T + 1).
        per_slide: (S, slides, T + 1), nan where a slide does not show the target.
        r2: (S, T + 1).
        spearman: (S, T + 1).
        draw_std: (S, T + 1), spread over draws of patches to fit on; nan where none are drawn.
    """

    point: Floats
    resampled: Floats
    per_slide: Floats
    r2: Floats
    spearman: Floats
    draw_std: Floats


@dataclass(frozen=True)
class Fitted:
    """What a run's probes were fitted on: `train_patches` (T,), and the `penalty` (T,) chosen, where one is."""

    train_patches: NDArray[np.int64]
    penalty: Floats | None


@dataclass(frozen=True)
class HeldOut:
    """The held-out patches that scores and intervals rest on.

    Attributes:
        slides: names.
        patches: of each slide.
        blocks: for each slide, the block of tissue (n,) of each patch.
        counts: for each slide, how often each resample draws each block.
        enough: whether the blocks suffice for an interval.
    """

    slides: tuple[str, ...]
    patches: tuple[int, ...]
    blocks: tuple[NDArray[np.int64], ...]
    counts: tuple[NDArray[np.int64], ...]
    enough: bool

    @classmethod
    def of(cls, cohort: Cohort, settings: EvaluateSettings) -> HeldOut:
        """The held-out patches of a cohort."""
        slides = held_out(cohort)
        blocks = [block_labels(slide.position_um[slide.fold == 0], settings.block_um) for slide in slides]
        counts = resample_counts([int(labels.max()) + 1 for labels in blocks], settings.bootstrap, settings.seed)
        return cls(
            tuple(slide.slide for slide in slides),
            tuple(map(len, blocks)),
            tuple(blocks),
            tuple(counts),
            enough_blocks(blocks),
        )


def seeds_of(runs: Sequence[str], repeats: Mapping[str, str]) -> dict[str, list[str]]:
    """For each run that repeats no other the trainings that are its seeds, itself first."""
    return {run: [run, *(name for name in runs if repeats.get(name) == run)] for run in runs if run not in repeats}


def evidence_rows(
    probe: str,
    metrics: tuple[str, str],
    targets: Sequence[str],
    scores: Mapping[str, Scores],
    fitted: Mapping[str, Fitted],
    baseline: str,
    tested: HeldOut,
) -> list[EvidenceRow]:
    """The rows of one probe: runs in the given order, then targets with their mean last.

    Args:
        probe: its name.
        metrics: name of the score of a target, and of their mean.
        targets: names.
        scores: of every run.
        fitted: of every run.
        baseline: run that the others are compared with.
        tested: the held-out patches.
    """
    rows = []
    for run, own in scores.items():
        against = None if run == baseline else scores.get(baseline)
        for column, target in enumerate((*targets, MEAN)):
            metric = metrics[target == MEAN]
            rows.append(_row(run, probe, target, metric, column, own, against, fitted[run], tested))
    return rows if tested.enough else [_without_intervals(row) for row in rows]


def verdict_of(difference: Interval, per_seed: Sequence[float]) -> str:
    """What the differences to the baseline say.

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


def stacked(seeds: Sequence[Scores]) -> Scores:
    """The scores of several seeds, of which each has S = 1 and no axis for it."""
    return Scores(*(np.stack([getattr(one, item.name) for one in seeds]) for item in fields(Scores)))


def with_mean(values: Floats) -> Floats:
    """The columns (n, T) and, as one more, the mean of each row's known values."""
    known = np.isfinite(values)
    count = known.sum(axis=1)
    mean = np.where(known, values, 0).sum(axis=1) / np.where(count > 0, count, np.nan)
    return np.concatenate([values, mean[:, None]], axis=1)


def _row(
    run: str,
    probe: str,
    target: str,
    metric: str,
    column: int,
    scores: Scores,
    baseline: Scores | None,
    fitted: Fitted,
    held: HeldOut,
) -> EvidenceRow:
    within = interval(scores.resampled[:, :, column].mean(axis=0))
    difference, around, per_seed, disjoint = math.nan, Interval(math.nan, math.nan), [], None
    if baseline is not None:
        per_seed = _paired(scores.point[:, column], baseline.point[:, column]).tolist()
        difference = float(np.mean(per_seed))
        theirs = baseline.resampled[:, :, column].mean(axis=0)
        around = interval(scores.resampled[:, :, column].mean(axis=0) - theirs)
        disjoint = _disjoint(within, interval(theirs))
    is_mean = target == MEAN
    per_slide = scores.per_slide[:, :, column].mean(axis=0)
    tested = np.isfinite(per_slide)
    return EvidenceRow(
        run=run,
        probe=probe,
        target=target,
        metric=metric,
        score=float(scores.point[:, column].mean()),
        within=within,
        difference=difference,
        difference_within=around,
        verdict=verdict_of(around, per_seed),
        r2=float(scores.r2[:, column].mean()),
        spearman=float(scores.spearman[:, column].mean()),
        penalty=math.nan if is_mean or fitted.penalty is None else float(fitted.penalty[column]),
        per_slide={slide: float(r) for slide, r, known in zip(held.slides, per_slide, tested, strict=True) if known},
        per_seed=tuple(scores.point[:, column].tolist()),
        difference_per_seed=tuple(per_seed),
        disjoint=disjoint,
        train_patches=int(fitted.train_patches.max(initial=0) if is_mean else fitted.train_patches[column]),
        test_patches=sum(count for count, known in zip(held.patches, tested, strict=True) if known),
        test_slides=int(tested.sum()),
        draw_std=float(scores.draw_std[:, column].mean()),
    )


def _paired(scores: Floats, baseline: Floats) -> Floats:
    """Differences (S,), seed by seed where there are as many, otherwise to the mean of the baseline's seeds."""
    return scores - (baseline if len(scores) == len(baseline) else baseline.mean())


def _disjoint(one: Interval, other: Interval) -> bool | None:
    if math.isnan(one.low) or math.isnan(other.low):
        return None
    return one.low > other.high or one.high < other.low


def _without_intervals(row: EvidenceRow) -> EvidenceRow:
    """The row of a test on too few blocks of tissue to draw an interval."""
    unknown = Interval(math.nan, math.nan)
    return replace(row, within=unknown, difference_within=unknown, verdict="", disjoint=None)
