"""Cross-modal retrieval: can the dense patch of the same place be found from an H&E patch, among all held-out ones?

It asks of a run what its training aimed at, on patches that it has not seen: with shuffled pairs, and before any
training, it must be left to chance.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.evaluation.bootstrap import UNKNOWN, Interval, around
from pipeline.evaluation.class_scores import resampled
from pipeline.evaluation.held_out import HeldOut

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

DEPTHS = (1, 5, 10)
_SAME = 1e-9  # difference of cosines below which they are one


@dataclass(frozen=True)
class Ranks:
    """Where the true partner of each of n patches stands among all n, best first.

    Attributes:
        ahead: (n,) how many others come before it.
        tied: (n,) how many, itself counted, are as near as it.
    """

    ahead: Integers
    tied: Integers

    @property
    def mean(self) -> Floats:
        """(n,) rank from 1, the mean one of its ties."""
        return self.ahead + (self.tied + 1) / 2

    def within(self, depth: int) -> Floats:
        """Return (n,) probability that it is among the first `depth`, ties in random order."""
        return np.clip((depth - self.ahead) / self.tied, 0, 1)


@dataclass(frozen=True)
class Figure:
    """One figure of a run.

    Attributes:
        name: `recall_at_1`, … or `median_rank`.
        score: mean over its seeds.
        within: its 95 % interval over blocks of tissue.
        chance: what a random order gives.
        per_seed: the figure of each seed.
    """

    name: str
    score: float
    within: Interval
    chance: float
    per_seed: tuple[float, ...]


def partner_ranks(queries: NDArray[np.floating], gallery: NDArray[np.floating]) -> Ranks:
    """Return where row i of the gallery ranks, by cosine, for row i of the queries; both (n, E)."""
    cosines = _directions(queries) @ _directions(gallery).T
    own = np.diag(cosines)[:, None]
    return Ranks((cosines > own + _SAME).sum(axis=1), (np.abs(cosines - own) <= _SAME).sum(axis=1))


def weighted_median(values: Floats, weights: Floats) -> Floats:
    """Return for every row of weights (R, n) the smallest of the values (n,) up to which half of the weight lies.

    A row without any weight gives nan.
    """
    order = np.argsort(values, kind="stable")
    reached = np.cumsum(weights[:, order], axis=1)
    found = values[order][(reached >= reached[:, -1:] / 2).argmax(axis=1)]
    return np.where(reached[:, -1] > 0, found, np.nan)


def retrieval_figures(seeds: Sequence[Ranks], blocks: Sequence[Integers], tested: HeldOut) -> list[Figure]:
    """Return recall within 1, 5 and 10, and the median rank, of the seeds of a run.

    The interval takes halves of the blocks of queries; what they are looked for among stays the same.

    Args:
        seeds: ranks of the same n patches, by each seed.
        blocks: of those patches, slide after slide, the block of tissue.
        tested: whose halves of blocks are taken.
    """
    count = len(seeds[0].ahead)

    def measure(weights: Floats) -> Floats:
        """Return (R, seeds, figures)."""
        total = weights.sum(axis=1)
        total = np.where(total > 0, total, np.nan)  # a resample may miss all slides that have a gallery
        found = [
            np.stack([*(weights @ one.within(k) / total for k in DEPTHS), weighted_median(one.mean, weights)], axis=1)
            for one in seeds
        ]
        return np.stack(found, axis=1)

    point = measure(np.ones((1, count)))[0].mean(axis=0)
    per_seed = measure(np.ones((1, count)))[0]
    rest = [1 - half for half in tested.counts]
    both = np.stack([resampled(measure, blocks, half).mean(axis=1) for half in (tested.counts, rest)])
    low = np.where(np.isfinite(both).all(axis=0), both.min(axis=0), -np.inf)
    high = np.where(np.isfinite(both).all(axis=0), both.max(axis=0), np.inf)
    chances = [*(min(1.0, depth / count) for depth in DEPTHS), (count + 1) / 2]
    names = [*(f"recall_at_{depth}" for depth in DEPTHS), "median_rank"]
    bounds = [*((0.0, 1.0) for _ in DEPTHS), (1.0, float(count))]
    wider = _widening(seeds, point, blocks, tested)
    figures = []
    for column, (name, chance, (lowest, highest)) in enumerate(zip(names, chances, bounds, strict=True)):
        ends = (
            around(low[:, column], high[:, column], float(point[column]), wider[column]) if tested.enough else UNKNOWN
        )
        clipped = Interval(float(np.clip(ends.low, lowest, highest)), float(np.clip(ends.high, lowest, highest)))
        figures.append(Figure(name, float(point[column]), clipped, chance, tuple(per_seed[:, column].tolist())))
    return figures


def _widening(seeds: Sequence[Ranks], point: Floats, blocks: Sequence[Integers], tested: HeldOut) -> list[float]:
    """Return how much wider intervals are for what is alike across blocks; of the median by its sign."""
    if tested.tissue is None:
        return [1.0] * len(point)
    found = [np.mean([one.within(depth) for one in seeds], axis=0) for depth in DEPTHS]
    found.append(np.mean([np.sign(one.mean - point[-1]) for one in seeds], axis=0))
    share = np.full(len(found[0]), 1 / len(found[0]))
    count = sum(len(np.unique(labels)) for labels in blocks)
    return [tested.tissue.correlation((one - one.mean()) * share, share).widening(count) for one in found]


def _directions(embeddings: NDArray[np.floating]) -> Floats:
    values = embeddings.astype(np.float64)
    length = np.linalg.norm(values, axis=1, keepdims=True)
    return np.asarray(values / np.where(length > 0, length, 1))
