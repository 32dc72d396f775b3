"""How well few labelled patches teach a ridge probe on frozen features: scores by number of labels, with intervals.

What stands in `pipeline.evaluation` is used throughout: the probe, the contributions of held-out patches to Pearson r,
random halves of the blocks of tissue, and the verdict. Labelled patches are drawn several times, the same for all runs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.evaluation.aggregates import Targets
from pipeline.evaluation.bootstrap import Parts, around, block_sums, correlation_parts, joined_blocks, pearson
from pipeline.evaluation.evidence import evidence_rows
from pipeline.evaluation.evidence_row import EvidenceRow
from pipeline.evaluation.held_out import HeldOut
from pipeline.evaluation.probe_spec import marker_probe_spec
from pipeline.evaluation.probed_rows import held_out, held_out_truth
from pipeline.evaluation.probes import fit_ridge
from pipeline.evaluation.reading import Cohort, SlidePairs
from pipeline.evaluation.scores import FittedProbe, Scores, stacked
from pipeline.settings import EvaluateSettings
from pipeline.store.targets import comparable, standardised

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

# Labelled patches, and how often they are drawn: the fewer, the more one draw differs from another.
DRAWS = {30: 20, 100: 20, 300: 10, 1000: 10, 3000: 5, 10000: 5}
_STRIPS = 5


@dataclass(frozen=True)
class LabelledPatches:
    """One draw: `chosen` (n,) of all training pairs, and the strip of tissue (n,) that each lies in.

    The penalty is chosen by leaving out strips, among the labelled patches alone.
    """

    chosen: Integers
    strip: Integers


@dataclass(frozen=True)
class Task:
    """What is asked of every training.

    Attributes:
        cohort: all pairs.
        targets: (N, T) of the training pairs, slide after slide.
        draws: for each number of labels its draws.
        tested: the held-out pairs.
    """

    cohort: Cohort
    targets: Floats
    draws: Mapping[int, Sequence[LabelledPatches]]
    tested: HeldOut

    @classmethod
    def of(cls, cohort: Cohort, settings: EvaluateSettings) -> Task:
        """Draw the labelled patches of a cohort."""
        slides = [(slide, ~slide.held_out) for slide in cohort.slides if not slide.held_out.all()]
        targets = [standardised(comparable(slide.marker_mean[used], slide.dense_kind)) for slide, used in slides]
        x_um = np.concatenate([slide.position_um[used, 0] for slide, used in slides])
        draws = {
            count: [_drawn(x_um, count, (settings.seed, count, number)) for number in range(times)]
            for count, times in DRAWS.items()
            if count <= len(x_um)
        }
        return cls(cohort, np.concatenate(targets), draws, HeldOut.of(cohort, settings))


def _drawn(x_um: Floats, count: int, seed: Sequence[int]) -> LabelledPatches:
    chosen = np.random.default_rng(seed).choice(len(x_um), count, replace=False)
    order = np.argsort(np.argsort(x_um[chosen], kind="stable"), kind="stable")
    return LabelledPatches(chosen, (order * _STRIPS // count).astype(np.int64))


def scores_by_labels(
    task: Task, features_of: Callable[[SlidePairs], NDArray[np.float32]], penalties: Sequence[float]
) -> dict[int, Scores]:
    """Return for each number of labels the scores of one training, the mean over the draws.

    Args:
        task: what is asked.
        features_of: features (n, D) of a slide's pairs.
        penalties: ridge penalties to choose from.
    """
    features = {slide.slide: features_of(slide) for slide in task.cohort.slides}
    known = np.concatenate([features[slide.slide][~slide.held_out] for slide in task.cohort.slides])
    asked = [features[slide.slide][slide.held_out] for slide in held_out(task.cohort)]
    truths = [held_out_truth(slide) for slide in held_out(task.cohort)]
    found = {}
    for count, draws in task.draws.items():
        predicted = []
        for draw in draws:
            probe = fit_ridge(known[draw.chosen], task.targets[draw.chosen], draw.strip, penalties)
            predicted.append([probe.predict(one) for one in asked])
        found[count] = _scores(truths, predicted)
    return found


def _scores(truths: Sequence[Floats], draws: Sequence[Sequence[Floats]]) -> Scores:
    """Return the scores of one training, whose draws predicted the held-out slides (n, T)."""
    parts = [correlation_parts(truths, predicted).with_mean() for predicted in draws]
    each = np.stack([one.score for one in parts])
    r = [[pearson(y, p) for y, p in zip(truths, predicted, strict=True)] for predicted in draws]
    nothing = np.full(each.shape[1], np.nan)
    return Scores(
        point=each.mean(axis=0),
        contribution=np.mean([one.contribution for one in parts], axis=0),
        influence=np.mean([one.influence for one in parts], axis=0),
        share=parts[0].share,
        per_slide=_with_mean(np.mean(r, axis=0)),
        r2=nothing,
        spearman=nothing,
        draw_std=each.std(axis=0, ddof=1),
    )


def compared(
    task: Task,
    scores: Mapping[str, Sequence[Scores]],
    labels: int,
    baseline: str,
    markers: Sequence[str] | None = None,
) -> dict[tuple[str, str], EvidenceRow]:
    """Return by run and marker the rows of one number of labels, against the baseline.

    Args:
        task: what is asked.
        scores: for each run those of its seeds.
        labels: how many.
        baseline: run that the others are compared with.
        markers: those to take the mean of; default all.
    """
    names = task.cohort.markers if markers is None else tuple(markers)
    columns = [task.cohort.markers.index(name) for name in names]
    chosen = {run: stacked([_of_markers(one, columns) for one in seeds]) for run, seeds in scores.items()}
    fitted = {run: FittedProbe(np.full(len(names), labels), None) for run in scores}
    rows = evidence_rows(marker_probe_spec("ridge"), Targets.of(names), chosen, fitted, baseline, task.tested)
    return {(row.run, row.target): row for row in rows}


def _with_mean(values: Floats) -> Floats:
    return np.concatenate([values, values.mean(axis=1, keepdims=True)], axis=1)


def _of_markers(scores: Scores, columns: Sequence[int]) -> Scores:
    """Return the scores of some markers, and their mean."""
    parts = Parts(scores.contribution[:, columns], scores.influence[:, columns], scores.share[:, columns]).with_mean()
    nothing = np.full(len(columns) + 1, np.nan)
    per_slide = _with_mean(scores.per_slide[:, columns])
    return Scores(parts.score, parts.contribution, parts.influence, parts.share, per_slide, nothing, nothing, nothing)


@dataclass(frozen=True)
class LabelRatio:
    """How many times fewer labels a run needs than the baseline's most to reach the baseline's score with those.

    Attributes:
        ratio: the estimate; 1 where it needs as many or more.
        low: lower end of its 95 % interval over blocks of tissue, nan where none can be given.
        high: its upper end.
        most: the largest ratio that the numbers of labels could show.
    """

    ratio: float
    low: float
    high: float
    most: float


def label_ratio(task: Task, run: Mapping[int, Sequence[Scores]], baseline: Sequence[Scores]) -> LabelRatio:
    """Return how many times fewer labels a run needs to score as the baseline does with the most.

    Between two numbers of labels the score is taken as linear in their logarithm. Each random half of the blocks, and
    the rest, give another ratio; its interval is computed like all others here.

    Args:
        task: what is asked.
        run: for each number of labels the scores of the run's seeds.
        baseline: those of the baseline with the most labels.
    """
    counts = np.array(sorted(run))
    aim = stacked(list(baseline)).parts
    own = [stacked(list(run[count])).parts for count in counts.tolist()]
    labels, blocks = joined_blocks(task.tested.blocks), task.tested.halves.shape[1]
    sums = np.stack([block_sums(one.contribution[:, -1:], labels, blocks)[:, 0] for one in (*own, aim)], axis=1)
    shares = block_sums(aim.share[:, -1:], labels, blocks)[:, 0]
    halves = task.tested.halves.astype(np.float64)
    both = [_log_ratios(part @ sums / (part @ shares)[:, None], counts) for part in (halves, 1 - halves)]
    found = float(_log_ratios(sums.sum(axis=0, keepdims=True) / shares.sum(), counts)[0])
    near = own[int(np.argmin(np.abs(np.log(counts[-1] / counts) - found)))]
    difference = Parts(near.contribution - aim.contribution, near.influence - aim.influence, aim.share)
    widening = task.tested.correlations(difference)[-1].widening(int((shares > 0).sum()))
    ends = around(np.minimum(*both), np.maximum(*both), found, widening)
    most = math.log(counts[-1] / counts[0])
    low, high = (math.exp(min(max(end, 0.0), most)) for end in (ends.low, ends.high))
    return LabelRatio(math.exp(found), low, high, math.exp(most))


def _log_ratios(scores: Floats, counts: Integers) -> Floats:
    """Return (R,) log of the most labels over those needed, of scores (R, counts + 1), the last being aimed at."""
    found = np.empty(len(scores))
    for index, (*curve, aim) in enumerate(scores):
        reached = np.flatnonzero(np.array(curve) >= aim)
        if not len(reached):
            found[index] = 0.0
            continue
        after = int(reached[0])
        needed = math.log(counts[after])
        if after:
            share = (aim - curve[after - 1]) / (curve[after] - curve[after - 1])
            needed = math.log(counts[after - 1]) + share * math.log(counts[after] / counts[after - 1])
        found[index] = math.log(counts[-1]) - needed
    return found
