"""Scores within slides, and intervals from random halves of the blocks of tissue.

Neighbouring patches are alike, so blocks of tissue are resampled, not patches. Every score here is a sum of what its
patches contribute, so that it, its interval and a difference are all of one quantity, whichever blocks are drawn.
Between two equal runs each block's contribution to the difference is as likely with the other sign. Flipping the signs
of a random half of the blocks therefore shows how far chance alone takes the difference, for few blocks and for blocks
of unequal size too. The 95 % interval holds the values that such flips cannot tell from the difference found: each
half and the rest give two values, between which lie all that this flip does not speak against (Hartigan, 1969).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

_LEVEL = 0.05
# Of n blocks 2 of the 2^n ways to flip signs flip none or all, which says nothing: they must be fewer than 5 %.
FEWEST_BLOCKS = math.ceil(1 - math.log2(_LEVEL))


@dataclass(frozen=True)
class Interval:
    """The two ends of a 95 % interval, nan where none can be given."""

    low: float
    high: float


UNKNOWN = Interval(math.nan, math.nan)


@dataclass(frozen=True)
class Parts:
    """What each of n held-out patches contributes to the scores of T targets; 0 where it does not show the target.

    Attributes:
        contribution: (n, T), summing to the scores.
        influence: (n, T), the same less what the patch's slide or target scores on the average; it sums to 0.
        share: (n, T) share of the patch in the score, summing to 1; 0 in every patch where nothing is scored.
    """

    contribution: Floats
    influence: Floats
    share: Floats

    @property
    def score(self) -> Floats:
        """(T,) the scores, nan for targets that no patch shows."""
        return np.where((self.share > 0).any(axis=0), self.contribution.sum(axis=0), np.nan)

    def with_mean(self) -> Parts:
        """Return the same with one more column for the mean of the targets that are scored at all."""
        scored = (self.share > 0).any(axis=0)
        count = max(1, int(scored.sum()))
        return Parts(
            *(
                np.concatenate([values, values[:, scored].sum(axis=1, keepdims=True) / count], axis=1)
                for values in (self.contribution, self.influence, self.share)
            )
        )


def block_labels(position_um: Floats, block_um: float) -> Integers:
    """Return number (n,) of the square block, of side `block_um`, that each position (n, 2) lies in: 0 … blocks - 1."""
    cells = np.floor(position_um / block_um).astype(np.int64)
    labels: Integers = np.unique(cells, axis=0, return_inverse=True)[1].reshape(-1).astype(np.int64)
    return labels


def enough_blocks(blocks: Sequence[Integers]) -> bool:
    """Return whether the blocks (n,) of all slides' patches are so many that an interval can exclude anything."""
    return sum(len(np.unique(labels)) for labels in blocks) >= FEWEST_BLOCKS


def resample_counts(blocks_per_slide: Sequence[int], resamples: int, seed: int) -> list[Integers]:
    """Draw random halves of the blocks: one array (resamples, blocks) per slide, 1 where a block is in the half."""
    rng = np.random.default_rng(seed)
    return [rng.integers(0, 2, size=(resamples, count)) for count in blocks_per_slide]


def joined_blocks(blocks: Sequence[Integers]) -> Integers:
    """Return number the blocks (n,) of several slides, each from 0, through: those of the first slide come first."""
    starts = np.cumsum([0, *(int(labels.max(initial=-1)) + 1 for labels in blocks)])
    return np.concatenate([labels + start for labels, start in zip(blocks, starts, strict=False)])


def block_sums(values: Floats, blocks: Integers, count: int) -> Floats:
    """Sum the rows of values (n, T) by block: (count, T)."""
    return np.stack([np.bincount(blocks, column, count) for column in values.T], axis=1)


