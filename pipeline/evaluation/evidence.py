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

from pipeline.evaluation.bootstrap import (
    Interval,
    block_labels,
    block_sums,
    correlations,
    explained,
    interval,
    pearson,
    resample_counts,
    spearman,
)
from pipeline.evaluation.prediction import PROBES, RunPredictions, held_out, held_out_truth
from pipeline.evaluation.reading import Cohort
from pipeline.settings import EvaluateSettings

Floats = NDArray[np.float64]

MEAN = "mean"


@dataclass(frozen=True)
class EvidenceRow:
    """One run, probe and target; floats are nan where nothing can be said.

    Attributes:
        run: name of the training; with several seeds, of the first.
        probe: `ridge` or `knn`.
        target: a marker, or `mean` for the mean of the markers' scores.
        score: Pearson r on held-out patches within slides, averaged over slides, then over seeds.
        within: its 95 % interval.
        difference: score minus the baseline run's.
        difference_within: its 95 % interval, from the same resamples in both runs.
        verdict: `helped`, `no difference` or `harmed`; empty for the baseline and where nothing can be said.
        r2: explained variance.
        spearman: rank correlation, averaged as the score is.
        penalty: the ridge penalty, the median of the seeds'; nan for other probes and for `mean`.
        per_slide: Pearson r of each held-out slide.
        per_seed: the score of each seed.
        difference_per_seed: its difference to the baseline's same seed; empty for the baseline.
        disjoint: whether the intervals of this score and the baseline's share no value, a stricter demand than a
            difference whose interval excludes 0; None for the baseline and where nothing can be said.
        train_patches: patches fitted on.
        test_patches: held-out patches scored.
        test_slides: held-out slides scored.
    """

    run: str
    probe: str
    target: str
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


@dataclass(frozen=True)
class _Scores:
    """Of one run and probe, S seeds: scores (S, T + 1) and resampled scores (S, resamples, T + 1), the mean last."""

    point: Floats
    resampled: Floats
    per_slide: Floats
    r2: Floats
    spearman: Floats


def compare(
    cohort: Cohort,
    runs: Mapping[str, RunPredictions],
    settings: EvaluateSettings,
    repeats: Mapping[str, str] | None = None,
) -> list[EvidenceRow]:
    """The evidence table: runs in the given order, then probes, then markers with their mean last.

    Args:
        cohort: the pairs.
        runs: predictions of each training.
        settings: of the stage.
        repeats: for a training that repeats another one with a further seed, the name of that one.
    """
    repeats = repeats or {}
    groups = {run: [run, *(name for name in runs if repeats.get(name) == run)] for run in runs if run not in repeats}
    slides = held_out(cohort)
    truths = [held_out_truth(slide) for slide in slides]
    blocks = [block_labels(slide.position_um[slide.fold == 0], settings.block_um) for slide in slides]
    counts = resample_counts([int(labels.max()) + 1 for labels in blocks], settings.bootstrap, settings.seed)
    enough = any(len(np.unique(labels)) > 1 for labels in blocks)
    rows = []
    for probe in PROBES:
        scores = {
            run: _stacked([_scores(truths, runs[name].predicted[probe], blocks, counts) for name in names])
            for run, names in groups.items()
        }
        baseline = scores.get(settings.baseline)
        for run, names in groups.items():
            made = [runs[name] for name in names]
            for column, target in enumerate((*cohort.markers, MEAN)):
                against = None if run == settings.baseline else baseline
                rows.append(_row(run, probe, target, column, scores[run], against, made, truths, slides_of(cohort)))
    order = {run: index for index, run in enumerate(groups)}
    rows.sort(key=lambda row: order[row.run])  # stable: probes and markers keep their order
    return rows if enough else [_without_intervals(row) for row in rows]


def slides_of(cohort: Cohort) -> tuple[str, ...]:
    """Names of the held-out slides."""
    return tuple(slide.slide for slide in held_out(cohort))


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


