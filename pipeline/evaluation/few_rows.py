"""Ridge probes on fewer rows than features: the same as `probes.fit_ridge` finds, in the space of the rows."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

CONSTANT = 1e-6  # spread of standardised features in a part of the rows below which they are constant there


def fit_on_few_rows(
    standard: Floats, targets: Floats, groups: Integers, penalties: Sequence[float]
) -> tuple[Floats, Floats, Floats]:
    """Return weights (D, T), intercept (T,) and the penalty (T,) that predicts left-out groups best.

    With n rows, weights are X'a for the a (n, T) that solves (XX' + penalty) a = y, so that an eigendecomposition of
    n x n numbers serves all penalties.

    Args:
        standard: (n, D) features of a spread of about 1 over all rows.
        targets: (n, T).
        groups: (n,) label of each row, left out as a whole; with a single one the middle penalty is taken.
        penalties: to choose from, ascending.
    """
    labels, count = np.unique(groups), targets.shape[1]
    best = np.full(count, len(penalties) // 2)
    if len(labels) > 1:
        errors = np.zeros((len(penalties), count))
        for label in labels:
            test = groups == label
            x, y, centre, inverse = _standardised(standard[~test], targets[~test])
            asked = ((standard[test] - centre) * inverse) @ x.T
            mean = targets[~test].mean(axis=0)
            for index, dual in enumerate(_duals(x, y, penalties)):
                errors[index] += ((asked @ dual + mean - targets[test]) ** 2).sum(axis=0)
        best = errors.argmin(axis=0)
    x, y, centre, inverse = _standardised(standard, targets)
    solved = np.stack(list(_duals(x, y, penalties)))
    weights = inverse[:, None] * (x.T @ solved[best, :, np.arange(count)].T)
    return weights, targets.mean(axis=0) - centre @ weights, np.asarray(penalties)[best]


def _standardised(features: Floats, targets: Floats) -> tuple[Floats, Floats, Floats, Floats]:
    """Return features and targets as they vary in these rows, and by what they were brought to it."""
    centre, spread = features.mean(axis=0), features.std(axis=0)
    usable = spread > CONSTANT
    inverse = np.where(usable, 1 / np.where(usable, spread, 1), 0.0)
    return (features - centre) * inverse, targets - targets.mean(axis=0), centre, inverse


def _duals(x: Floats, y: Floats, penalties: Sequence[float]) -> list[Floats]:
    """Return for each penalty the solution (n, T) in the space of the rows."""
    values, vectors = np.linalg.eigh(x @ x.T)
    values, projected = np.clip(values, 0, None), vectors.T @ y
    return [vectors @ (projected / (values + penalty)[:, None]) for penalty in penalties]