def intervals(sums: Floats, shares: Floats, halves: Integers, widening: Floats | float = 1.0) -> list[Interval]:
    """Return the 95 % interval of each of T scores.

    Args:
        sums: (B, T) what each block contributes to the score.
        shares: (B, T) its share in it; the score is the sum of `sums` over that of `shares`. A block that shows nothing
            of the target has 0, and a target on fewer than `FEWEST_BLOCKS` blocks gets no interval.
        halves: (R, B) of `resample_counts`.
        widening: (T,) factor for the distance of the ends from the score.
    """
    drawn = halves.astype(np.float64)
    taken, weight = drawn @ sums, drawn @ shares
    with np.errstate(invalid="ignore", divide="ignore"):
        score = sums.sum(axis=0) / shares.sum(axis=0)
        left = shares.sum(axis=0) - weight
        both = np.stack([taken / weight, (sums.sum(axis=0) - taken) / left])
    empty = (weight < 1e-12) | (left < 1e-12)
    lows = np.where(empty, -np.inf, both.min(axis=0))
    highs = np.where(empty, np.inf, both.max(axis=0))
    factors = np.broadcast_to(widening, score.shape)
    enough = (shares > 0).sum(axis=0) >= FEWEST_BLOCKS
    return [
        around(lows[:, t], highs[:, t], float(score[t]), float(factors[t])) if enough[t] else UNKNOWN
        for t in range(len(score))
    ]


def around(low: Floats, high: Floats, score: float, widening: float = 1.0) -> Interval:
    """Return the interval of a score of which each of R halves and its rest give the values `low` and `high` (R,).

    It holds all that lies between the two for more than 5 % of the halves, the score itself counted as one of them.
    """
    most = math.floor(_LEVEL * (len(low) + 1)) - 1  # halves that may speak against a value outside
    if most < 0:
        return UNKNOWN
    ends = np.partition(low, most)[most], np.partition(high, len(high) - 1 - most)[len(high) - 1 - most]
    if not np.isfinite(ends).all():
        return UNKNOWN
    return Interval(*(float(score + (end - score) * widening) for end in ends))


def correlation_parts(truths: Sequence[Floats], predicted: Sequence[Floats]) -> Parts:
    """Return what patches contribute to Pearson r within slides, averaged over slides with their patches as weight.

    A contribution is r of the slide plus the patch's influence on it, y p - r / 2 (y² + p²) in standard deviations of
    the slide (Devlin, Gnanadesikan and Kettenring, 1975), over the number of patches.

    Args:
        truths: (n, T) of each slide; a slide in which a target is missing or constant is left out of it.
        predicted: likewise; a constant prediction scores 0: it tells nothing.
    """
    r = np.stack([pearson(y, p) for y, p in zip(truths, predicted, strict=True)])
    known = np.isfinite(r)
    patches = np.array([len(y) for y in truths])
    total = (known * patches[:, None]).sum(axis=0)
    shares, influences, contributions = [], [], []
    for y, p, own, shown in zip(truths, predicted, np.nan_to_num(r), known, strict=True):
        share = np.broadcast_to(np.where(shown, 1 / np.maximum(total, 1), 0.0), y.shape)
        a, b = np.nan_to_num(_unit(y)), np.nan_to_num(_unit(p))
        influence = (a * b - own / 2 * (a**2 + b**2)) * share
        shares.append(share)
        influences.append(influence)
        contributions.append(influence + own * share)
    return Parts(np.concatenate(contributions), np.concatenate(influences), np.concatenate(shares))


def pearson(truth: Floats, predicted: Floats) -> Floats:
    """Return Pearson r (T,) of one slide's columns (n, T).

    Nan where the truth is constant, 0 where the prediction is.
    """
    return np.asarray(np.clip((_unit(truth) * np.nan_to_num(_unit(predicted))).mean(axis=0), -1, 1))


def spearman(truth: Floats, predicted: Floats) -> Floats:
    """Return Spearman's rank correlation (T,) of one slide's columns (n, T); ties share their mean rank."""
    return pearson(rankdata(truth, axis=0), rankdata(predicted, axis=0))


def explained(truth: Floats, predicted: Floats) -> Floats:
    """Return R² (T,): 1 - mean squared error of the prediction, the slide's truth taken in standard deviations.

    The probes predict in standard deviations from a slide's mean; the same is done to the truth here.
    """
    return np.asarray(1 - ((_unit(truth) - predicted) ** 2).mean(axis=0))


def _unit(values: Floats) -> Floats:
    centred = values - values.mean(axis=0)
    spread = centred.std(axis=0)
    usable = spread > 1e-9 * np.maximum(np.abs(values).max(axis=0), 1e-300)
    return np.where(usable, centred / np.where(usable, spread, 1), np.nan)
