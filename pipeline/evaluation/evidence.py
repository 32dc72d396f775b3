"""Scores of every run, probe and marker with intervals, and the verdict against the baseline run.

A run trained with several seeds is one row: the mean of its seeds' scores. Two spreads are told beside it, and kept
apart: the interval from halves of the blocks of tissue (of the seeds' mean), and the lowest and highest seed. Runs are
compared seed by seed, in the order of the seeds, where both have as many: such seeds share initial weights and order.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from pipeline.evaluation.bootstrap import (
    FEWEST_BLOCKS,
    UNKNOWN,
    Interval,
    Parts,
)
from pipeline.evaluation.held_out import Around, HeldOut, clipped

Floats = NDArray[np.float64]

MEAN = "mean"


@dataclass(frozen=True)
class EvidenceRow:
    """One run, probe and target; floats are nan where nothing can be said.

    Attributes:
        run: name of the training; with several seeds, of the first.
        probe: `ridge`, `knn`, or one of `class_evidence`; of a dense encoder's features with `dense-` before it.
        target: a marker or class, or `mean` for the mean of their scores; see `target_names`.
        metric: what the score is.
        score: on held-out patches, the mean over seeds; Pearson r is taken within slides and averaged over them.
        within: its 95 % interval.
        difference: score minus the baseline run's.
        difference_within: its 95 % interval, from what each block contributes to it.
        verdict: `helped`, `no difference` or `harmed`; empty for the baseline and where nothing can be said.
        r2: explained variance; nan for classes.
        spearman: rank correlation, averaged as the score is; nan for classes.
        penalty: the ridge penalty, the median of the seeds'; nan for other probes and for `mean`.
        per_slide: the score of each held-out slide that shows the target, for `mean` all targets.
        per_seed: the score of each seed.
        difference_per_seed: its difference to the baseline's same seed; empty for the baseline.
        disjoint: whether the intervals of this score and the baseline's share no value, a stricter demand than a
            difference whose interval excludes 0; None for the baseline and where nothing can be said.
        train_patches: patches fitted on.
        test_patches: held-out patches scored.
        test_slides: held-out slides scored.
        draw_std: standard deviation of the score over draws of patches to fit on; nan where none are drawn.
        blocks: of held-out tissue on which the target is shown.
        correlation_um: distance from which contributions to the difference, or without one to the score, are unrelated.
        note: why there is no score, interval or verdict; empty where nothing is missing.
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
    blocks: int = 0
    correlation_um: float = math.nan
    note: str = ""


@dataclass(frozen=True)
class Scores:
    """Of one run and probe, S seeds and T targets, whose mean comes last.

    Attributes:
        point: (S, T + 1).
        contribution: (S, n, T + 1) of each held-out patch, see `Parts`.
        influence: (S, n, T + 1).
        share: (S, n, T + 1).
        per_slide: (S, slides, T + 1), nan where a slide does not show the target, or the mean not all of them.
        r2: (S, T + 1).
        spearman: (S, T + 1).
        draw_std: (S, T + 1), spread over draws of patches to fit on; nan where none are drawn.
    """

    point: Floats
    contribution: Floats
    influence: Floats
    share: Floats
    per_slide: Floats
    r2: Floats
    spearman: Floats
    draw_std: Floats

    @cached_property
    def parts(self) -> Parts:
        """Return what patches contribute to the mean over the seeds."""
        return Parts(*(values.mean(axis=0) for values in (self.contribution, self.influence, self.share)))


@dataclass(frozen=True)
class FittedProbe:
    """What a run's probes were fitted on: `train_patches` (T,), and the `penalty` (T,) chosen, where one is."""

    train_patches: NDArray[np.int64]
    penalty: Floats | None


def seeds_of(runs: Sequence[str], repeats: Mapping[str, str]) -> dict[str, list[str]]:
    """Return for each run that repeats no other the trainings that are its seeds, itself first."""
    return {run: [run, *(name for name in runs if repeats.get(name) == run)] for run in runs if run not in repeats}


