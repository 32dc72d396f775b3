"""Harrell's concordance of a predicted risk with times that may be censored, patient by patient."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pipeline.evaluation.bootstrap import Parts

Floats = NDArray[np.float64]


def concordance_parts(risk: Floats, time: Floats, event: NDArray[np.bool_]) -> Parts:
    """Return what each of n patients contributes to the concordance, in one column.

    The concordance is the share of comparable pairs in which the higher risk (n,) has the shorter time (n,); equal
    risks count half. A pair is comparable where the shorter time ends with an event; of equal times, where just one
    does (Harrell, Lee and Mark, 1996). Each pair is split evenly between its two patients; the influence is that of
    the ratio of both sums, as the structural components of a U-statistic have it.
    """
    shorter = (time[:, None] < time) | ((time[:, None] == time) & ~event)
    comparable = (event[:, None] & shorter).astype(np.float64)
    right = comparable * ((risk[:, None] > risk) + (risk[:, None] == risk) / 2)
    pairs = comparable.sum()
    if not pairs:
        return Parts(*np.zeros((3, len(risk), 1)))
    score = right.sum() / pairs
    share = (comparable.sum(axis=0) + comparable.sum(axis=1)) / (2 * pairs)
    own = (right.sum(axis=0) + right.sum(axis=1)) / pairs
    influence = own - 2 * score * share
    return Parts(*(part[:, None] for part in (influence + score * share, influence, share)))