def _scores(
    truths: Sequence[Floats],
    predicted: Sequence[Floats],
    blocks: Sequence[NDArray[np.int64]],
    counts: list[NDArray[np.int64]],
) -> _Scores:
    # A marker without a probe (no slide to fit on has it) is no zero: it is left out like a missing truth.
    known = [np.where(np.isfinite(p), y, np.nan) for y, p in zip(truths, predicted, strict=True)]
    sums = [block_sums(y, p, labels) for y, p, labels in zip(known, predicted, blocks, strict=True)]
    per_slide = np.stack([pearson(y, p) for y, p in zip(known, predicted, strict=True)])
    weight = np.array([len(y) for y in known], dtype=np.float64)
    return _Scores(
        point=_with_mean(correlations(sums))[0],
        resampled=_with_mean(correlations(sums, counts)),
        per_slide=_with_mean(per_slide),
        r2=_averaged([explained(y, p) for y, p in zip(known, predicted, strict=True)], weight),
        spearman=_averaged([spearman(y, p) for y, p in zip(known, predicted, strict=True)], weight),
    )


def _stacked(seeds: Sequence[_Scores]) -> _Scores:
    return _Scores(*(np.stack([getattr(one, item.name) for one in seeds]) for item in fields(_Scores)))


def _averaged(values: Sequence[Floats], weight: Floats) -> Floats:
    """Mean over slides (T + 1,), weighted, of what is known; the mean over targets last."""
    stacked = np.stack(values)
    known = np.isfinite(stacked)
    total = (known * weight[:, None]).sum(axis=0)
    mean = np.where(known, stacked * weight[:, None], 0).sum(axis=0) / np.where(total > 0, total, np.nan)
    return np.asarray(_with_mean(mean[None])[0])


def _with_mean(values: Floats) -> Floats:
    """The columns (n, T) and, as one more, the mean of each row's known values."""
    known = np.isfinite(values)
    count = known.sum(axis=1)
    mean = np.where(known, values, 0).sum(axis=1) / np.where(count > 0, count, np.nan)
    return np.concatenate([values, mean[:, None]], axis=1)


def _row(
    run: str,
    probe: str,
    target: str,
    column: int,
    scores: _Scores,
    baseline: _Scores | None,
    made: Sequence[RunPredictions],
    truths: Sequence[Floats],
    slides: Sequence[str],
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
    first = made[0]
    return EvidenceRow(
        run=run,
        probe=probe,
        target=target,
        score=float(scores.point[:, column].mean()),
        within=within,
        difference=difference,
        difference_within=around,
        verdict=verdict_of(around, per_seed),
        r2=float(scores.r2[:, column].mean()),
        spearman=float(scores.spearman[:, column].mean()),
        penalty=math.nan if is_mean or probe != "ridge" else float(np.median([one.penalty[column] for one in made])),
        per_slide={slide: float(r) for slide, r, known in zip(slides, per_slide, tested, strict=True) if known},
        per_seed=tuple(scores.point[:, column].tolist()),
        difference_per_seed=tuple(per_seed),
        disjoint=disjoint,
        train_patches=int(first.train_patches.max(initial=0) if is_mean else first.train_patches[column]),
        test_patches=sum(len(y) for y, known in zip(truths, tested, strict=True) if known),
        test_slides=int(tested.sum()),
    )


def _paired(scores: Floats, baseline: Floats) -> Floats:
    """Differences (S,), seed by seed where there are as many, otherwise to the mean of the baseline's seeds."""
    return scores - (baseline if len(scores) == len(baseline) else baseline.mean())


def _disjoint(one: Interval, other: Interval) -> bool | None:
    if math.isnan(one.low) or math.isnan(other.low):
        return None
    return one.low > other.high or one.high < other.low


def _without_intervals(row: EvidenceRow) -> EvidenceRow:
    """The row of a test on one block of tissue only, of which no interval can be drawn."""
    unknown = Interval(math.nan, math.nan)
    return replace(row, within=unknown, difference_within=unknown, verdict="", disjoint=None)
