"""Scores within slides, and their intervals by resampling blocks of tissue.

Neighbouring patches resemble each other, so single patches would make intervals far too narrow. Square blocks
of tissue are drawn with replacement within each slide, and a drawn block brings all its patches. A resample is a
vector of counts, one per block; correlations follow from sums per block, so a thousand resamples are one
matrix product. Two runs scored with the same counts are compared pair by pair.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

# Blocks beyond the first of each slide that intervals need. On two blocks of one slide equal runs were told apart in
# 40 of 100 drawn cases, with three beyond the first in 6 to 12: not the promised 5, but no longer a toss of a coin.
_FEWEST_FREE_BLOCKS = 3
_FLAT = 1e-7  # spread, in standard deviations of the slide, below which values count as constant


@dataclass(frozen=True)
class Interval:
    """The two ends of a 95 % interval, nan where none can be given."""

    low: float
    high: float


def block_labels(position_um: Floats, block_um: float) -> Integers:
    """Number (n,) of the square block, of side `block_um`, that each position (n, 2) lies in: 0 … blocks - 1."""
    cells = np.floor(position_um / block_um).astype(np.int64)
    labels: Integers = np.unique(cells, axis=0, return_inverse=True)[1].reshape(-1).astype(np.int64)
    return labels


def enough_blocks(blocks: Sequence[Integers]) -> bool:
    """Whether the blocks (n,) of each slide's patches are so many that resampling them tells of a spread."""
    return sum(len(np.unique(labels)) - 1 for labels in blocks) >= _FEWEST_FREE_BLOCKS


def resample_counts(blocks_per_slide: Sequence[int], resamples: int, seed: int) -> list[Integers]:
    """How often each block is drawn: one array (resamples, blocks) per slide, each row summing to its blocks."""
    rng = np.random.default_rng(seed)
    return [rng.multinomial(count, np.full(count, 1 / count), size=resamples) for count in blocks_per_slide]


def block_sums(truth: Floats, predicted: Floats, blocks: Integers) -> Floats:
    """Sums (blocks, T, 6) of 1, y, p, y², p² and yp for truth y and prediction p, both (n, T), of one slide.

    Both are centred and scaled over the slide first: correlations do not change, and no digits are lost.
    A target that is constant or missing in the slide becomes nan, a constant prediction 0.
    """
    y, p = _unit(truth), np.nan_to_num(_unit(predicted))
    products = np.stack([np.ones_like(y), y, p, y * y, p * p, y * p], axis=-1)
    sums = np.zeros((int(blocks.max()) + 1, *products.shape[1:]))
    np.add.at(sums, blocks, products)
    return sums


def correlations(sums: Sequence[Floats], counts: Sequence[Integers] | None = None) -> Floats:
    """Pearson r (resamples, T) within slides, averaged over slides with the number of patches as weight.

    Args:
        sums: `block_sums` of each slide; a slide that lacks a target has nan there and is left out of it.
            A constant prediction scores 0: it tells nothing.
        counts: `resample_counts`; None takes every block once and returns one row, the score itself.
    """
    total: Floats | float = 0.0
    weight: Floats | float = 0.0
    for index, one in enumerate(sums):
        drawn = np.ones((1, len(one))) if counts is None else counts[index].astype(np.float64)
        count, y, p, yy, pp, yp = np.moveaxis(np.tensordot(drawn, one, axes=1), -1, 0)
        with np.errstate(invalid="ignore", divide="ignore"):
            spread_y = np.sqrt(np.clip(yy / count - (y / count) ** 2, 0, None))
            spread_p = np.sqrt(np.clip(pp / count - (p / count) ** 2, 0, None))
            r = (yp / count - y * p / count**2) / (spread_y * np.where(spread_p > _FLAT, spread_p, np.inf))
            r = np.where(spread_y > _FLAT, r, np.nan)
        known = np.isfinite(r)
        total = total + np.where(known, np.clip(r, -1, 1) * count, 0)
        weight = weight + np.where(known, count, 0)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(total / np.where(np.asarray(weight) > 0, weight, np.nan), dtype=np.float64)


def interval(values: Floats) -> Interval:
    """The 2.5 and 97.5 percentiles of resampled values (resamples,), nan where most resamples have none."""
    known = values[np.isfinite(values)]
    if len(known) * 2 <= len(values):
        return Interval(float("nan"), float("nan"))
    low, high = np.percentile(known, [2.5, 97.5])
    return Interval(float(low), float(high))


def pearson(truth: Floats, predicted: Floats) -> Floats:
    """Pearson r (T,) of one slide's columns (n, T): nan where the truth is constant, 0 where the prediction is."""
    return np.asarray(np.clip((_unit(truth) * np.nan_to_num(_unit(predicted))).mean(axis=0), -1, 1))


def spearman(truth: Floats, predicted: Floats) -> Floats:
    """Spearman's rank correlation (T,) of one slide's columns (n, T); ties share their mean rank."""
    return pearson(rankdata(truth, axis=0), rankdata(predicted, axis=0))


def explained(truth: Floats, predicted: Floats) -> Floats:
    """R² (T,): 1 - mean squared error of the prediction, the slide's truth taken in standard deviations.

    The probes predict in standard deviations from a slide's mean; the same is done to the truth here.
    """
    return np.asarray(1 - ((_unit(truth) - predicted) ** 2).mean(axis=0))


def _unit(values: Floats) -> Floats:
    centred = values - values.mean(axis=0)
    spread = centred.std(axis=0)
    usable = spread > 1e-9 * np.maximum(np.abs(values).max(axis=0), 1e-300)
    return np.where(usable, centred / np.where(usable, spread, 1), np.nan)