def evidence_rows(
    probe: str,
    metrics: tuple[str, str],
    targets: Sequence[str],
    scores: Mapping[str, Scores],
    fitted: Mapping[str, FittedProbe],
    baseline: str,
    tested: HeldOut,
) -> list[EvidenceRow]:
    """Return the rows of one probe: runs in the given order, then targets with their mean last.

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
    within = {run: tested.around(own.parts, whole=False) for run, own in scores.items()}
    for run, own in scores.items():
        against = None if run == baseline else scores.get(baseline)
        parts = None if against is None else _difference(own, against)
        compared = None if parts is None else tested.around(parts, whole=True)
        for column, target in enumerate(target_names(targets)):
            is_mean = column == len(targets)
            plain = _row(run, probe, target, metrics[is_mean], column, own, within[run][column], fitted[run], tested)
            if against is None or compared is None:
                rows.append(plain)
            else:
                theirs = within[baseline][column].ends
                rows.append(_compared(plain, column, own, against, compared[column], within[run][column].ends, theirs))
    return rows


def missing_rows(
    probe: str, metrics: tuple[str, str], targets: Sequence[str], groups: Mapping[str, Sequence[str]], note: str
) -> list[EvidenceRow]:
    """Return rows without a score, of a probe that could not be fitted, with the reason."""
    return [
        EvidenceRow(
            run=run,
            probe=probe,
            target=target,
            metric=metrics[column == len(targets)],
            score=math.nan,
            within=UNKNOWN,
            difference=math.nan,
            difference_within=UNKNOWN,
            verdict="",
            r2=math.nan,
            spearman=math.nan,
            penalty=math.nan,
            per_slide={},
            per_seed=(math.nan,) * len(names),
            difference_per_seed=(),
            disjoint=None,
            train_patches=0,
            test_patches=0,
            test_slides=0,
            draw_std=math.nan,
            note=note,
        )
        for run, names in groups.items()
        for column, target in enumerate(target_names(targets))
    ]


def target_names(targets: Sequence[str]) -> list[str]:
    """Return how rows name the targets, and their mean last.

    A marker or class that is itself called mean, in whatever case, gets a name that cannot be taken for theirs.
    """
    return [f"{name} (not the mean)" if name.strip().casefold() == MEAN else name for name in targets] + [MEAN]


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


def stacked(seeds: Sequence[Scores]) -> Scores:
    """Return the scores of several seeds, of which each has S = 1 and no axis for it."""
    return Scores(*(np.stack([getattr(one, item.name) for one in seeds]) for item in fields(Scores)))


def with_mean(values: Floats) -> Floats:
    """Return the columns (n, T) and, as one more, the mean of each row's known values."""
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
    around: Around,
    fitted: FittedProbe,
    held: HeldOut,
) -> EvidenceRow:
    """Return the row of a score that is compared with nothing."""
    is_mean, score = target == MEAN, float(scores.point[:, column].mean())
    per_slide, shown = scores.per_slide[:, :, column].mean(axis=0), _shown(scores, column, is_mean=is_mean)
    return EvidenceRow(
        run=run,
        probe=probe,
        target=target,
        metric=metric,
        score=score,
        within=clipped(around.ends, metric),
        difference=math.nan,
        difference_within=UNKNOWN,
        verdict="",
        r2=float(scores.r2[:, column].mean()),
        spearman=float(scores.spearman[:, column].mean()),
        penalty=math.nan if is_mean or fitted.penalty is None else float(fitted.penalty[column]),
        per_slide={slide: float(r) for slide, r in zip(held.slides, per_slide, strict=True) if math.isfinite(r)},
        per_seed=tuple(scores.point[:, column].tolist()),
        difference_per_seed=(),
        disjoint=None,
        train_patches=int(fitted.train_patches.max(initial=0) if is_mean else fitted.train_patches[column]),
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


def with_mean_of_all(values: Floats, scores: Floats) -> Floats:
    """Return the columns (n, T) and each row's mean, nan where it lacks a target that has a score (T,)."""
    scored = np.isfinite(scores)
    mean = values[:, scored].mean(axis=1) if scored.any() else np.full(len(values), np.nan)
    return np.concatenate([values, mean[:, None]], axis=1)


def _difference(own: Scores, baseline: Scores) -> Parts | None:
    """Return what patches contribute to the differences; None where the two were not scored on the same targets."""
    if not np.array_equal(np.isfinite(own.point).all(axis=0), np.isfinite(baseline.point).all(axis=0)):
        return None
    a, b = own.parts, baseline.parts
    return Parts(a.contribution - b.contribution, a.influence - b.influence, a.share)


def _shown(scores: Scores, column: int, *, is_mean: bool) -> NDArray[np.bool_]:
    """Return which slides show a target, or for the mean any of them."""
    shown = np.isfinite(scores.per_slide.sum(axis=0))
    return np.asarray(shown[:, :-1].any(axis=1) if is_mean else shown[:, column], dtype=np.bool_)


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
