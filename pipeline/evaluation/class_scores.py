"""Score class predictions over all held-out slides together, and resample them by blocks of tissue."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from pipeline.evaluation.bootstrap import Parts

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

_RESAMPLES_AT_ONCE = 64


def block_weights(blocks: Sequence[Integers], counts: Sequence[Integers], resamples: slice) -> Floats:
    """Return (resamples, n): how often each held-out patch, slide after slide, is drawn."""
    return np.concatenate(
        [drawn[resamples][:, labels] for labels, drawn in zip(blocks, counts, strict=True)], axis=1
    ).astype(np.float64)


def recalls(truth: Integers, hits: Floats, classes: int, weights: Floats) -> Floats:
    """Share (R, K) of each class's patches that are given their class, for weights (R, n); nan without any.

    Args:
        truth: (n,) classes.
        hits: (n,) 1 where a patch is given its class; of several probes, the share of them that do.
        classes: K.
        weights: (R, n).
    """
    member = np.eye(classes)[truth]
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(weights @ (member * hits[:, None]) / (weights @ member))


def areas(truth: Integers, scores: Floats, weights: Floats) -> Floats:
    """Return area under the ROC curve (R, K) of each class against the rest, for weights (R, n); nan without either.

    The weighted probability that a patch of the class scores above one of the rest, ties counting half.
    """
    found = np.empty((len(weights), scores.shape[1]))
    for index in range(scores.shape[1]):
        order = np.argsort(scores[:, index], kind="stable")
        values = scores[order, index]
        starts = np.flatnonzero(np.concatenate([[True], values[1:] != values[:-1]]))
        member = (truth[order] == index).astype(np.float64)
        own = np.add.reduceat(weights[:, order] * member, starts, axis=1)
        rest = np.add.reduceat(weights[:, order] * (1 - member), starts, axis=1)
        below = np.cumsum(rest, axis=1) - rest / 2
        with np.errstate(invalid="ignore", divide="ignore"):
            found[:, index] = (own * below).sum(axis=1) / (own.sum(axis=1) * rest.sum(axis=1))
    return found


def recall_parts(truth: Integers, hits: Floats, classes: int) -> Parts:
    """Return what patches (n,) contribute to `recalls`: those of a class their hits, over their number."""
    member = np.eye(classes)[truth]
    share = member / np.maximum(member.sum(axis=0), 1)
    contribution = share * hits[:, None]
    return Parts(contribution, contribution - share * contribution.sum(axis=0), share)


def area_parts(truth: Integers, scores: Floats) -> Parts:
    """Return what patches (n,) contribute to `areas` for weights of 1.

    Their structural components (DeLong et al., 1988).

    The share is that of the class's own patches: where there are none, the area tells nothing of the class.
    """
    influence, share = np.zeros((2, *scores.shape))
    area = np.zeros(scores.shape[1])
    for index in range(scores.shape[1]):
        own = truth == index
        if not own.any() or own.all():
            continue
        ranks = rankdata(scores[:, index])
        below = (ranks[own] - rankdata(scores[own, index])) / (~own).sum()  # of the rest, for each patch of the class
        above = 1 - (ranks[~own] - rankdata(scores[~own, index])) / own.sum()  # of the class, for each of the rest
        area[index] = below.mean()
        influence[own, index] = (below - area[index]) / own.sum()
        influence[~own, index] = (above - area[index]) / (~own).sum()
        share[own, index] = 1 / own.sum()
    return Parts(influence + share * area, influence, share)


def resampled(measure: Callable[[Floats], Floats], blocks: Sequence[Integers], counts: Sequence[Integers]) -> Floats:
    """Return what a measure of weights (R, n) gives for every resample, a part of them at a time to bound memory."""
    starts = range(0, len(counts[0]), _RESAMPLES_AT_ONCE)
    parts = [slice(start, start + _RESAMPLES_AT_ONCE) for start in starts]
    return np.concatenate([measure(block_weights(blocks, counts, part)) for part in parts])
