"""Ridge and nearest-neighbour probes of frozen features, in closed form.

Both standardise the features on the training rows. The ridge probe works on sums over rows only ("moments"),
which add up: leaving one group out is a subtraction, so the penalty is cross-validated without another pass. Logistic
probes are scikit-learn's. These are not: its RidgeCV passes over all rows once per group, its StandardScaler takes a
constant float32 feature for a varying one, and its search for neighbours would run once per question instead of once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Features = NDArray[np.float32]
Integers = NDArray[np.int64]

_ROWS_AT_ONCE = 4096
# Spread of standardised features in a part of the rows below which they are constant there.
_CONSTANT = 1e-6
# Spread of a feature over its largest value that float32 still tells from a constant.
_RESOLVED = 8 * float(np.finfo(np.float32).eps)


@dataclass(frozen=True)
class Moments:
    """Sums over rows of features x (D) and targets y (T); those of disjoint rows may be added.

    Attributes:
        count: number of rows.
        x: (D,) sum of the features.
        y: (T,) sum of the targets.
        xx: (D, D) sum of the products of features.
        xy: (D, T) sum of the products of features and targets.
        yy: (T,) sum of the squared targets.
    """

    count: int
    x: Floats
    y: Floats
    xx: Floats
    xy: Floats
    yy: Floats

    def __add__(self, other: Moments) -> Moments:
        return Moments(
            self.count + other.count,
            self.x + other.x,
            self.y + other.y,
            self.xx + other.xx,
            self.xy + other.xy,
            self.yy + other.yy,
        )


@dataclass(frozen=True)
class RidgeProbe:
    """A linear map from features to targets.

    Attributes:
        weights: (D, T), for features as they are.
        intercept: (T,).
        penalty: (T,) the penalty chosen for each target.
    """

    weights: Floats
    intercept: Floats
    penalty: Floats

    def predict(self, features: Features) -> Floats:
        """Return predicted targets (n, T) of features (n, D)."""
        return features.astype(np.float64) @ self.weights + self.intercept


@dataclass(frozen=True)
class KnnProbe:
    """The mean target of the training rows nearest by cosine, in standardised features.

    Attributes:
        centre: (D,) mean of the training features.
        scale: (D,) their standard deviation, infinite where a feature is constant, which leaves it out.
        directions: (n, D) float32 training features, standardised, of length 1.
        targets: (n, T).
        neighbours: how many are averaged.
    """

    centre: Floats
    scale: Floats
    directions: Features
    targets: Floats
    neighbours: int

    def predict(self, features: Features) -> Floats:
        """Return predicted targets (n, T) of features (n, D)."""
        return np.asarray(self.targets[self.nearest(features)].mean(axis=1))

    def nearest(self, features: Features) -> Integers:
        """Return which training rows (n, k) are nearest to features (n, D), in no order."""
        k = min(self.neighbours, len(self.directions))
        found = np.empty((len(features), k), dtype=np.int64)
        for start in range(0, len(features), _ROWS_AT_ONCE // 4):
            part = slice(start, start + _ROWS_AT_ONCE // 4)
            likeness = _directions(features[part], self.centre, self.scale) @ self.directions.T
            found[part] = np.argpartition(-likeness, k - 1, axis=1)[:, :k]
        return found


def centre_and_scale(features: Features) -> tuple[Floats, Floats]:
    """Return mean (D,) and standard deviation (D,) of features (n, D), infinite where a feature is constant.

    Each feature is judged by its own size: their units may differ by any factor.
    """
    centre = features.mean(axis=0, dtype=np.float64)
    spread = features.std(axis=0, dtype=np.float64)
    largest = np.abs(features).max(axis=0).astype(np.float64)
    return centre, np.where(spread > _RESOLVED * largest, spread, np.inf)


def moments(features: Features, targets: Floats) -> Moments:
    """Return the sums over rows of features (n, D) and targets (n, T), accumulated in float64."""
    size, count = features.shape[1], targets.shape[1]
    total = Moments(
        0, np.zeros(size), np.zeros(count), np.zeros((size, size)), np.zeros((size, count)), np.zeros(count)
    )
    for start in range(0, len(features), _ROWS_AT_ONCE):
        x = features[start : start + _ROWS_AT_ONCE].astype(np.float64)
        y = targets[start : start + _ROWS_AT_ONCE]
        total = total + Moments(len(x), x.sum(0), y.sum(0), x.T @ x, x.T @ y, (y**2).sum(0))
    return total


def fit_ridge(features: Features, targets: Floats, groups: Integers, penalties: Sequence[float]) -> RidgeProbe:
    """Return the ridge probe with, for each target, the penalty that predicts left-out groups best.

    Minimises ||y - a - Xw||^2 + penalty * ||w||^2 on features X standardised to mean 0 and standard
    deviation 1 (both on the fitted rows); the intercept a is not penalised.

    Args:
        features: (n, D) training rows.
        targets: (n, T), no missing values.
        groups: (n,) label of each row; a group is left out as a whole. One group alone means no choice
            is possible, and the middle penalty is taken.
        penalties: to choose from.
    """
    origin, scale = centre_and_scale(features)
    shifted = ((features - origin) / scale).astype(np.float32)  # sums of squares of large numbers lose digits
    if len(features) < features.shape[1]:
        weights, intercept, penalty = _fit_on_few_rows(shifted.astype(np.float64), targets, groups, sorted(penalties))
        chosen = weights / scale[:, None]
        return RidgeProbe(chosen, intercept - origin @ chosen, penalty)
    parts = [moments(shifted[groups == group], targets[groups == group]) for group in np.unique(groups)]
    total = reduce(Moments.__add__, parts)
    ordered = sorted(penalties)
    if len(parts) == 1:
        best = np.full(targets.shape[1], len(ordered) // 2)
    else:
        errors = sum(_left_out_errors(parts, index, ordered) for index in range(len(parts)))
        best = np.argmin(errors, axis=0)
    weights, intercepts = _ridge_path(total, ordered)
    column = np.arange(targets.shape[1])
    chosen = weights[best, :, column].T / scale[:, None]
    return RidgeProbe(chosen, intercepts[best, column] - origin @ chosen, np.asarray(ordered)[best])


def fit_knn(features: Features, targets: Floats, neighbours: int) -> KnnProbe:
    """Return the nearest-neighbour probe of training features (n, D) and targets (n, T)."""
    centre, scale = centre_and_scale(features)
    return KnnProbe(centre, scale, _directions(features, centre, scale), targets, neighbours)


def _directions(features: Features, centre: Floats, scale: Floats) -> Features:
    standard = ((features - centre) / scale).astype(np.float32)
    length = np.linalg.norm(standard, axis=1, keepdims=True)
    return np.asarray(standard / np.where(length > 0, length, 1), dtype=np.float32)


def _left_out_errors(parts: Sequence[Moments], left_out: int, penalties: Sequence[float]) -> Floats:
    """Return summed squared errors (penalties, T) on one group, fitted on all the others."""
    others = reduce(Moments.__add__, [part for index, part in enumerate(parts) if index != left_out])
    test = parts[left_out]
    weights, intercepts = _ridge_path(others, penalties)
    errors = np.empty_like(intercepts)
    for index, (w, a) in enumerate(zip(weights, intercepts, strict=True)):
        squared = np.einsum("dt,dt->t", w, test.xx @ w) + 2 * a * (test.x @ w) + test.count * a**2
        errors[index] = test.yy - 2 * (np.einsum("dt,dt->t", w, test.xy) + a * test.y) + squared
    return errors


def _ridge_path(sums: Moments, penalties: Sequence[float]) -> tuple[Floats, Floats]:
    """Return weights (penalties, D, T) and intercepts (penalties, T) from one eigendecomposition for all penalties.

    The features have a spread of about 1 over all rows; over these it may be less.
    """
    mean_x, mean_y = sums.x / sums.count, sums.y / sums.count
    covariance = sums.xx - sums.count * np.outer(mean_x, mean_x)
    spread = np.sqrt(np.clip(np.diag(covariance) / sums.count, 0, None))
    # A feature that is constant in these rows has a spread of rounding error only; it must not be blown up to one.
    usable = spread > _CONSTANT
    inverse = np.where(usable, 1 / np.where(usable, spread, 1), 0.0)
    values, vectors = np.linalg.eigh(covariance * np.outer(inverse, inverse))
    values = np.clip(values, 0, None)
    projected = vectors.T @ ((sums.xy - sums.count * np.outer(mean_x, mean_y)) * inverse[:, None])
    weights = np.stack(
        [inverse[:, None] * (vectors @ (projected / (values + penalty)[:, None])) for penalty in penalties]
    )
    return weights, mean_y - np.einsum("d,pdt->pt", mean_x, weights)


def _fit_on_few_rows(
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
    usable = spread > _CONSTANT
    inverse = np.where(usable, 1 / np.where(usable, spread, 1), 0.0)
    return (features - centre) * inverse, targets - targets.mean(axis=0), centre, inverse


def _duals(x: Floats, y: Floats, penalties: Sequence[float]) -> list[Floats]:
    """Return for each penalty the solution (n, T) in the space of the rows."""
    values, vectors = np.linalg.eigh(x @ x.T)
    values, projected = np.clip(values, 0, None), vectors.T @ y
    return [vectors @ (projected / (values + penalty)[:, None]) for penalty in penalties]
