"""Fit linear probes of classes: penalised multinomial logistic regression on standardised features."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import softmax
from sklearn.linear_model import LogisticRegression

from pipeline.evaluation.probes import centre_and_scale

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

_ITERATIONS = 1000


@dataclass(frozen=True)
class Standard:
    """Mean (D,) and standard deviation (D,) of training features, by which features are standardised."""

    centre: Floats
    scale: Floats

    @classmethod
    def of(cls, features: NDArray[np.float32]) -> Standard:
        """Return the standardisation of training features (n, D); a constant feature becomes 0 in all rows."""
        return cls(*centre_and_scale(features))

    def __call__(self, features: NDArray[np.float32]) -> Floats:
        """Return standardised features (n, D)."""
        return (features - self.centre) / self.scale


@dataclass(frozen=True)
class LogisticProbe:
    """Scores of classes: `features @ weights + intercept`, weights (D, K)."""

    weights: Floats
    intercept: Floats

    def predict(self, standard: Floats) -> Floats:
        """Return probability (n, K) of each class, for standardised features (n, D)."""
        return np.asarray(softmax(standard @ self.weights + self.intercept, axis=1))


def fit_logistic(standard: Floats, labels: Integers, classes: int) -> LogisticProbe:
    """Return the probe that minimises the weighted cross-entropy plus penalty / 2 * ||weights||².

    Rows are weighted so that every class counts alike, their weights summing to n. The penalty is 100 / (D K), as
    linear probes of pathology encoders are usually fitted (Chen et al., Nature Medicine 2024): nothing is chosen.

    Args:
        standard: (n, D) standardised features.
        labels: (n,) from 0 to K - 1, each class at least once.
        classes: K.
    """
    strength = standard.shape[1] * classes / 100
    if classes == 2:
        # scikit-learn then fits the difference of the two classes' weights, whose square is twice that of both.
        strength *= 2
    found = LogisticRegression(C=strength, class_weight="balanced", max_iter=_ITERATIONS).fit(standard, labels)
    weights, intercept = np.asarray(found.coef_.T, np.float64), np.asarray(found.intercept_, np.float64)
    if classes == 2:
        weights, intercept = np.hstack([-weights, weights]) / 2, np.concatenate([-intercept, intercept]) / 2
    return LogisticProbe(weights, intercept)
