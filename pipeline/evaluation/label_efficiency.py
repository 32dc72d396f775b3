"""Estimate how many labels a run needs to reach the baseline's full score, as a ratio with its interval.

The score is interpolated on the logarithm of the number of labels between the counts that were fitted. The interval
comes from the random halves of the blocks of tissue that all intervals come from (see `bootstrap`), the draws of labels
being drawn anew with each half; in a half both the run's curve and the baseline's full score are those of that half.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.evaluation.bootstrap import UNKNOWN, Interval, around, block_sums, joined_blocks
from pipeline.evaluation.held_out import HeldOut

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


@dataclass(frozen=True)
class CurvePoint:
    """The scores of one run with so many labels, block by block.

    Attributes:
        labels: (C,) labelled patches that each column was fitted on.
        sums: (draws, B, C) what each block of tissue contributes with each draw of labels.
        shares: (B, C) its share.
    """

    labels: Integers
    sums: Floats
    shares: Floats

    @classmethod
    def of(cls, labels: Integers, contributions: Sequence[Floats], share: Floats, held: HeldOut) -> CurvePoint:
        """Return the point of contributions (n, C) of each draw and shares (n, C) of held-out patches."""
        blocks, count = joined_blocks(held.blocks), held.halves.shape[1]
        sums = np.stack([block_sums(one, blocks, count) for one in contributions])
        return cls(labels, sums, block_sums(share, blocks, count))

    def last(self, columns: int) -> CurvePoint:
        """Return the last columns alone."""
        return CurvePoint(self.labels[-columns:], self.sums[..., -columns:], self.shares[:, -columns:])

    def scores(self, column: int, halves: Floats, draws: Floats) -> Floats:
        """Return (R,) the score in each half of the blocks, the draws weighted by `draws` (R, draws)."""
        taken = np.einsum("rb,db,rd->r", halves, self.sums[:, :, column], draws, optimize=True)
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.asarray(taken / (halves @ self.shares[:, column]))


@dataclass(frozen=True)
class FewerLabels:
    """By how many times fewer labels a run reaches the baseline's full score; 0 where it never does.

    Where already its fewest labels reach it, the ratio is that to the fewest: it may be more.
    """

    ratio: float
    within: Interval


NOT_KNOWN = FewerLabels(float("nan"), UNKNOWN)


def averaged(seeds: Sequence[CurvePoint]) -> CurvePoint:
    """Return the mean over the seeds of a run, which share draws and blocks."""
    return CurvePoint(seeds[0].labels, np.mean([one.sums for one in seeds], axis=0), seeds[0].shares)


def fewer_labels(curve: Sequence[CurvePoint], full: CurvePoint, column: int, held: HeldOut, seed: int) -> FewerLabels:
    """Return the ratio of one column.

    Args:
        curve: of the run, fewest labels first, all of them last.
        full: the baseline with all labels.
        column: target or mean.
        held: the held-out patches.
        seed: of the draws of draws.
    """
    points = [point for point in curve if 0 < point.labels[column] < full.labels[column]] + [curve[-1]]
    if len(points) < 2 or not full.labels[column]:
        return NOT_KNOWN
    labels = np.array([point.labels[column] for point in points], dtype=np.float64)
    halves = held.halves.astype(np.float64)
    rng = np.random.default_rng([seed, 5])

    def ratios(blocks: Floats, weights: dict[int, Floats]) -> Floats:
        scores = np.stack([one.scores(column, blocks, weights[len(one.sums)]) for one in points], axis=1)
        wanted = full.scores(column, blocks, weights[len(full.sums)])
        return np.asarray(labels[-1] / labels_needed(labels, scores, wanted))

    counts = sorted({len(one.sums) for one in [*points, full]})
    alike = {count: np.full((1, count), 1 / count) for count in counts}
    ratio = float(ratios(np.ones((1, halves.shape[1])), alike)[0])
    redrawn = {count: rng.multinomial(count, [1 / count] * count, size=len(halves)) / count for count in counts}
    both = np.stack([ratios(halves, redrawn), ratios(1 - halves, redrawn)])
    if np.isnan(ratio):
        return NOT_KNOWN
    # A half without any block that shows the target tells nothing: any value may be.
    low = np.where(np.isnan(both), 0.0, both).min(axis=0)
    high = np.where(np.isnan(both), labels[-1] / labels[0], both).max(axis=0)
    return FewerLabels(ratio, around(low, high, ratio) if held.enough else UNKNOWN)


def labels_needed(labels: Floats, scores: Floats, wanted: Floats) -> Floats:
    """Return (R,) at how many labels a curve first reaches a score.

    Args:
        labels: (K,) ascending.
        scores: (R, K) at these.
        wanted: (R,) the score to reach.

    Returns:
        Interpolated on the logarithm; the fewest labels where these reach it, infinity where nothing does, nan where
        a score is not known.
    """
    reached = scores >= wanted[:, None]
    first = np.where(reached.any(axis=1), reached.argmax(axis=1), len(labels))
    row = np.arange(len(scores))
    after = np.clip(first, 1, len(labels) - 1)
    low, high = scores[row, after - 1], scores[row, after]
    with np.errstate(invalid="ignore", divide="ignore"):
        part = np.clip((wanted - low) / (high - low), 0, 1)
    logs = np.log(labels)
    found = np.exp(logs[after - 1] + part * (logs[after] - logs[after - 1]))
    found = np.where(first == 0, labels[0], np.where(first == len(labels), np.inf, found))
    return np.where(np.isfinite(scores).all(axis=1) & np.isfinite(wanted), found, np.nan)
